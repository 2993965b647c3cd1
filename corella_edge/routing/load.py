"""What a routed share costs in latency under load: share, candidates and their correlation → requests touched → p99.

Candidates of one request are not unsure independently of each other: one user is hard in whole. How many of N are asked
is beta-binomial (share s, intra-request correlation r); with r = 0 a request is touched with chance 1 - (1 - s)^N.
Requests arrive at random (Poisson). Each passes the base model, and a touched one then the LLM, whose work is the
prompt's common prefix and one suffix for each candidate asked; both are queues with one server, first come, first
served (M/G/1). The server's LLM packs waiting requests into one decode, which is at least as fast.

No form is assumed for how long work takes: its times are quantiles of what was measured, and those of the LLM belong to
the share that they were measured at. How slow the slowest are differs from share to share: with one candidate asked a
request costs what its user's prompt does, with twenty the differences between users are small beside the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}  # of an objective, in per cent
REQUESTS = 40_000  # simulated: 400 of them lie above the 99th percentile
# At which quantiles of times are kept; between them they are interpolated.
LEVELS = (
    *(0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96),
    *(0.97, 0.975, 0.98, 0.985, 0.9875, 0.99, 0.9925, 0.995, 0.9975, 0.999, 1.0),
)
_TRIED = 24  # shares that are tried for the largest that holds, before the bisection between two of them
_STEPS = 30  # of a bisection: the result is exact to 1e-9; half of them after that, to 1e-5
_MOST = 1.0 - 1e-9  # of a correlation
_LONGEST = 3600.0  # seconds


Times = tuple[float, ...]  # quantiles at `LEVELS`, relative to a cost; none: always the cost


@dataclass(frozen=True, slots=True)
class Box:
    """What one request costs on a machine, in seconds, and how its times are spread around that.

    Attributes:
        crm: of a request that asks nothing, the median.
        prefix: of the LLM's work before the first candidate; of a returning user, whose prefix is kept, the rest of it.
        suffix: of each candidate asked.
        crm_times: of a request that asks nothing, over `crm`.
        llm_times: by rising share, of the LLM's part of a request that asks, over prefix + suffix · asked of the same
            rank among those that ask; between shares each quantile is interpolated.
        requests: that were measured at each share, at the least.
    """

    crm: float
    prefix: float
    suffix: float
    crm_times: Times = ()
    llm_times: tuple[tuple[float, Times], ...] = ()
    requests: int = 0

    def times(self, share: float) -> Times:
        """Of the LLM's part at a share."""
        if not self.llm_times:
            return ()
        shares, found = zip(*self.llm_times, strict=True)
        return tuple(float(np.interp(share, shares, column)) for column in zip(*found, strict=True))

    def llm(self, share: float, rank: Floats, asked: Ints | Floats) -> Floats:
        """Seconds float64 [n] of the LLM's part of requests with `asked` [n] candidates, of a rank float64 [n] from 0
        to 1 among those that ask."""
        work: Floats = at(self.times(share), rank) * (self.prefix + self.suffix * asked)
        return work


Correlations = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives: requests a second, candidates of each, and the correlation of being asked within a request.

    The correlation is that of the candidates above a threshold, and so depends on it: (share, correlation) pairs by
    rising share, between which it is interpolated.
    """

    qps: float
    candidates: int
    correlations: Correlations = ()

    def correlation(self, share: float) -> float:
        """At a share; 0 where nothing is known."""
        if not self.correlations:
            return 0.0
        shares, found = zip(*self.correlations, strict=True)
        return float(np.interp(share, shares, found))


@dataclass(frozen=True, slots=True)
class Reached:
    """Percentiles of latency (`QUANTILES`) in seconds, the share of requests that ask the LLM, and the share of its
    time that it works.

    Where more arrives than one of the two models can do, the latencies are infinite.
    """

    share: float
    touched: float
    utilisation: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float

    def at(self, quantile: str) -> float:
        """Seconds at one of `QUANTILES`."""
        found: float = getattr(self, quantile.replace(".", ""))
        return found


@dataclass(frozen=True, slots=True)
class Draws:
    """The luck of a simulated stretch of traffic, float64 [n] each: shared by all that is compared on it.

    Attributes:
        gaps: between arrivals, of mean 1. ranks, crm: from 0 to 1, of how much is asked, and of the base model's time.
    """

    gaps: Floats
    ranks: Floats
    crm: Floats

    @classmethod
    def of(cls, rng: np.random.Generator, n: int = REQUESTS) -> Draws:
        return cls(rng.exponential(size=n), rng.random(n), rng.random(n))


def at(times: Times, rank: Floats) -> Floats:
    """Times float64 [n] of a rank float64 [n] from 0 to 1, relative to their cost."""
    return np.interp(rank, LEVELS, times) if times else np.ones(len(rank))


def asked_chances(share: float, n: int, correlation: float) -> Floats:
    """float64 [n + 1]: the chance that 0, 1, … n candidates of a request are asked."""
    if share <= 0.0 or share >= 1.0:
        certain: Floats = np.eye(n + 1)[n if share >= 1.0 else 0]
        return certain
    # Too little correlation for the beta's parameters to be told from infinity is none.
    weight = (1.0 - correlation) / correlation if correlation > 1e-9 else np.inf
    log = _log_rising(share, weight, n) + _log_rising(1.0 - share, weight, n)[::-1] + _log_choices(n)
    relative = np.exp(log - log.max())
    chances: Floats = relative / relative.sum()
    return chances


def _log_rising(mean: float, weight: float, n: int) -> Floats:
    """float64 [n + 1]: logs of the rising factorials of mean · weight, up to a factor a step; of mean^k without end."""
    steps = np.arange(n, dtype=np.float64)
    each = np.log(mean + steps / weight) if np.isfinite(weight) else np.full(n, np.log(mean))
    return np.concatenate([[0.0], np.cumsum(each)])


def _log_choices(n: int) -> Floats:
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    choices: Floats = logs[n] - logs - logs[::-1]
    return choices


def asked_of(chances: Floats, ranks: Floats) -> Ints:
    """int64 [m]: how many are asked in the requests of these ranks float64 [m] from 0 to 1, fewest first."""
    return np.searchsorted(np.cumsum(chances)[:-1], ranks, side="right")


def touched(share: float, n: int, correlation: float = 0.0) -> float:
    """The share of requests in which at least one of n candidates is asked."""
    return float(1.0 - asked_chances(share, n, correlation)[0])


def correlation(asked: Ints, sizes: Ints) -> float:
    """Intra-request correlation of requests with `asked` int64 [g] of `sizes` int64 [g] candidates, 0 to below 1.

    The analysis-of-variance estimator for groups of unequal size (Donald & Donner 1987; Ridout et al. 1999, Biometrics
    55, section 2.1). 0 where nothing varies: of one request, or if all or no candidates are asked.
    """
    groups, rows = len(sizes), int(sizes.sum())
    if groups < 2 or rows <= groups:
        return 0.0
    mean = asked.sum() / rows
    within = float((asked * (1.0 - asked / sizes)).sum()) / (rows - groups)
    between = float((sizes * (asked / sizes - mean) ** 2).sum()) / (groups - 1)
    size = (rows - float((sizes.astype(np.float64) ** 2).sum()) / rows) / (groups - 1)
    total = between + (size - 1.0) * within
    return float(np.clip((between - within) / total, 0.0, _MOST)) if total > 0.0 else 0.0


def correlation_of_touched(share: float, n: int, seen: float) -> float:
    """The correlation at which `seen` of the requests are touched at a share; 0 where as many are as without any."""
    if not 0.0 < share < 1.0 or n < 2 or seen >= touched(share, n):
        return 0.0
    low, high = 0.0, _MOST
    for _ in range(_STEPS):  # the more correlated, the fewer requests are touched
        middle = 0.5 * (low + high)
        low, high = (middle, high) if touched(share, n, middle) > seen else (low, middle)
    return 0.5 * (low + high)


def mean_wait(rate: float, mean: float, square: float) -> float:
    """Mean seconds in the queue of an M/G/1 server (Pollaczek and Khinchine): rate · E[S²] / 2(1 - rate · E[S])."""
    busy = rate * mean
    return rate * square / (2.0 * (1.0 - busy)) if busy < 1.0 else float("inf")


def ends(arrivals: Floats, work: Floats) -> Floats:
    """When each of n jobs is done, float64 [n] seconds: one server, first come, first served; `arrivals` rise."""
    done = np.cumsum(work)
    finished: Floats = done + np.maximum.accumulate(arrivals - (done - work))
    return finished


def reached(box: Box, load: Load, share: float, draws: Draws) -> Reached:
    """The latencies at a share. For the same `draws`, and a correlation and times that do not depend on the share, none
    of them falls as the share rises."""
    chances = asked_chances(share, load.candidates, load.correlation(share))
    asked = asked_of(chances, draws.ranks)
    hit, seen = asked > 0, float(1.0 - chances[0])
    # Of a request that asks, how long the base model took is in the LLM's part, as it was measured.
    crm = box.crm * np.where(hit, 1.0, at(box.crm_times, draws.crm))
    llm = np.zeros(len(hit))
    llm[hit] = box.llm(share, (draws.ranks[hit] - chances[0]) / max(seen, 1e-12), asked[hit])
    arrivals = np.cumsum(draws.gaps) / load.qps
    utilisation = load.qps * float(llm.mean())
    if max(utilisation, load.qps * float(crm.mean())) >= 1.0:
        return Reached(share, seen, utilisation, *[float("inf")] * len(QUANTILES))
    scored = ends(arrivals, crm)
    done = scored.copy()
    done[hit] = ends(scored[hit], llm[hit])
    return Reached(share, seen, utilisation, *np.percentile(done - arrivals, list(QUANTILES.values())).tolist())


def largest_share(box: Box, load: Load, quantile: str, limit: float, draws: Draws, most: float = 1.0) -> float | None:
    """The largest share at which a quantile (of `QUANTILES`) is at most `limit` seconds; None = not even 0.

    It is looked for from above: where times depend on the share, a smaller one need not be quicker.
    """

    def holds(share: float) -> bool:
        return reached(box, load, share, draws).at(quantile) <= limit

    if not holds(0.0):
        return None
    # Closer to each other where they are small.
    tried: list[float] = (most * np.linspace(1.0, 0.0, _TRIED) ** 2).tolist()
    place = next((i for i, share in enumerate(tried) if share == 0.0 or holds(share)), _TRIED - 1)
    if place == 0:
        return most
    low, high = tried[place], tried[place - 1]
    for _ in range(_STEPS // 2):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def costs(touched_share: Floats, asked: Floats, seconds: Floats) -> tuple[float, float]:
    """Seconds of a prefix and of a suffix, neither below 0, that fit mean seconds of the LLM's work best, relatively.

    Args:
        touched_share, asked, seconds: float64 [k], of each measured share: requests touched, candidates asked a
            request, and mean seconds a request beyond the base model's.
    """
    weight = 1.0 / np.maximum(seconds, 1e-6)
    a, b, y = touched_share * weight, asked * weight, seconds * weight
    aa, ab, bb, ay, by = float(a @ a), float(a @ b), float(b @ b), float(a @ y), float(b @ y)
    determinant = aa * bb - ab * ab
    if determinant > 1e-12 * aa * bb:
        prefix, suffix = (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant
        if prefix >= 0.0 and suffix >= 0.0:
            return prefix, suffix
        if suffix < 0.0 and aa:
            return max(0.0, ay / aa), 0.0
    return 0.0, max(0.0, by / bb) if bb else 0.0


def parse_slo(text: str) -> tuple[str, float]:
    """`p99=30ms` → ("p99", 0.03 seconds); the quantile is one of `QUANTILES`. Raises InputError."""
    names = "|".join(map(re.escape, QUANTILES))
    matched = re.fullmatch(rf"\s*({names})\s*=\s*([0-9]*\.?[0-9]+)\s*(ms|s)\s*", text)
    seconds = float(matched[2]) / (1000.0 if matched[3] == "ms" else 1.0) if matched else 0.0
    if matched is None or not 0.0 < seconds <= _LONGEST:
        raise InputError(f"slo: {text[:40]!r} is not a quantile and a time above 0 and up to an hour; write p99=30ms, "
                         f"with {', '.join(QUANTILES)}, and ms or s")  # fmt: skip
    return matched[1], seconds
