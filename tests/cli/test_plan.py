"""`plan`: what a benchmark's figures leave for the LLM, and what it says of figures that are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bench_results import result
from bundles import make_bundle
from corella_edge.routing import load
from corella_edge.routing.load import Box, Draws, Load, reached
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.gathered import point
from corella_edge_runtime.bench.results.points import Law
from corella_edge_runtime.bench.results.result import Result, encode, write
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced
from corella_edge_runtime.bench.results.slo import measured
from sessions import ONE, run, succeed

TRUE, CORRELATION, N, SPEED = Box(0.0012, 0.008, 0.0006, 0.1, 0.2), 0.15, 20, 10_000.0
RATIOS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PREFIX_TOKENS, SUFFIX_TOKENS = 60.0, 5.0


def benchmark(box: Box = TRUE, requests: int = 4000) -> Result:
    """What `benchmark` would have found on a machine with known costs, without anything that waits."""
    rng = np.random.default_rng(0)
    spots = {Spot(scenario="single", threshold=f"ratio:{ratio:g}"): ratio for ratio in RATIOS}
    points = tuple(
        point([slices(box, spot, ratio, requests, rng)], ratio, None, "", Law()) for spot, ratio in spots.items()
    )
    made = result(requests=50)
    return replace(made, points=points, ceilings=replace(made.ceilings, llm_tokens_per_s=SPEED))


def slices(box: Box, spot: Spot, ratio: float, requests: int, rng: np.random.Generator) -> Slice:
    chances = load.asked_chances(ratio, N, CORRELATION)
    asked = rng.choice(N + 1, size=requests, p=chances)
    crm = box.crm * np.exp(box.crm_spread * rng.standard_normal(requests))
    llm = np.where(asked > 0, box.prefix + box.suffix * asked, 0.0)
    took = crm + llm * np.exp(box.llm_spread * rng.standard_normal(requests))
    tokens = np.where(asked > 0, PREFIX_TOKENS + SUFFIX_TOKENS * asked, 0.0)
    seen = [Seen(0.0, *one) for one in zip(took.tolist(), [N] * requests, asked.tolist(), [0] * requests,
                                           tokens.astype(int).tolist(), strict=True)]  # fmt: skip
    return sliced(spot, 0, seen, Meanwhile(float(took.sum()), Noise()))


def test_the_costs_and_the_correlation_of_a_machine_are_found_again() -> None:
    found = measured(benchmark())
    for name in ("crm", "prefix", "suffix"):
        assert getattr(found.cold, name) == pytest.approx(getattr(TRUE, name), rel=0.06), name
    assert found.cold.llm_spread == pytest.approx(TRUE.llm_spread, rel=0.15)
    assert [one for _, one in found.correlations] == pytest.approx([CORRELATION] * 5, rel=0.35)
    assert found.warm.prefix == pytest.approx(TRUE.prefix - PREFIX_TOKENS / SPEED, rel=0.2)
    assert found.ratio(found.share(0.07)) == pytest.approx(0.07)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("qps", [1.0, 30.0])
def test_what_it_predicts_is_what_that_machine_does(share: float, qps: float) -> None:
    draws = Draws.of(np.random.default_rng(1), 60_000)
    found = measured(benchmark())
    said = reached(found.cold, Load(qps, N, found.correlations), share, draws)
    true = reached(TRUE, Load(qps, N, ((0.0, CORRELATION),)), share, draws)
    assert said.touched == pytest.approx(true.touched, rel=0.05)
    assert said.p99 == pytest.approx(true.p99, rel=0.15)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    make_bundle(root / "bundle")
    write(benchmark(), root)
    return root


def planned(place: Path, *args: str) -> Any:
    done = succeed("plan", place / "bundle", "--benchmark", place / "benchmark.json", "--json", *args)
    return json.loads(done.out)


def test_the_largest_share_holds_and_is_larger_for_returning_users_and_less_traffic(place: Path) -> None:
    busy, calm = (planned(place, "--slo", "p99=20ms", "--qps", qps) for qps in ("50", "5"))
    for told in (busy, calm):
        assert told["cold"]["best"]["p99"] <= 0.020
        assert told["cold"]["share"] <= told["warm"]["share"]
        assert told["cold"]["share"] == told["cold"]["best"]["share"]
    assert busy["cold"]["share"] < calm["cold"]["share"] < 1.0
    assert (
        planned(place, "--slo", "p99=20ms", "--qps", "50", "--candidates", "100")["cold"]["share"]
        < busy["cold"]["share"]
    )


def test_it_says_that_none_does(place: Path) -> None:
    args = ("plan", place / "bundle", "--benchmark", place / "benchmark.json", "--slo", "p99=1ms", "--qps", "50")
    text = succeed(*args).out
    assert "new users: no share holds; the base model alone has a p99 of" in text
    assert json.loads(succeed(*args, "--json").out)["cold"]["share"] is None


def test_the_policy_is_judged(place: Path) -> None:
    args = ("plan", place / "bundle", "--benchmark", place / "benchmark.json", "--slo", "p99=20ms", "--qps", "50")
    assert "does not hold" in succeed(*args, "--threshold", "ratio:0.9").out
    text = succeed(*args, "--threshold", "ratio:0").out
    assert text.count(": holds") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [({"format": 1}, "has format 1, and this version reads format 2"), ({"format": "x"}, "not a benchmark.json"),
     ({"points": []}, "it takes ratio 0 and two ratios above it"), ({"ceilings": None}, "damaged: ")],
)  # fmt: skip
def test_a_file_that_is_no_benchmark_is_refused(place: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({**json.loads(encode(result(requests=50))), **change}))
    done = run("plan", place / "bundle", "--benchmark", path, "--slo", "p99=20ms", "--qps", "50")
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_returning_users_are_taken_from_their_own_points(place: Path) -> None:
    made = benchmark()
    quick = benchmark(Box(TRUE.crm, 0.001, TRUE.suffix, 0.1, 0.2))
    own = tuple(replace(one, users="returning") for one in quick.points)
    found = measured(replace(made, points=(*made.points, *own)))
    assert found.warm.prefix == pytest.approx(0.001, abs=0.0006)
    assert found.cold.prefix == pytest.approx(TRUE.prefix, rel=0.06)


@pytest.mark.slow
def test_without_a_file_it_measures(place: Path) -> None:
    told = json.loads(
        succeed("plan", place / "bundle", "--slo", "p99=1s", "--qps", "0.1", "--seconds", "8", "--json", *ONE).out
    )
    assert told["box"]["cold"]["crm"] > 0.0
    assert told["box"]["cold"]["prefix"] + told["box"]["cold"]["suffix"] > 0.0
    assert math.isfinite(told["cold"]["alone"]["p99"])
