"""`serve --target-ratio`, `--cap`, `--kept-answers`: options that contradict each other, metrics, drift, canaries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client import parser

from corella_edge.cli.serve import serve
from corella_edge.routing.gate import FIRST, Gate
from corella_edge.routing.measure import BY_ENTROPY, Band, entropy
from corella_edge.routing.policy import Calibration, Routing
from corella_edge.scores import Scores
from corella_edge_runtime.server.fleet import Fleet
from corella_edge_runtime.server.signals import TOGETHER, Signals
from fake_versions import Versioned, toy_bundle


def metric(text: str, name: str, **labels: str) -> float:
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            if (sample.name, sample.labels) == (f"corella_edge_{name}", labels):
                return sample.value
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target-ratio", "0.1", "--target-ms", "5"), "give one of --target-ratio and --target-ms"),
        (("--target-ratio", "0.1", "--threshold", "ratio:0.1"), "leave --threshold out"),
        (("--cap", "one-user=0.1"), "--cap needs --target-ratio or --target-ms"),
        (("--target-ratio", "0.1", "--cap", "everybody=0.1"), "one of new-items, new-users, one-user"),
        (("--target-ratio", "0.1", "--cap", "one-user=nan"), "SHARE from 0 to 1"),
        (("--target-ratio", "1.5"), "0<=x<=1"),
        (("--target-ratio", "0.1", "--window", "10 minutes"), "not a time such as 90s, 10m or 1h"),
        (("--target-ratio", "0.1", "--window", "1s"), "not between 10 and 86400 seconds"),
        (("--kept-answers", "-1"), "0<=x"),
        (("--kept-age", "31d"), "not between 1 and 2.592e+06 seconds"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_told_before_anything_is_opened(tmp_path, options, told) -> None:
    done = CliRunner().invoke(serve, [str(toy_bundle(tmp_path / "bundle")), *options])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_a_version_without_a_target_says_so(site: Any) -> None:
    text = site.metrics()
    for name in ("target_share", "target_llm_seconds", "held_share", "held_level", "held_frozen"):
        assert math.isnan(metric(text, name, bundle="fake@1"))
    assert metric(text, "kept_answers", bundle="fake@1") == 0
    assert math.isnan(metric(text, "measure_psi", bundle="fake@1"))


def test_what_a_target_has_come_to_is_told(site: Any) -> None:
    site.ranker.stats = lambda: {"target_share": 0.1, "held_share": 0.11, "held_frozen": 0.0, "kept_answer_hits": 3.0}
    text = site.metrics()
    assert metric(text, "target_share", bundle="fake@1") == 0.1
    assert metric(text, "held_share", bundle="fake@1") == 0.11
    assert metric(text, "held_frozen", bundle="fake@1") == 0
    assert metric(text, "kept_answer_hits_total", bundle="fake@1") == 3


def test_a_kept_answer_is_an_outcome_of_its_own(site: Any) -> None:
    scores = site.ranker._scores

    def kept(*args: Any, **options: Any) -> Scores:
        found = scores(*args, **options)
        found.reason = tuple(reason and "kept" for reason in found.reason)
        return found

    site.ranker._scores = kept
    site.rank({"user": {}, "candidates": [{"item": "a"}, {"item": "b"}], "threshold": "ratio:1"})
    assert metric(site.metrics(), "candidates_total", bundle="fake@1", outcome="kept") == 2
    assert site.service.recent.summary()["asked"] == 0


def answered(p: np.ndarray, routed: np.ndarray) -> Scores:
    llm = np.where(routed, 0.5, np.nan)
    number = len(p)
    return Scores(("x",) * number, p, llm, routed, ("",) * number, ((),) * number)


def test_the_signals_of_a_version_are_of_what_it_answered_lately() -> None:
    now, rng = [0.0], np.random.default_rng(0)
    routing = Routing(calibration=Calibration.fit(entropy(rng.beta(1, 6, 5000))))
    signals = Signals(lambda: now[0])
    for _ in range(2 * TOGETHER + 5):
        now[0] += 10.0
        signals.add("a", routing, BY_ENTROPY, answered(rng.beta(1, 6, 20), np.arange(20) < 4), {})
    for _ in range(2 * TOGETHER):
        now[0] += 10.0
        signals.add(
            "b", routing, BY_ENTROPY, answered(rng.beta(3, 4, 20), np.arange(20) < 4), {"item": 20, "genre": 20}
        )
    first, then = signals.of("a"), signals.of("b")
    assert first
    assert then
    assert first.psi < 0.05 < 0.25 < then.psi
    assert first.share(first.slow) == pytest.approx(0.2)
    assert (first.unknown["item"], then.unknown["item"], then.unknown["user"]) == (0.0, 1.0, 0.0)
    signals.keep({"b"})
    assert signals.of("a") is None


GATE = Gate("ridge", ("popularity",), (0.0,), (*[0.0] * FIRST, 1.0, 0.0))  # its value is the input itself


def by_gate(popularity: np.ndarray, known: bool = True) -> Scores:
    found = answered(np.full(len(popularity), 0.3), np.zeros(len(popularity), bool))
    found.inputs = {"popularity": popularity} if known else {}
    return found


def test_the_index_is_of_the_measure_that_the_policy_goes_by() -> None:
    rng = np.random.default_rng(1)
    values = Calibration.fit(rng.normal(5, 1, 5000), least=GATE.least)
    routing = Routing(calibration=Calibration.fit(np.full(50, 0.5)), measure=GATE, values=values)
    signals = Signals(lambda: 0.0)
    for _ in range(TOGETHER * 2):
        signals.add("like", routing, GATE, by_gate(rng.normal(5, 1, 20)), {})
        signals.add("other", routing, GATE, by_gate(rng.normal(7, 1, 20)), {})
        signals.add("unknown", routing, GATE, by_gate(rng.normal(7, 1, 20), known=False), {})
    like, other, unknown = (signals.of(name) for name in ("like", "other", "unknown"))
    assert like
    assert other
    assert unknown
    assert like.psi < 0.05 < 1.0 < other.psi
    assert math.isnan(unknown.psi)
    assert unknown.share(unknown.slow) == 0.0  # such requests count in all the rest


def test_a_band_has_its_index_from_the_probabilities() -> None:
    rng = np.random.default_rng(2)
    routing = Routing(probabilities=np.sort(rng.beta(2, 5, 1001)))
    signals, band = Signals(lambda: 0.0), Band(0.4, 0.6)
    for _ in range(TOGETHER * 2):
        signals.add("like", routing, band, answered(rng.beta(2, 5, 20), np.zeros(20, bool)), {})
        signals.add("other", routing, band, answered(rng.beta(5, 5, 20), np.zeros(20, bool)), {})
    like, other = signals.of("like"), signals.of("other")
    assert like
    assert other
    assert like.psi < 0.05 < 0.25 < other.psi


def test_the_metrics_have_the_signals(site: Any) -> None:
    site.rank({"user": {}, "candidates": [{"item": "a"}, {"item": "new-1"}], "threshold": "ratio:1"})
    text = site.metrics()
    assert metric(text, "routed_share", bundle="fake@1", window="fast") == 1.0
    assert metric(text, "unknown_share", bundle="fake@1", field="item") == 0.5
    assert math.isnan(metric(text, "llm_minus_base", bundle="fake@1"))


def test_a_whole_catalogue_is_no_sign_of_drift(site: Any) -> None:
    site.rank({"user": {}, "threshold": "ratio:1"})
    assert math.isnan(metric(site.metrics(), "routed_share", bundle="fake@1", window="fast"))


class Told:
    """A control that notes what it is told."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def share_of_users(self, share: float) -> None:
        self.shares.append(share)


def test_each_version_learns_its_part_of_the_users() -> None:
    fleet, live, canary = Fleet(), Versioned("toy@1"), Versioned("toy@2")
    live.control, canary.control = Told(), Told()  # type: ignore[assignment]
    fleet.install(live, "v1")  # type: ignore[arg-type]
    fleet.arrange(fleet.member(live, "v1"), fleet.member(canary, "v2"), 0.25)  # type: ignore[arg-type]
    fleet.arrange(fleet.member(canary, "v2"))  # type: ignore[arg-type]
    assert live.control.shares[:2] == [1.0, 0.75]  # type: ignore[attr-defined]
    assert live.control.shares[2:] in ([], [0.0])  # type: ignore[attr-defined]
    assert canary.control.shares == [0.25, 1.0]  # type: ignore[attr-defined]


def test_the_page_is_told_what_is_held(site: Any) -> None:
    assert site.call("GET", "/page/live").json()["target"] is None
    shown = {"share": 0.1, "held_share": 0.11, "frozen": ""}
    site.ranker.control = type("Control", (), {"shown": lambda self: shown})()
    assert site.call("GET", "/page/live").json()["target"] == shown
