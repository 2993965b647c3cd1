from __future__ import annotations

import contextlib
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.routing.forms import FORMS, OWN, PATTERN, Form, parse_share, parse_threshold, read_threshold
from corella_edge.routing.measure import LN2, NEVER, entropy, is_routed, routed_rows
from corella_edge.routing.policy import RATIOS, AskCost, Calibration, Routing, threshold_for

P = st.floats(0, 1)
TWENTY = Routing(calibration=Calibration.fit(np.linspace(0, LN2, 20)), cost=AskCost(10.0, 1.0))
BARE = Routing()
ENTROPIES = st.lists(st.floats(0, LN2) | st.sampled_from([0.0, 0.3, LN2]), min_size=1, max_size=60).map(np.asarray)


@given(P)
def test_entropy_is_bounded_and_symmetric(p: float) -> None:
    s = float(entropy(p))
    assert 0.0 <= s <= LN2
    assert s == pytest.approx(float(entropy(1.0 - p)), abs=1e-12)


@given(st.lists(P, min_size=2, max_size=9))
def test_entropy_rises_towards_one_half(values: list[float]) -> None:
    by_distance = np.sort(np.abs(np.asarray(values) - 0.5))
    s = entropy(0.5 + by_distance)
    assert (np.diff(s) <= 1e-12).all()


def test_entropy_at_its_ends() -> None:
    assert entropy([0.0, 0.5, 1.0, 5e-324]).tolist()[:3] == [0.0, LN2, 0.0]
    assert 0.5 * math.log(2) < float(entropy(0.25)) < LN2


@given(st.lists(P, min_size=1, max_size=20), st.floats(0, LN2))
def test_a_row_is_routed_exactly_from_the_threshold_on(values: list[float], threshold: float) -> None:
    s = entropy(values)
    assert is_routed(s, threshold).tolist() == [x >= threshold for x in s.tolist()]
    assert is_routed(s, s[0])[0]
    assert is_routed(s, 0.0).all()
    assert not is_routed(s, NEVER).any()


@given(ENTROPIES, st.floats(0, 1))
def test_the_wanted_share_is_routed_up_to_ties(s: Any, share: float) -> None:
    threshold = threshold_for(s, share)
    count = round(share * len(s)) if 0 < share < 1 else int(share) * len(s)
    routed = int(is_routed(s, threshold).sum())
    above = int((s > threshold).sum())
    assert routed >= count
    assert above < max(count, 1) or share >= 1.0


@given(ENTROPIES, st.sampled_from(RATIOS) | st.floats(0, 1))
def test_a_calibration_turns_a_share_into_a_threshold_up_to_ties(s: Any, share: float) -> None:
    threshold = Calibration.fit(s).threshold(share)
    routed = float(is_routed(s, threshold).mean())
    above = float((s > threshold).mean())
    step = 1.0 / len(s) + 0.001
    if share in (0.0, 1.0):
        assert routed == share
    else:
        assert above - step <= share <= routed + step


@given(ENTROPIES, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_a_larger_share_never_raises_the_threshold(s: Any, shares: list[float]) -> None:
    calibration = Calibration.fit(s)
    thresholds = [calibration.threshold(share) for share in sorted(shares)]
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.parametrize(
    ("shares", "thresholds"),
    [([0, 1], [0.5]), ([0.5], [0.1]), ([0, 0], [0.5, 0.1]), ([1, 0], [0.5, 0.1]), ([0, 1], [0.1, 0.5]),
     ([0, math.nan], [0.5, 0.1]), ([0, 1], [math.nan, 0.1]), ([[0, 1]], [[0.5, 0.1]])],
)  # fmt: skip
def test_an_impossible_calibration_is_refused(shares: Any, thresholds: Any) -> None:
    with pytest.raises(ValueError, match="shares"):
        Calibration(shares, thresholds)


def test_ratio_zero_never_and_ratio_one_always() -> None:
    for calibration in (None, Calibration.fit(np.linspace(0, LN2, 50))):
        routing = Routing(calibration=calibration)
        assert parse_threshold("ratio:0", routing).nats == NEVER
        assert parse_threshold("ratio:1", routing).nats == 0.0


@given(st.floats(0, LN2))
def test_a_bare_number_is_an_entropy(nats: float) -> None:
    assert parse_threshold(nats, BARE) == parse_threshold(str(nats), BARE)
    assert parse_threshold(nats, BARE).nats == nats
    assert parse_threshold(nats, BARE).reason == "entropy"


def test_a_ratio_goes_through_the_calibration() -> None:
    s = np.linspace(0.0, 0.6, 1000)
    found = parse_threshold(" ratio:0.05", Routing(calibration=Calibration.fit(s)))
    assert found.reason == "ratio"
    assert is_routed(s, found.nats).sum() == pytest.approx(50, abs=1)


MILLIONTHS = st.integers(0, 500_000)
# Nearer to a half, float64 itself has one entropy for several probabilities; (1e-7)² is more than its last digits.
DISTANCES = st.floats(0, 0.5) | MILLIONTHS.map(lambda n: n / 1e6)


@given(MILLIONTHS, st.lists(st.integers(0, 1_000_000), max_size=20))
def test_a_margin_routes_exactly_what_is_no_farther_from_one_half(margin: int, others: list[int]) -> None:
    edge = [500_000 - margin, 500_000 + margin]
    beside = [n for n in (edge[0] - 1, edge[1] + 1, 500_000) if 0 <= n <= 1_000_000]
    millionths = np.asarray(edge + beside + others)
    found = parse_threshold(f"margin:{margin / 1e6:f}", BARE)
    routed = is_routed(entropy(millionths / 1e6), found.nats)
    assert routed.tolist() == (np.abs(millionths - 500_000) <= margin).tolist()
    assert found.reason == "margin"


@given(DISTANCES, st.lists(P, max_size=20))
def test_a_margin_holds_for_any_probabilities_but_for_the_last_digits(distance: float, values: list[float]) -> None:
    p = np.asarray([0.5 - distance, 0.5 + distance, *values])
    routed, away = is_routed(entropy(p), parse_threshold(f"margin:{distance!r}", BARE).nats), np.abs(p - 0.5)
    assert routed[away <= distance].all()
    assert not routed[away**2 > distance**2 + 2e-15].any()


def test_a_margin_of_one_half_is_always_and_a_wider_one_routes_no_less() -> None:
    assert parse_threshold("margin:0.5", BARE).nats == parse_threshold("ratio:1", BARE).nats
    nats = [parse_threshold(f"margin:{tenths / 10}", BARE).nats for tenths in range(6)]
    assert nats == sorted(nats, reverse=True)


@given(st.sampled_from([form for form in FORMS if form.prefix]), st.data())
def test_what_the_schema_lets_pass_is_a_threshold(form: Form, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(PATTERN, fullmatch=True) | st.from_regex(form.prefix + form.digits, fullmatch=True))
    assert re.match(PATTERN, text)
    found, number = read_threshold(text)
    assert text.startswith(found.prefix)
    assert found.reason == parse_threshold(text, TWENTY).reason or found is OWN
    assert all(0.0 <= value <= found.most for value in number)


def test_the_schema_lets_every_usual_share_and_margin_pass() -> None:
    written = [f"ratio:{share:g}" for share in RATIOS] + ["margin:0", "margin:0.1", "margin:0.499", "margin:0.5"]
    assert all(re.match(PATTERN, text) for text in written)
    assert not any(re.match(PATTERN, text) for text in ("margin:0.51", "margin:1", "ratio:1.5", "ratio:0.1 ", "0.1"))


@pytest.mark.parametrize(
    ("text", "part"),
    [("0.7", "threshold: 0.7 is not an entropy in nats (0 to 0.6931); or is ratio:0.7"),
     ("margin:0.9", "margin: 0.9 is out of range; give a distance from 0.5 between 0 and 0.5"),
     ("3.0", "3.0 is not an entropy in nats (0 to 0.6931)"), ("half:0.1", "margin:DISTANCE"), (":0.1", "':0.1'"),
     ("margin:0.51", "margin: 0.51 is out of range"), ("margin:-0.1", "margin"), ("margin:", "margin: ''"),
     (-0.1, "-0.1"), ("nan", "nan"), ("inf", "inf"), ("", "''"), ("half", "half"),
     ("ratio:", "ratio"), ("ratio:2", "ratio: 2"), ("ratio:nan", "ratio"), ("ratio:-0.1", "ratio: -0.1"),
     ("ratio:0.5", "calibrated"), ("ratio: x", "ratio")],
)  # fmt: skip
def test_a_bad_threshold_is_refused_by_its_own_text(text: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_threshold(text, BARE)
    assert part in str(caught.value)


@given(st.text(max_size=12) | st.floats().map(str))
def test_any_text_is_a_threshold_or_an_input_error(text: str) -> None:
    for whole in (text, *(form.prefix + text for form in FORMS)):
        with contextlib.suppress(InputError):
            assert not math.isnan(parse_threshold(whole, TWENTY).threshold)
    with contextlib.suppress(InputError):
        assert 0.0 <= parse_share(text) <= 1.0


@given(st.lists(st.floats(0, 1), max_size=20), st.one_of(st.floats(0, LN2), st.just(math.inf)))
def test_routed_rows_are_those_whose_entropy_reaches_the_threshold(p: list[float], threshold: float) -> None:
    s = entropy(np.array(p))
    rows, unsure = routed_rows(np.array(p), threshold)
    assert rows.tolist() == np.flatnonzero(s >= threshold).tolist()
    assert unsure.tolist() == s[rows].tolist()
