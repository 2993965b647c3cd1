"""What a benchmark measured of one point: a scenario at a threshold. Forms of `benchmark.json` (`result`).

Times are milliseconds unless a name says otherwise, shares are from 0 to 1, `None` is a figure that could not be had.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from corella_edge_runtime.bench.results.circumstances import Figure, Noise, Routing, Scenario, Users
from corella_edge_runtime.bench.results.histogram import Histogram


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of requests (Server: from the scheduled moment), each with an interval; see `Point.intervals`.

    Attributes:
        supported: names of the percentiles that have enough requests beyond them to be trusted.
    """

    p50: Figure
    p90: Figure
    p95: Figure
    p99: Figure
    p999: Figure
    max: Figure
    mean: Figure
    supported: tuple[str, ...] = ()


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a request's way.

    Attributes:
        name: wait (until somebody turned to the request), parse, encode, crm, policy, prompt (texts to tokens), queue
            (of the LLM), prefill, fuse, serialise, and other: what no clock covers, such as the way back from the
            LLM's thread. Over HTTP also turn, store and http (the way there and back) instead of other.
        ms: mean of all requests; p50 and p99 of those that passed it.
        requests: that passed it.
    """

    name: str
    ms: float
    p50: float | None = None
    p99: float | None = None
    requests: int = 0


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of requests and candidates.

    Attributes:
        requests: sent; of them `failed` had no answer, `rejected` were refused (HTTP 429, 503), `late` missed the SLO.
        easy: candidates answered by the CRM; llm: by the LLM; kept: by an answer of the LLM from earlier.
        degraded: routed, but without an answer of the LLM, by reason.
    """

    requests: int = 0
    failed: int = 0
    rejected: int = 0
    late: int = 0
    easy: int = 0
    llm: int = 0
    kept: int = 0
    degraded: dict[str, int] = msgspec.field(default_factory=dict)


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Joules a thousand requests of the whole CPU package by RAPL; None, and `why`, where it cannot be read."""

    joules_per_thousand: float | None = None
    why: str = ""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a run: seconds from its beginning to the stretch's end, requests, routed share, p50 and p99."""

    at_s: float
    requests: int
    share: float | None
    p50: float | None
    p99: float | None


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """One of the repeated measurements of a point."""

    requests: int
    seconds: float
    share: float | None
    p50: float | None
    p99: float | None
    requests_per_s: float
    noise: Noise


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that the search for the largest one tried: requests a second, what it came to, whether it held."""

    rate: float
    p99: float | None
    held: bool
    requests: int = 0


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The largest rate that keeps the SLO, by search: requests a second; 0 if none does.

    A rate at which more than 1 % of the routed candidates find the LLM too busy is not kept.

    Attributes:
        largest: of one slice a rate of the grid; of a point the geometric mean of what its repeats found.
        first_failed: the lowest rate above it that did not hold: the truth lies between. Of a point the mean again.
        low, high: 95 % interval over the repeats, with what lies between the two rates in it; None of one repeat.
        cut: the search did not come to its end, as its time was up, or nothing within its reach held, or failed. Of a
            point, that this is so of a repeat: the mean and the interval are of the others.
    """

    largest: float
    first_failed: float | None
    tries: tuple[Try, ...] = ()
    cut: bool = False
    low: float | None = None
    high: float | None = None


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """What the law of share, candidates and correlation says beside what was measured.

    Attributes:
        correlation: of being asked, of the candidates of one request, at this share.
        touched: predicted share of requests with a routed candidate; `independent` the same without correlation.
        p99: predicted, ms; None where the costs of this machine are not known, or more arrives than it can do.
        seen_touched, seen_p99: measured; the law was fitted on other requests, and is given the share of these, so that
            the law is judged and not the calibration.
        seen_requests: that they are of; None in reports of earlier versions, in which they are every other one.
    """

    correlation: float | None = None
    touched: float | None = None
    independent: float | None = None
    p99: float | None = None
    seen_touched: float | None = None
    seen_p99: float | None = None
    seen_requests: int | None = None


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measured point: a scenario, a threshold, who chooses the hard candidates, and which users come.

    Attributes:
        threshold: as asked for; `ratio` the share in it, None of a form that names no share.
        share: realised, of the candidates; `touched`, of the requests, those with a routed candidate.
        rate: requests a second that were sent, Server only.
        goodput: requests a second that were answered within the SLO.
        tokens_evaluated, tokens_reused: of the LLM, a request, in the mean.
        llm_ms_per_thousand: milliseconds of the LLM at work, a thousand requests.
        memory_bytes: greatest resident memory of the process and its children up to the end of this point; over HTTP
            the server's own at the end of it, without its LLM process.
        workers: processes that shared the work, Offline.
        intervals: what they are made of: `repeats`, each end the farther one of blocks of requests and of Student's t
            over the repeats; `blocks` of requests alone, where there is one repeat, and in files of earlier versions.
    """

    scenario: Scenario
    threshold: str
    ratio: float | None
    routing: Routing
    users: Users
    share: Figure
    touched: Figure
    latency: Latency
    histogram: Histogram
    requests_per_s: Figure
    candidates_per_s: Figure
    outcomes: Outcomes
    law: Law
    noise: Noise
    energy: Energy
    candidates: float
    seconds: float
    rate: float | None = None
    rates: Rates | None = None
    goodput: Figure | None = None
    unrouted: Histogram = Histogram()
    stages: tuple[Stage, ...] = ()
    tokens_evaluated: float = 0.0
    tokens_reused: float = 0.0
    llm_ms_per_thousand: float | None = None
    memory_bytes: int | None = None
    over_time: tuple[Moment, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    workers: int = 1
    intervals: Literal["blocks", "repeats"] = "blocks"

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What tells the points of a result apart."""
        return self.scenario, self.threshold, self.routing, self.users, self.workers
