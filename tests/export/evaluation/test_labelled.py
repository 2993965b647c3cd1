"""Prepared data as labelled rows: what stands for a request."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from corella_edge_export.evaluation.labelled import request_names

ROWS = st.lists(
    st.tuples(st.sampled_from(["u", "u day 1", "v"]), st.integers(0, 2), st.sampled_from("abc")), max_size=40
)


@given(ROWS)
def test_no_request_has_an_item_twice_and_every_one_is_of_a_user_s_day(rows: list[tuple[str, int, str]]) -> None:
    users, days, items = ([row[column] for row in rows] for column in range(3))
    names = request_names(users, days, items)
    assert len(set(zip(names, items, strict=True))) == len(rows)
    of = sorted({(name, user, day) for name, user, day in zip(names, users, days, strict=True)})
    assert [name for name, _ in groupby(of, lambda one: one[0])] == [name for name, _, _ in of]


def test_what_a_user_has_on_one_day_is_a_request() -> None:
    names = request_names(["u", "u", "u", "u", "u"], [3, 3, 3, 3, 4], ["a", "b", "a", "a", "a"])
    assert names == ["u day 3", "u day 3", "u day 3 (2)", "u day 3 (3)", "u day 4"]
