"""From slices to points: the same slices give the same point, and every figure is that of the requests."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from corella_edge_runtime.bench.results import gathered, slo
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.gathered import point
from corella_edge_runtime.bench.results.histogram import at_rank, counted
from corella_edge_runtime.bench.results.points import Law, Rates, Try
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced
from known_machine import KnownMachine

SPOT = Spot(scenario="single", threshold="ratio:0.2")


def beside(**more: object) -> Meanwhile:
    return Meanwhile(**{"wall": 2.0, "noise": Noise(foreign=0.01), "llm_seconds": 0.5, **more})  # type: ignore[arg-type]


def requests() -> list[Seen]:
    easy = [Seen(0.1 * i, 0.001 * (i + 1), 10, stages={"crm": 0.001}) for i in range(6)]
    hard = [Seen(0.6 + 0.1 * i, 0.020, 10, 3, kept=1, evaluated=50, reused=7, stages={"crm": 0.001, "prefill": 0.015},
                 degraded={"busy": 2}) for i in range(3)]  # fmt: skip
    return [*easy, *hard, Seen(0.9, None), Seen(0.95, None, rejected=True)]


def test_figures_of_a_point() -> None:
    found = point([sliced(SPOT, 0, requests(), beside())], 0.2, 0.010, "no counters", Law())
    assert found.histogram.count == 9
    assert found.unrouted == counted([0.001 * (i + 1) for i in range(6)])
    assert found.share.value == pytest.approx(9 / 90)
    assert found.touched.value == pytest.approx(3 / 9)
    told = found.outcomes
    assert (told.requests, told.failed, told.rejected, told.late) == (11, 1, 1, 5)
    assert (told.easy, told.llm, told.kept, told.degraded) == (90 - 9 - 6, 6, 3, {"busy": 6})
    assert found.requests_per_s.value == pytest.approx(9 / 2.0)
    assert found.candidates_per_s.value == pytest.approx(90 / 2.0)
    assert found.goodput is not None
    assert found.goodput.value == pytest.approx(6 / 2.0)
    assert found.llm_ms_per_thousand == pytest.approx(0.5 / 11 * 1e6)
    stages = {stage.name: stage for stage in found.stages}
    assert stages["prefill"].ms == pytest.approx(3 * 15 / 11)
    assert (stages["prefill"].requests, stages["prefill"].p50) == (3, 15.0)
    assert found.energy.joules_per_thousand is None
    assert found.energy.why == "no counters"
    assert found.tokens_evaluated == pytest.approx(150 / 11)


def test_energy_and_noise_of_several_slices() -> None:
    found = ((Noise(foreign=0.5), 7), (Noise(foreign=None, steal=0.2), 9))
    slices = [sliced(SPOT, i, requests(), beside(joules=11.0, noise=noise, memory=size))
              for i, (noise, size) in enumerate(found)]  # fmt: skip
    found = point(slices, 0.2, None, "", Law())
    assert found.energy.joules_per_thousand == pytest.approx(1000.0)
    assert (found.noise.foreign, found.noise.steal) == (0.5, 0.2)
    assert found.memory_bytes == 9
    assert found.goodput is None
    assert len(found.repeats) == 2
    assert found.over_time[-1].at_s > 2.0
    assert sum(moment.requests for moment in found.over_time) == 22
    short = [sliced(SPOT, i, requests(), beside(wall=0.1)) for i in range(2)]  # more time passed between requests
    moments = [moment.at_s for moment in point(short, 0.2, None, "", Law()).over_time]
    assert moments == sorted(moments)


def test_noise_of_slices_counts_by_their_length() -> None:
    slices = [sliced(SPOT, i, requests(), beside(wall=wall, noise=Noise(foreign=foreign, steal=foreign)))
              for i, (wall, foreign) in enumerate([(1.0, 0.8), (3.0, 0.0)])]  # fmt: skip
    found = gathered.mean_noise(slices)
    assert (found.foreign, found.steal) == (pytest.approx(0.2), pytest.approx(0.2))
    unknown = [slices[0], sliced(SPOT, 2, requests(), beside(noise=Noise(foreign=None)))]
    assert gathered.mean_noise(unknown).foreign is None


def test_two_slices_hold_what_one_would() -> None:
    seen = requests()
    whole = point([sliced(SPOT, 0, seen, beside())], 0.2, None, "", Law())
    halves = point([sliced(SPOT, i, part, beside()) for i, part in enumerate((seen[:5], seen[5:]))], 0.2, None, "",
                   Law())  # fmt: skip
    assert halves.histogram == whole.histogram
    assert halves.share.value == whole.share.value
    assert halves.outcomes == whole.outcomes
    assert halves.latency.p90.value == whole.latency.p90.value


def searched(largest: float, failed: float | None, cut: bool = False) -> Rates:
    return Rates(largest=largest, first_failed=failed, tries=(Try(rate=largest, p99=1.0, held=True),), cut=cut)


def test_the_largest_rate_is_the_mean_of_the_rounds_and_holds_what_lies_between() -> None:
    assert gathered.searched([]) is None
    once = searched(4.0, 5.0)
    assert gathered.searched([once]) == once
    found = gathered.searched([once, searched(5.0, 6.3), searched(4.0, 5.0)])
    assert found is not None
    assert found.largest == pytest.approx((4.0 * 5.0 * 4.0) ** (1 / 3))
    assert found.low < 4.0
    assert found.high > 6.3
    assert len(found.tries) == 3
    same = gathered.searched([once] * 12)
    assert (same.largest, same.low, same.high) == pytest.approx((4.0, 4.0, 5.0))


def test_a_round_in_which_no_rate_held_reaches_down_to_nothing() -> None:
    found = gathered.searched([searched(4.0, 5.0), searched(0.0, 2.0)])
    assert found is not None
    assert (found.low, found.cut) == (0.0, False)
    unfinished = gathered.searched([searched(4.0, None), searched(4.0, 5.0)])
    assert (unfinished.largest, unfinished.first_failed, unfinished.low) == (4.0, None, None)


@pytest.mark.parametrize("cut", [searched(0.0, 50.0, cut=True), searched(50.0, None, cut=True)])
def test_a_round_that_was_cut_short_is_left_out_of_the_mean(cut: Rates) -> None:
    found = gathered.searched([cut, *[searched(100.0, 125.0)] * 11])
    assert found is not None
    assert (found.largest, found.low, found.high, found.first_failed) == pytest.approx((100.0, 100.0, 125.0, 125.0))
    assert (found.cut, len(found.tries)) == (True, 12)
    alone = gathered.searched([cut, cut])
    assert (alone.largest, alone.cut, alone.low) == (cut.largest, True, None)


def test_a_point_says_what_its_intervals_are_made_of() -> None:
    slices = [sliced(SPOT, i, requests(), beside(wall=wall)) for i, wall in enumerate((1.0, 2.0, 1.5))]
    assert point(slices[:1], 0.2, None, "", Law()).intervals == "blocks"
    found = point(slices, 0.2, None, "", Law())
    assert found.intervals == "repeats"
    assert found.requests_per_s.high > 9.0 > 4.5 > found.requests_per_s.low


def test_nobody_answered() -> None:
    found = point([sliced(SPOT, 0, [Seen(0.0, None)], beside())], 0.2, 0.01, "", Law())
    assert found.latency.p50.value is None
    assert found.outcomes.failed == 1
    assert gathered.llm_time([sliced(SPOT, 0, [], beside(llm_seconds=None))]) is None


TRUE = KnownMachine()
RETURNING = replace(TRUE, prefix=0.002)
RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def known(machine: KnownMachine, ratio: float, requests: int, **spot: str) -> Slice:
    """Requests one at a time of a machine whose law is known."""
    rng = np.random.default_rng([int(1000 * ratio), int(1e6 * machine.prefix)])
    where = Spot(**{"scenario": "single", "threshold": f"ratio:{ratio:g}", **spot})  # type: ignore[arg-type]
    return machine.slice(rng, where, ratio, requests)


def test_the_law_holds_on_requests_that_it_was_not_fitted_on() -> None:
    slices = [known(TRUE, ratio, 6000) for ratio in RATIOS]
    slices += [known(RETURNING, ratio, 6000, users="returning") for ratio in RATIOS]
    slices += [known(replace(TRUE, correlation=0.0), ratio, 6000, routing="random") for ratio in RATIOS[1:-1]]
    found = {one.spot: [one] for one in slices}
    told = slo.laws(found, {f"ratio:{ratio:g}": ratio for ratio in RATIOS})
    for spot, law in told.items():
        assert law.touched == pytest.approx(law.seen_touched, rel=0.15, abs=1e-12), spot
        assert law.p99 == pytest.approx(law.seen_p99, rel=0.15), spot
        assert law.independent >= law.touched - 1e-9
        assert law.seen_requests == 6000
    assert told[Spot(scenario="single", threshold="ratio:0.05", routing="random")].correlation == 0.0


def test_no_request_is_predicted_by_a_law_that_has_seen_it() -> None:
    """Every other request at 5 % is slow by chance: each half then says of the other what is wrong."""
    slices = {ratio: known(TRUE, ratio, 2000) for ratio in (0.0, 0.05, 1.0)}
    odd = slices[0.05]
    slow = tuple(10.0 * one if i % 2 else one for i, one in enumerate(odd.seconds) if one is not None)
    slices[0.05] = msgspec.structs.replace(odd, seconds=slow)
    told = slo.laws({one.spot: [one] for one in slices.values()}, {f"ratio:{ratio:g}": ratio for ratio in slices})
    law = told[odd.spot]
    slowest = [at_rank(np.array(slow[half::2]), 0.99) for half in (0, 1)]
    assert law.p99 == pytest.approx(1000.0 * np.mean(slowest), rel=0.1)
    assert law.seen_p99 > 1.3 * law.p99


def test_too_little_for_a_law_still_tells_what_independent_candidates_would_do() -> None:
    one = known(TRUE, 0.05, 50)
    law = slo.laws({one.spot: [one]}, {"ratio:0.05": 0.05})[one.spot]
    assert (law.p99, law.touched, law.correlation) == (None, None, None)
    assert law.independent is not None
    assert slo.laws({SPOT: [sliced(SPOT, 0, [Seen(0.0, None)], beside())]}, {"ratio:0.2": 0.2})[SPOT] == Law()
