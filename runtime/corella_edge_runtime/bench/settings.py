"""What a benchmark is asked to do: its options, and the thresholds that its ratios are written as."""

from __future__ import annotations

from dataclasses import dataclass

from corella_edge.errors import InputError
from corella_edge.routing.forms import RATIO, parse_share, read_threshold
from corella_edge.routing.load import QUANTILES, parse_slo
from corella_edge_runtime.bench.results.circumstances import Scenario, Users

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SCENARIOS: tuple[Scenario, ...] = ("single", "server", "offline")
USERS: tuple[Users, ...] = ("new", "returning")


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure.

    Attributes:
        thresholds: as `serve` takes them; `as_thresholds` makes them of what a person writes.
        candidates: of requests that are made; those of a file stay as they are.
        slo: such as `p99=30ms`; None = no objective.
        budget: seconds for all that is timed.
        apart: mean seconds between requests of SingleStream, which then come at random moments, or when the one before
            is answered, if that is later; 0 = then. After a rest a request finds the processor's caches cold.
        repeats: rounds over the whole time; a point is measured once in each, or in fewer where the budget is short.
        max_labelled: rows to score for quality, at most.
        made_up: users are made up, even where the bundle has a sample.
        cores: processes of an Offline run besides the one; 0 or 1 = none.
    """

    thresholds: tuple[str, ...] = tuple(f"ratio:{ratio:g}" for ratio in RATIOS)
    scenarios: tuple[Scenario, ...] = SCENARIOS
    users: tuple[Users, ...] = USERS
    candidates: int = 20
    slo: str | None = None
    budget: float = 300.0
    apart: float = 0.0
    repeats: int = 12
    max_labelled: int = 2000
    made_up: bool = False
    cores: int = 0
    seed: int = 0
    controls: bool = True

    @property
    def objective(self) -> tuple[float, float] | None:
        """Quantile from 0 to 1, and seconds. Raises InputError."""
        if self.slo is None:
            return None
        quantile, seconds = parse_slo(self.slo)
        return QUANTILES[quantile] / 100.0, seconds

    @property
    def ratios(self) -> dict[str, float | None]:
        """The share in each threshold; None of one that names no share."""
        return {threshold: ratio_of(threshold) for threshold in self.thresholds}


def as_thresholds(text: str) -> tuple[str, ...]:
    """`0,5%,0.2,margin:0.1,policy` as thresholds: a bare number is a share; shares by size, then what is no share.

    Raises:
        InputError: one of them is none.
    """
    shares, others = set[float](), list[str]()
    for part in (part.strip() for part in text.split(",")):
        if ":" in part or part == "policy":
            form, numbers = read_threshold(part)
            if form is not RATIO:
                others.append(part)
                continue
            shares.add(numbers[0])
        elif part.endswith("%"):
            shares.add(parse_share(_percent(part)))
        else:
            shares.add(parse_share(part))
    return tuple([f"ratio:{share:.9g}" for share in sorted(shares)] + list(dict.fromkeys(others)))


def _percent(text: str) -> str:
    try:
        return f"{float(text[:-1]) / 100.0:.12g}"
    except ValueError:
        raise InputError(f"ratio: {text[:40]!r} is not a percentage such as 5%") from None


def ratio_of(threshold: str) -> float | None:
    """The share in `ratio:SHARE`."""
    form, numbers = read_threshold(threshold)
    return numbers[0] if form is RATIO else None
