"""How a benchmark's figures are chosen and written, in its report and in comparisons: one place for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from corella_edge.errors import InputError
from corella_edge.routing.load import parse_slo
from corella_edge_runtime.bench.results.circumstances import Figure, Noise, Scenario
from corella_edge_runtime.bench.results.figures import needed
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import QualityPoint, Result

NONE = "-"
PERCENTILES = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9", "max": "max"}
SCENARIOS: dict[Scenario, str] = {"single": "SingleStream", "server": "Server", "offline": "Offline"}
USERS = {"new": "new users", "returning": "returning users"}
METRICS = {"auc": "AUC", "uauc": "within-user AUC", "logloss": "log-loss", "ece": "ECE", "accuracy": "accuracy"}
STAGES = {"wait": "wait", "http": "HTTP", "parse": "parse", "store": "store", "turn": "turn", "encode": "encode",
          "crm": "base model", "policy": "policy", "prompt": "prompt", "queue": "queue", "prefill": "LLM",
          "fuse": "fuse", "serialise": "serialise", "other": "other"}  # fmt: skip
DIGITS = 3


def state(result: Result) -> tuple[str, str, list[str]]:
    """Whether the figures may be used: `quiet`, `noisy` or `void`, the words for it, and why."""
    quiet = result.quiet
    reasons = [sentence(words) for words in quiet.reasons] or [_elsewhere(quiet.during)]
    if result.verified.passed is False:
        why = f"The parity gate failed: {sentence(result.verified.why or 'the bundle scores otherwise here')}"
        return "void", "VOID", [why, "No figure below may be used."]
    if result.void:
        return "void", "VOID", [sentence(result.void), "No figure below may be used."]
    if quiet.noisy:
        return "noisy", "NOISY machine", [*reasons, "Repeat the run on a quiet machine before you decide by it."]
    return "quiet", "Quiet machine", [*reasons, _verified(result)]


def _elsewhere(noise: Noise) -> str:
    """Who else used the machine."""
    took = [(noise.foreign, "other processes"), (noise.steal, "other virtual machines")]
    known = [f"{share:.1%} went to {whom}" for share, whom in took if share is not None]
    return f"Of the cores' time {' and '.join(known)}."


def _verified(result: Result) -> str:
    found = result.verified
    if found.passed is None:
        return f"The parity gate was not run: {sentence(found.why or 'the bundle is not on this machine')}"
    return f"The parity gate passed: {found.rows:,} reference rows score as they should."


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def points(
    result: Result, scenario: str, users: str, routing: str = "policy", workers: int | None = None
) -> list[Point]:
    """Those of one curve, by their share; of as many processes as asked for, or as there are most of."""
    found = [point for point in result.points
             if (point.scenario, point.users, point.routing) == (scenario, users, routing)]  # fmt: skip
    most = max((point.workers for point in found), default=1) if workers is None else workers
    return sorted((point for point in found if point.workers == most), key=_rising)


def _rising(point: Point) -> tuple[float, float, str]:
    share = point.share.value or 0.0
    return (share if point.ratio is None else point.ratio, share, point.threshold)


def headline(result: Result) -> list[Point]:
    """The curve that the report leads with: new users one at a time, or what comes nearest to it."""
    for scenario in SCENARIOS:
        for users in ("new", "returning"):
            if found := points(result, scenario, users):
                return found
    return []


def asked(point: Point | QualityPoint) -> str:
    """What was asked for, short: a share in per cent, or the threshold as it was given."""
    if point.ratio is None:
        return point.threshold or NONE
    return f"{100 * point.ratio:.10g} %"


def brief(point: Point) -> str:
    """The same for a plot, where there is no room for long thresholds: what the share came to."""
    return asked(point) if point.ratio is not None else f"≈ {_rough(point)} %"


def _rough(point: Point) -> str:
    """The realised share in per cent, two digits."""
    share = 100.0 * (point.share.value or 0.0)
    return f"{share:.0f}" if share >= 9.5 else f"{share:.2g}"


def marks(found: Sequence[Point]) -> tuple[list[str], str]:
    """What stands at an axis of these points, and the axis' name: asked shares, else the realised ones."""
    if all(point.ratio is not None for point in found):
        return [f"{100 * (point.ratio or 0.0):.10g}" for point in found], "routed share asked for, %"
    return [_rough(point) for point in found], "realised routed share, %"


def matching(found: Iterable[Point], share: float) -> Point | None:
    """The point that asks for a share, or the one whose realised share is nearest to it."""
    return min(found, key=lambda point: abs(_rising(point)[0] - share), default=None)


def spread(point: Point, name: str) -> Figure:
    """A percentile of latency, or `requests_per_s`, with an interval that knows the repeats. Where it was made of
    blocks of requests alone, which say nothing of a machine that changes, it is widened to hold what each came to."""
    found: Figure = point.requests_per_s if name == "requests_per_s" else getattr(point.latency, name)
    if point.intervals == "repeats":
        return found
    each = [value for repeat in point.repeats if (value := getattr(repeat, name, None)) is not None]
    known = [end for end in (found.low, found.high) if end is not None]
    if found.value is None or len(each) < 2 or (not known and not _told(point, name)):
        return found
    return Figure(found.value, min(found.value, *known, *each), max(found.value, *known, *each))


def made_of(point: Point, repeats: int) -> str:
    """What the intervals of a curve know."""
    if point.intervals == "repeats":
        return (f", each end the farther one of blocks of requests and of Student's t over {repeats} rounds and over "
                "the early, the middle and the late part of the run")  # fmt: skip
    if repeats > 1:
        return f" over blocks of requests, widened to the range of the {repeats} repeats"
    return " over blocks of requests of one round, which knows nothing of a machine that changes"


def largest(point: Point) -> Figure | None:
    """The largest rate that keeps the objective; None where none was looked for. Of one search its interval is from the
    rate that held to the lowest above it that did not, if the search came to its end."""
    found = point.rates
    if found is None or found.cut or found.first_failed is None:
        return None if found is None else Figure(found.largest)
    if found.low is not None and found.high is not None:
        return Figure(found.largest, found.low, found.high)
    return Figure(found.largest, found.largest, found.first_failed)


def seen_by_law(point: Point) -> tuple[float | None, Figure]:
    """Share of touched requests and p99, ms, on the requests that the law is judged by; the interval of the p99 where
    these are all requests."""
    law = point.law
    touched = point.touched.value if law.seen_touched is None else law.seen_touched
    every_other = law.seen_p99 is not None and law.seen_requests is None  # reports of earlier versions
    return touched, Figure(law.seen_p99) if every_other else spread(point, "p99")


def judges_law(point: Point) -> bool:
    """Whether the requests that the law is judged by are enough for a p99."""
    law = point.law
    every_other = law.seen_p99 is not None and law.seen_requests is None
    requests = point.histogram.count // 2 if every_other else law.seen_requests or point.histogram.count
    return requests >= needed("p99")


def _told(point: Point, name: str) -> bool:
    return name == "requests_per_s" or name in point.latency.supported


def stages(found: Iterable[Point]) -> list[str]:
    """Names of the stages that any point has, in the order of a request's way."""
    given = dict.fromkeys(stage.name for point in found for stage in point.stages)
    return [name for name in STAGES if name in given] + [name for name in given if name not in STAGES]


def objective(slo: str | None) -> tuple[str, float] | None:
    """The percentile and the milliseconds of an SLO such as `p99=30ms`; None without one."""
    try:
        quantile, seconds = parse_slo(slo or "")
    except InputError:
        return None
    return quantile, 1000.0 * seconds


def digits(value: float | None, sign: str = "") -> str:
    """Three significant digits, more for thousands; `-` for None."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0.0:
        return f"{0:{sign}}"
    size = math.floor(math.log10(abs(value)))
    return f"{value:{sign},.{min(6, max(0, DIGITS - 1 - size))}f}"


def millions(count: int) -> str:
    """A number of parameters."""
    return f"{count / 1e6:,.0f} M" if count >= 1e7 else f"{count / 1e6:.2g} M"


def figure(found: Figure | None, sign: str = "") -> str:
    """A value with its interval, both at the value's precision."""
    return NONE if found is None else _with(found, lambda value: digits(value, sign))


def percent(found: Figure | None) -> str:
    """A share with its interval."""
    return NONE if found is None else _with(found, per_cent)


def per_cent(value: float | None) -> str:
    """A share, with a digit more where it is small."""
    return NONE if value is None else f"{100 * value:.{2 if 0 < abs(value) < 0.0995 else 1}f} %"


def fine(found: Figure | None, sign: str = "") -> str:
    """A metric of quality with its interval, four decimals."""
    return NONE if found is None else _with(found, lambda value: f"{value:{sign}.4f}")


def _with(found: Figure, written: Callable[[float], str]) -> str:
    if found.value is None:
        return NONE
    if found.low is None or found.high is None:
        return written(found.value)
    return f"{written(found.value)} [{written(found.low)}, {written(found.high)}]"


def many(value: float | None) -> str:
    """A count or a rate with commas."""
    return NONE if value is None else f"{value:,.0f}" if abs(value) >= 100 or value == 0 else digits(value)
