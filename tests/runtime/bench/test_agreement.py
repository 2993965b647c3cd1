"""Two runs of one thing on a machine that changes: how often their figures part, through the whole measuring path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

import bench_results
from corella_edge.catalog import Catalog
from corella_edge.request import Candidate, Candidates, Event, Request, User
from corella_edge.stopping import never
from corella_edge_runtime.bench.comparing.compare import compare
from corella_edge_runtime.bench.measure import budget, machine, provenance
from corella_edge_runtime.bench.measure.energy import Rapl
from corella_edge_runtime.bench.measure.scenarios import Bench
from corella_edge_runtime.bench.measure.supply import Source, Supply
from corella_edge_runtime.bench.results import figures, gathered
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.points import Law, Point
from corella_edge_runtime.bench.results.result import QualityLines
from corella_edge_runtime.bench.results.seen import Seen, Slice, Spot

Floats = npt.NDArray[np.float64]
COSTS = {"ratio:0": 0.08, "ratio:0.05": 0.15, "ratio:1": 0.30}  # seconds a request, without the drift
TOUCHED = {"ratio:0": 0.0, "ratio:0.05": 0.64, "ratio:1": 1.0}
RATIOS: dict[str, float | None] = {"ratio:0": 0.0, "ratio:0.05": 0.05, "ratio:1": 1.0}
BUDGET, PAUSE, REPEATS = 210.0, 240.0, 12  # seconds of a run and between two, and rounds
DRIFT, MEMORY = 0.10, 20.0  # standard deviation of the machine's slowness in its logarithm, and seconds it lasts
CATALOG = Catalog([str(i) for i in range(60)], [{}] * 60)
PAIRS = 20


def drifting(seed: int, seconds: int) -> Floats:
    """The machine's slowness, second by second: an autoregressive process around 1."""
    rng, keep = np.random.default_rng([seed, 7]), math.exp(-1.0 / MEMORY)
    found = np.empty(seconds)
    found[0] = DRIFT * rng.standard_normal()
    for second in range(1, seconds):
        found[second] = keep * found[second - 1] + DRIFT * math.sqrt(1 - keep**2) * rng.standard_normal()
    return np.exp(found)


class Drifting:
    """A target of known costs, in a time of its own: no time passes while it is asked."""

    measured, controls = "a machine that drifts", False

    def __init__(self, seed: int, slowness: Floats, began: float) -> None:
        self._rng, self._slowness, self._now = np.random.default_rng([seed, int(began)]), slowness, began

    def _took(self, body: bytes, at: float) -> float:
        threshold = next(name for name in COSTS if f'"threshold":"{name}"' in body.decode().replace(" ", ""))
        touched = self._rng.random() < TOUCHED[threshold]
        base = COSTS["ratio:0"] + touched * (COSTS[threshold] - COSTS["ratio:0"]) / max(TOUCHED[threshold], 1e-9)
        return float(base * self._slowness[int(at) % len(self._slowness)] * self._rng.lognormal(0.0, 0.1))

    def ask(self, body: bytes) -> Seen:
        took = self._took(body, self._now)
        self._now += took
        return Seen(0.0, took, 20)

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        seen, free = list[Seen](), 0.0
        for body, at in zip(bodies, moments, strict=True):
            begin = max(at, free)
            free = begin + self._took(body, self._now + begin)
            seen.append(Seen(at, free - at, 20))
        self._now += free
        return seen

    def at_random(self, share: float | None) -> None:
        pass

    def forget(self) -> bool:
        return True

    def llm_seconds(self) -> float | None:
        return None

    def memory(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def slices(seed: int, slowness: Floats, began: float) -> list[Slice]:
    """One run, as the command would measure it."""
    base = [Request(User(f"u{i}", {}, [Event("1")]), Candidates.of([Candidate("9")])) for i in range(8)]
    costs = {name: cost * float(slowness[int(began)]) for name, cost in COSTS.items()}
    bench = Bench(Drifting(seed, slowness, began), Supply(Source("", [], base, 5), CATALOG, 0), Rapl((), ""), RATIOS,
                  (0.9, 1.5), 0, costs=costs)  # fmt: skip
    spots = budget.spots(list(RATIOS), list(RATIOS.values()), ("single", "server", "offline"), ("new",), False, 0)
    shares = budget.plan(spots, costs, BUDGET, REPEATS, 1.5)
    return [bench.slice(spot, shares[spot], number) for number, spot in budget.in_turn(shares, 0)]


def points(found: Sequence[Slice]) -> tuple[Point, ...]:
    of_spot: dict[Spot, list[Slice]] = {}
    for one in found:
        of_spot.setdefault(one.spot, []).append(one)
    return tuple(gathered.point(parts, RATIOS[spot.threshold], 1.5, "", Law()) for spot, parts in of_spot.items())


def parted(pairs: Sequence[tuple[list[Slice], list[Slice]]], kind: str = "") -> tuple[int, int]:
    """Figures that differ, and those that are judged; `kind`: how their names end."""
    said = list[str]()
    for pair in pairs:
        results = [bench_results.result(points=points(one), quality=QualityLines()) for one in pair]
        said += [row.verdicts()[0] for row in compare(["a", "b"], results).rows if row.name.endswith(kind)]
    judged = [one for one in said if one != "not judged"]
    return sum(one != "no difference shown" for one in judged), len(judged)


@pytest.mark.slow
def test_two_runs_of_one_thing_agree_within_their_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 116 figures of a report fewer than one parts; with intervals of blocks of requests, many do."""
    monkeypatch.setattr(machine, "ticks", lambda whole=False: machine.Ticks(0.0, 0.0, 0.0, 0.0))
    monkeypatch.setattr(provenance, "noise", lambda *_: Noise())
    monkeypatch.setattr(figures, "DRAWS", 40)
    pairs = []
    for seed in range(PAIRS):
        slowness = drifting(seed, int(4 * BUDGET + PAUSE))
        first, second = slices(seed, slowness, 0.0), slices(seed, slowness, BUDGET + PAUSE)
        pairs.append((first, second))
    differ, judged = parted(pairs)
    assert judged > 12 * PAIRS
    assert differ * 116 < judged
    monkeypatch.setattr(figures, "between", lambda each: 1.0)
    differ, judged = parted(pairs, " ms")
    assert differ * 8 > judged


@pytest.mark.parametrize("lasting", [0.0, 0.3, 0.5])
def test_means_of_repeats_that_hang_together_part_seldom(lasting: float) -> None:
    """Of two runs that are alike, with 12 repeats each; `lasting` is how much of a state the next repeat still has."""
    rng, differ, number = np.random.default_rng(1), 0, 1000
    for _ in range(number):
        runs = rng.standard_normal((2, REPEATS))
        for place in range(1, REPEATS):
            runs[:, place] = lasting * runs[:, place - 1] + math.sqrt(1 - lasting**2) * runs[:, place]
        one, other = (figures.mean_of(np.exp(0.1 * run)) for run in runs)
        differ += one.low > other.high or other.low > one.high
    assert differ * 116 < number


@pytest.mark.slow
def test_every_point_is_measured_early_in_the_middle_and_late() -> None:
    slowness = np.ones(1000)
    found = slices(0, slowness, 0.0)
    rounds: dict[Spot, list[int]] = {}
    for one in found:
        rounds.setdefault(one.spot, []).append(one.repeat)
    assert len(rounds) == 9
    for numbers in rounds.values():
        assert (numbers[0], numbers[-1]) == (0, REPEATS - 1)
        assert len(numbers) >= budget.FEWEST
        assert max(np.diff(numbers)) - min(np.diff(numbers)) <= 1
