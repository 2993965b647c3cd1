"""Histograms: what is read back is right to a part in 1,024, merging loses nothing, and JSON gives the same again."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.results.histogram import ERROR, MOST, Histogram, counted, least, merged, most, place

SECONDS = st.lists(st.floats(0.0, 1000.0), max_size=80)


@given(st.lists(st.integers(0, MOST - 1), min_size=1))
def test_a_value_lies_in_its_bucket_and_buckets_rise(values: list[int]) -> None:
    places = place(sorted(values)).tolist()
    assert places == sorted(places)
    for value, at in zip(sorted(values), places, strict=True):
        assert least(at) <= value <= most(at)
        assert most(at) - least(at) <= ERROR * max(least(at), 1)
        assert least(at + 1) == most(at) + 1


@given(SECONDS, SECONDS)
def test_merging_is_counting_together(one: list[float], other: list[float]) -> None:
    assert merged([counted(one), counted(other)]) == counted([*one, *other])
    assert merged([counted(one)]) == counted(one)
    assert merged([]) == Histogram()


@given(SECONDS.filter(len), st.floats(0.0, 1.0))
def test_a_quantile_is_the_value_at_its_rank_up_to_the_error(seconds: list[float], q: float) -> None:
    found = counted(seconds).quantile(q)
    whole = sorted(round(one * 1e9) for one in seconds)
    exact = whole[max(1, math.ceil(q * len(whole) - 1e-9)) - 1]
    assert exact <= round(found * 1e9) <= exact * (1.0 + ERROR)
    assert counted(seconds).quantile(1.0) == whole[-1] / 1e9


@given(SECONDS)
def test_mean_and_count_are_exact(seconds: list[float]) -> None:
    found = counted(seconds)
    assert found.count == len(seconds)
    if seconds:
        assert found.mean == pytest.approx(np.mean(seconds), abs=1e-9)
    else:
        assert math.isnan(found.mean)
        assert math.isnan(found.quantile(0.5))


@given(SECONDS, st.floats(0.0, 1000.0))
def test_what_is_within_a_time(seconds: list[float], limit: float) -> None:
    found = counted(seconds).within(limit)
    assert sum(one <= limit - 1e-9 for one in seconds) <= found
    assert found <= sum(one <= limit * (1 + ERROR) + 1e-9 for one in seconds)


@given(SECONDS)
def test_json_gives_the_same_again(seconds: list[float]) -> None:
    found = counted(seconds)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Histogram) == found


@pytest.mark.parametrize("bad", [[-1e-9 * 2], [math.inf], [math.nan], [2e7]])
def test_what_is_no_latency_is_not_counted(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="latency"):
        counted(bad)


@pytest.mark.parametrize("bad", [
    {"at": (2, 1), "counts": (1, 1), "high": 2}, {"at": (1,), "counts": (), "high": 2},
    {"at": (1,), "counts": (0,), "high": 1}, {"at": (1,), "counts": (1,), "low": 2, "high": 1}, {"bits": 8},
    {"at": (-1,), "counts": (1,)},
])  # fmt: skip
def test_a_damaged_histogram_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="histogram"):
        Histogram(**bad)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in bad.items()}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(plain), type=Histogram)
