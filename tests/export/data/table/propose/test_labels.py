"""How a row gets its label: what is decided, and what is asked."""

from __future__ import annotations

import polars as pl
import pytest

from corella_edge_export.data.table.propose.labels import find_silent, propose_cut, twin_of_rating


def test_the_cut_is_the_one_next_to_one_half_above_the_middle() -> None:
    cut = propose_cut(pl.Series([1.0, 2, 3, 3, 4, 4, 4, 5, 5, 5]))
    assert (cut.above, cut.share) == (3.0, 0.6)
    assert "above 4: 30.0%" in cut.told
    # Nearly all are fives: the cut goes up.
    assert propose_cut(pl.Series([1.0, 2, 3, 4, *[5.0] * 6])).above == 4.0


@pytest.mark.parametrize(
    ("values", "silent"),
    [
        ([0.0] * 60 + [1.0, 5, 7, 8, 9, 10] * 4, 0.0),
        ([0.0] * 2 + [1.0, 2, 3, 4, 5] * 20, None),  # the worst mark of a scale from 0
        ([-1.0] * 3 + [1.0, 5, 7] * 9, -1.0),
        ([1.0, 2, 3, 4, 5] * 9, None),
        ([0.0, 0.5, 1.0, 1.5] * 9, None),
    ],
)
def test_a_value_that_says_nothing(values: list[float], silent: float | None) -> None:
    found = find_silent(pl.Series(values))
    assert (found[0] if found else None) == silent


def test_a_column_that_the_rating_decides() -> None:
    rating = pl.Series([1.0, 2, 3, 4, 5, None])
    assert twin_of_rating(pl.Series([0, 0, 0, 1, 1, 1]), rating) == 3.0
    assert twin_of_rating(pl.Series([0, 1, 0, 1, 1, 1]), rating) is None
