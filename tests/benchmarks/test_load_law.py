"""The interval of the load law's p99 is that of every benchmark's; what the script says of a run is on the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import load_law
from bundles import make_bundle
from corella_edge_runtime.bench.results.figures import latency
from corella_edge_runtime.bench.results.histogram import counted
from corella_edge_runtime.bench.results.seen import Seen
from load_law import conclusion, interval, verdict

DOCS = Path(__file__).parents[2] / "docs"


def rounds(scales: list[float], requests: int) -> list[list[Seen]]:
    """Latencies of a round are those of another one, times its scale; one request of each had no answer."""
    drawn = np.random.default_rng(5).lognormal(-4.0, 0.5, (len(scales), requests))
    return [[Seen(0.0, None, 1), *(Seen(0.0, s, 1) for s in (scale * row).tolist())]
            for scale, row in zip(scales, drawn, strict=True)]  # fmt: skip


def test_the_interval_is_that_of_a_benchmark_of_these_rounds() -> None:
    given = rounds([1.0, 1.0, 1.5], 400)
    each = [np.array([one.seconds for one in seen if one.seconds is not None]) for seen in given]
    p99 = latency(each, counted(np.concatenate(each))).p99
    assert interval(given) == pytest.approx((p99.low / 1000.0, p99.high / 1000.0))


def test_one_slow_round_of_many_does_not_become_an_end_of_the_interval() -> None:
    low, high = interval(rounds([1.0] * 23 + [8.0], 100))
    slow = interval(rounds([8.0] * 3, 400))
    assert low < high < slow[0]


def test_too_few_requests_have_no_interval() -> None:
    assert interval(rounds([1.0, 1.0], 50)) == (None, None)


def ratio(p99: float, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    """Of one ratio, whose prediction is 20 ms and half of the requests."""
    seen = {"touched": 0.51, "p99": p99, "p99_low": low, "p99_high": high}
    return {"ratio": 0.05, "measured": seen, "predicted": {"touched": 0.5, "p99": 0.02}, "enough": True,
            "met": abs(p99 - 0.02) <= 0.15 * 0.02, "other": {"foreign": 0.01, "steal": 0.0}, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (ratio(0.0229, 0.02, 0.03), "yes"),
        (ratio(0.024, 0.0225, 0.03), "no, but the interval reaches it"),
        (ratio(0.024, 0.0235, 0.03), "no"),
        (ratio(0.014, 0.012, 0.0165), "no"),
        (ratio(0.014, 0.012, 0.0175), "no, but the interval reaches it"),
        (ratio(0.048), "no"),
        (ratio(0.02, enough=False, met=False), "not known: too few requests for a p99"),
    ],
)
def test_the_verdict_of_a_share(one: dict[str, Any], said: str) -> None:
    assert verdict(one, 0.15) == said


def test_an_interval_of_the_p99_excuses_no_wrong_share_of_requests() -> None:
    one = ratio(0.024, 0.0225, 0.03)
    one["measured"]["touched"] = 0.7
    assert verdict(one, 0.15) == "no"


def test_the_conclusion_names_what_does_not_hold() -> None:
    found = {"within": 0.15, "ratios": [ratio(0.021), ratio(0.048)]}
    assert conclusion(found) == (
        "Requests touched and p99 within 15% of the prediction at 1 of 2 shares; "
        "not shown at ratio:0.05 (touched +2%, p99 +140%)."
    )
    assert conclusion({**found, "ratios": [ratio(0.021)]}).endswith("at 1 of 1 shares.")


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Path]:
    """The script on a real engine, with few requests."""
    bundle, out = make_bundle(tmp_path / "bundle"), tmp_path / "results" / "cpu" / "load-law.json"
    options = ["--qps", "200", "--requests", "40", "--rounds", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["load_law.py", str(bundle), *options])
    return load_law.main(), out


def test_what_a_run_says_is_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load_law, "is_void", lambda load: False)
    monkeypatch.syspath_prepend(str(DOCS))
    import routing_page

    code, out = run(tmp_path, monkeypatch)
    kept, printed = json.loads(out.read_text()), capsys.readouterr()
    assert code == 0
    assert [one["ratio"] for one in kept["ratios"]] == list(load_law.RATIOS)
    assert len(printed.out.splitlines()) == 1  # one JSON object
    page = "\n".join(routing_page.law(tmp_path / "results"))
    assert conclusion(kept) in printed.err
    assert page.endswith(conclusion(kept))
    assert page.count("| not known: too few requests for a p99 |") == len(load_law.RATIOS)  # it takes 1,000
    assert "40 requests in 2 rounds" in page


def test_a_run_beside_other_work_is_void_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load_law, "is_void", lambda load: True)
    code, out = run(tmp_path, monkeypatch)
    assert code == 1
    assert not out.exists()
    assert "load_law: void: others took " in capsys.readouterr().err
