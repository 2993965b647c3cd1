"""`plan`: what a benchmark's figures leave for the LLM, and what it says of figures that are none."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from bench_results import result
from bundles import make_bundle
from corella_edge.routing.load import Draws, Load, reached
from corella_edge_runtime.bench.results.gathered import point
from corella_edge_runtime.bench.results.points import Law
from corella_edge_runtime.bench.results.result import Result, encode, write
from corella_edge_runtime.bench.results.seen import Spot
from corella_edge_runtime.bench.results.slo import measured
from known_machine import PREFIX_TOKENS, KnownMachine
from sessions import ONE, run, succeed

TRUE, SPEED = KnownMachine(), 10_000.0
RATIOS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@cache
def benchmark(machine: KnownMachine = TRUE, requests: int = 4000) -> Result:
    """What `benchmark` would have found on a machine with known costs, without anything that waits."""
    rng = np.random.default_rng(0)
    spots = {Spot(scenario="single", threshold=f"ratio:{ratio:g}"): ratio for ratio in RATIOS}
    points = tuple(
        point([machine.slice(rng, spot, ratio, requests)], ratio, None, "", Law()) for spot, ratio in spots.items()
    )
    made = result(requests=50)
    return replace(made, points=points, ceilings=replace(made.ceilings, llm_tokens_per_s=SPEED))


def test_the_costs_and_the_correlation_of_a_machine_are_found_again() -> None:
    found = measured(benchmark())
    for name in ("crm", "prefix", "suffix"):
        assert getattr(found.cold, name) == pytest.approx(getattr(TRUE, name), rel=0.06), name
    assert [one for _, one in found.correlations] == pytest.approx([TRUE.correlation] * 5, rel=0.35)
    assert found.warm.prefix == pytest.approx(TRUE.prefix - PREFIX_TOKENS / SPEED, rel=0.2)
    assert found.ratio(found.share(0.07)) == pytest.approx(0.07)
    assert (found.cold.requests, found.warm.requests) == (4000, 4000)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("qps", [1.0, 30.0])
def test_what_it_predicts_is_what_that_machine_does(share: float, qps: float) -> None:
    found, rng = measured(benchmark()), np.random.default_rng(1)
    said = reached(found.cold, Load(qps, TRUE.n, found.correlations), share, Draws.of(rng))
    asked = TRUE.asked(rng, share, 40_000)
    assert said.touched == pytest.approx((asked > 0).mean(), rel=0.1)
    assert said.p99 == pytest.approx(np.percentile(TRUE.latencies(rng, asked, qps), 99), rel=0.15)


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


def test_it_says_that_too_few_requests_were_measured_for_the_quantile(place: Path) -> None:
    args = ("plan", place / "bundle", "--benchmark", place / "benchmark.json", "--qps", "5", "--slo")
    assert "not sure" not in succeed(*args, "p99=20ms").out
    assert (
        "new users: not sure, 4,000 requests were measured at a share, at the least, and p99.9 takes 10,000"
        in succeed(*args, "p99.9=30ms").out
    )


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
    quick = benchmark(dataclasses.replace(TRUE, prefix=0.001))
    own = tuple(replace(one, users="returning") for one in quick.points)
    found = measured(replace(made, points=(*made.points, *own)))
    assert found.warm.prefix == pytest.approx(0.001, abs=0.0006)
    assert found.cold.prefix == pytest.approx(TRUE.prefix, rel=0.06)


@pytest.mark.slow
def test_without_a_file_it_measures(place: Path) -> None:
    told = json.loads(
        succeed("plan", place / "bundle", "--slo", "p99=1s", "--qps", "0.1", "--seconds", "24", "--json", *ONE).out
    )
    assert told["box"]["cold"]["crm"] > 0.0
    assert told["box"]["cold"]["prefix"] + told["box"]["cold"]["suffix"] > 0.0
    assert math.isfinite(told["cold"]["alone"]["p99"])
