"""The meaning of a history's numbers: seconds, an order, a scale. What can be put right is, and everything is told."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.history import EARLIEST, MAX_TIME, check_units, column, in_order, in_scale, sensible
from corella_edge.request import Event
from corella_edge.request_message import parse_request
from corella_edge_runtime.store.events import new_events, parse_events

TIMES = st.integers(EARLIEST, MAX_TIME)
NOW = 1_700_000_000


def check(times: list[float | None], ratings: list[float | None] | None = None, **options: Any) -> Any:
    return sensible(column(times), column(ratings or [None] * len(times)), **options)


@given(st.lists(TIMES, max_size=20))
def test_with_all_times_the_order_is_that_of_the_times_and_told_if_it_was_another(times: list[int]) -> None:
    order, notes = check(list(times))
    found = times if order is None else [times[i] for i in order]
    assert found == sorted(times)
    assert (order is None) == (times == sorted(times)) == (notes == [])
    if order is not None:
        assert sorted(order.tolist()) == list(range(len(times)))
        assert order.dtype == np.int64


@given(st.lists(st.tuples(TIMES, st.integers()), min_size=2, max_size=20, unique_by=lambda event: event[0]))
def test_a_history_turned_round_is_read_as_the_one_it_was(events: list[tuple[int, int]]) -> None:
    right = sorted(events + events[:2])  # two seconds with more than one event
    turned = right[::-1]
    order, notes = check([time for time, _ in turned])
    assert [turned[i] for i in order] == right
    assert "newest first" in notes[0]


@given(st.lists(TIMES, min_size=2, max_size=10), st.data())
def test_events_of_the_same_second_keep_their_order_when_sorted(times: list[int], data: st.DataObject) -> None:
    times = data.draw(st.permutations(times + times))
    order, _ = check(list(times))
    if order is not None and any(a < b for a, b in pairwise(times)):
        assert order.tolist() == sorted(range(len(times)), key=lambda i: times[i])


@given(st.lists(TIMES | st.none(), max_size=20))
def test_with_some_times_the_order_is_as_given_and_contradictions_are_told(times: list[int | None]) -> None:
    known = [time for time in times if time is not None]
    order, notes = check(list(times))
    if len(known) < len(times):
        assert order is None
        assert (notes == []) == (known == sorted(known))
        if notes:
            with pytest.raises(InputError, match=r"user\.history\[\d+\]\.time is earlier .* strict"):
                check(list(times), strict=True)


@given(st.lists(TIMES, min_size=1, max_size=20), st.data())
def test_a_time_in_other_units_is_refused_by_its_place(times: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(times) - 1))
    unit, factor = data.draw(st.sampled_from([("milli", 10**3), ("micro", 10**6), ("nano", 10**9)]))
    wrong = data.draw(st.integers(NOW - 10**8, NOW + 10**9)) * factor
    times[place] = wrong
    with pytest.raises(InputError, match=rf"^user\.history\[{place}\]\.time: {wrong:.0f} looks like {unit}seconds"):
        check(list(times))
    with pytest.raises(InputError, match=rf"events\[{place}\]\.time"):
        check_units(column(list(times)), "events")


@pytest.mark.parametrize("time", [MAX_TIME + 1, -(MAX_TIME + 1), 2**53, 10**18, -(10**18), 1e300])
def test_whatever_is_beyond_is_refused(time: float) -> None:
    with pytest.raises(InputError, match="times are Unix seconds"):
        check([time])


@pytest.mark.parametrize("time", [0, -1, EARLIEST - 1, 20_000, -MAX_TIME])
def test_before_1995_is_told_and_refused_where_strict(time: int) -> None:
    order, notes = check([time, NOW, NOW])
    assert order is None
    assert notes == [f"user.history[0].time: {time} is before 1995; times are Unix seconds"]
    assert check([time, time, time])[1][0].endswith("(and 2 more)")
    with pytest.raises(InputError, match=r"before 1995.*strict"):
        check([time, NOW], strict=True)


@given(st.lists(st.floats(-10, 10) | st.none(), max_size=10))
def test_ratings_outside_the_scale_are_told(ratings: list[float | None]) -> None:
    outside = [i for i, rating in enumerate(ratings) if rating is not None and not 1 <= rating <= 5]
    notes = in_scale(column(list(ratings)), (1.0, 5.0), "events")
    assert len(notes) == bool(outside)
    if outside:
        assert notes[0].startswith(f"events[{outside[0]}].rating: ")
        assert "1 to 5" in notes[0]
        assert ("more" in notes[0]) == (len(outside) > 1)
        with pytest.raises(InputError, match="strict"):
            in_scale(column(list(ratings)), (1.0, 5.0), "events", strict=True)
    assert in_scale(column(list(ratings)), None, "events", strict=True) == []


def test_an_order_that_can_be_put_right_is_no_error_even_if_strict() -> None:
    order, notes = in_order(column([3.0, 2.0, 1.0]), "user.history", strict=True)
    assert order is not None
    assert order.tolist() == [2, 1, 0]
    assert len(notes) == 1


def test_nothing_and_none_are_in_order() -> None:
    assert check([]) == (None, [])
    assert check([None, None], [math.nan, 3.0], scale=(1.0, 5.0)) == (None, [])


def history(*times: int | None) -> dict[str, Any]:
    events = [{"item": f"i{n}", **({} if time is None else {"time": time})} for n, time in enumerate(times)]
    return {"user": {"history": events}}


def test_a_request_is_read_by_the_rule() -> None:
    request = parse_request(history(NOW + 1, NOW))
    assert [event.item for event in request.user.history] == ["i1", "i0"]
    assert request.notes == ("user.history was newest first: it was turned round",)
    assert parse_request(history(NOW, None, NOW)).notes == ()
    with pytest.raises(InputError, match=r"user\.history\[1\]\.time: 1700000000000 looks like milliseconds"):
        parse_request(history(NOW, NOW * 1000))
    assert "before 1995" in parse_request(history(5, NOW)).notes[0]
    with pytest.raises(InputError, match="before 1995"):
        parse_request({**history(5, NOW), "strict": True})


def as_read(events: list[Event]) -> list[Event]:
    """The rule of the order, written plainly."""
    times = [event.time for event in events if event.time is not None]
    if len(times) < len(events) or times == sorted(times):
        return events
    return events[::-1] if times == sorted(times, reverse=True) else sorted(events, key=lambda event: event.time or 0)


@given(st.lists(st.builds(Event, st.text(min_size=1, max_size=3), time=st.none() | st.integers(-3, 3)), max_size=6))
def test_requests_and_new_events_are_put_in_order_alike(events: list[Event]) -> None:
    given = [{"item": event.item, **({} if event.time is None else {"time": event.time})} for event in events]
    assert list(parse_request({"user": {"history": given}}).user.history) == as_read(events)
    assert list(parse_events({"user_id": "u", "events": given}).events) == as_read(events)
    assert new_events("u", tuple(events)) == parse_events({"user_id": "u", "events": given})
