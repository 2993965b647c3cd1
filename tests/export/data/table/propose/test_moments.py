"""Units and patterns of times: recognised where they are certain, asked where two fit."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge_export.data.table.propose.columns import ColumnFacts
from corella_edge_export.data.table.propose.moments import Moments, find_moments, whole_days
from corella_edge_export.data.table.propose.rows import made_up_step

TIMES = [1_600_000_000 + 86_399 * step for step in range(60)]


def found(values: list[object], name: str = "time", kind: str = "") -> Moments | None:
    return find_moments(
        ColumnFacts(name, pl.Series(name, [None if v is None else str(v) for v in values], pl.String), kind)
    )


@pytest.mark.parametrize(("unit", "many"), [("s", 1), ("ms", 1000), ("us", 1_000_000)])
def test_units_are_told_by_their_size(unit: str, many: int) -> None:
    moments = found([t * many for t in TIMES], "x")
    assert moments is not None
    assert (moments.unit, moments.others, moments.seconds.to_list()) == (unit, (), TIMES)


PATTERNS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M", "%Y%m%d",
            "%m/%d/%Y %I:%M:%S %p", "%d-%b-%Y", "%m %d, %Y", "%B %d, %Y", "%Y-%m-%d %H:%M:%S%z",
            "%d/%m/%y"]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PATTERNS), st.lists(st.integers(946_684_800, 1_700_000_000), min_size=3, max_size=20))
def test_a_pattern_that_wrote_the_values_is_found(pattern: str, times: list[int]) -> None:
    moments = found([datetime.fromtimestamp(t, UTC).strftime(pattern) for t in times])
    assert moments is not None
    # May is its own short form, and a short form of other months is none of these.
    assert pattern in (moments.unit, *moments.others) or {moments.unit, pattern} == {"%b %d, %Y", "%B %d, %Y"}
    if moments.unit == pattern:
        assert [t // 86_400 for t in moments.seconds.to_list()] == [t // 86_400 for t in times]


def test_a_number_above_12_is_a_day() -> None:
    days = found(["3/4/2020", "3/14/2020", "4/5/2020"])
    months = found(["3/4/2020", "14/3/2020", "5/4/2020"])
    assert days is not None
    assert months is not None
    assert (days.unit, days.others) == ("%m/%d/%Y", ())
    assert (months.unit, months.others) == ("%d/%m/%Y", ())
    assert "goes to 14, so it is the day" in days.why


def test_day_and_month_that_cannot_be_told_apart_are_asked() -> None:
    moments = found(["3/4/2020", "5/6/2020", "7/8/2020"])
    assert moments is not None
    assert (moments.unit, moments.others) == ("%m/%d/%Y", ("%d/%m/%Y",))


def test_seconds_and_milliseconds_in_one_column_are_asked() -> None:
    moments = found([t * (1000 if t % 3 else 1) for t in TIMES], "timestamp")
    assert moments is not None
    assert {moments.unit, *moments.others} == {"s", "ms", "none"}
    assert moments.seconds.drop_nulls().max() < 2_000_000_000


def test_small_numbers_in_a_column_of_times_are_asked() -> None:
    moments = found(list(range(0, 90_000, 700)), "timestamp")
    assert moments is not None
    assert moments.others == ("none",)


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3, 4], ["0425115801", "0449006522", "0553561618"], ["9780425115800", "9780449006520"], ["a", "b"],
     [1995, 1996], ["1.5.2", "2.6.3"]],
)  # fmt: skip
def test_what_is_no_time(values: list[object]) -> None:
    assert found(values, "code") is None


def test_days_have_no_order_within() -> None:
    assert whole_days(pl.Series([86_400, 172_800, None]))
    assert not whole_days(pl.Series([86_400, 172_801]))


def test_the_type_of_a_parquet_column_says_it() -> None:
    moments = found(["2020-01-02 03:04:05.000000", "2020-01-03 00:00:00.000000"], kind="moment")
    assert moments is not None
    assert (moments.unit, moments.seconds[0]) == ("timestamp", 1_577_934_245)


def test_times_that_a_program_filled_in() -> None:
    user = pl.Series(["a"] * 60)
    assert made_up_step(user, pl.Series([1_600_000_000 + 20 * step for step in range(60)])) == (20, 1.0)
    assert made_up_step(user, pl.Series(TIMES) + pl.Series([step * step for step in range(60)])) is None
