from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.features.lookup import LARGE, MANY, Lookup

IDS = {f"i{row}": row for row in range(LARGE)}
TABLE = Lookup(IDS)


class Crowded(str):
    """Texts of different hashes that all end alike, so that they share one place of any table."""

    __slots__ = ()

    def __hash__(self) -> int:
        return int(self) << 40


@settings(max_examples=50)
@given(st.lists(st.sampled_from([*IDS]) | st.text(max_size=4), max_size=3 * MANY))
def test_rows_are_those_of_the_dict(ids: list[str]) -> None:
    rows = TABLE.rows(ids)
    assert rows.dtype == np.int64
    assert rows.tolist() == [IDS.get(item, LARGE) for item in ids]


@pytest.mark.parametrize("count", [0, 1, LARGE - 1, LARGE, 5 * LARGE])
def test_every_id_of_a_catalogue_is_found_and_no_other(count: int) -> None:
    row_of = {f"{row:x}": row for row in range(count)}
    things = [*row_of, "nowhere", ""]
    assert Lookup(row_of).rows(things).tolist() == [*range(count), count, count]


def test_ids_that_share_a_place_are_told_apart() -> None:
    row_of: dict[str, int] = {Crowded(row): row for row in range(LARGE)}
    asked = [Crowded(row) for row in range(LARGE + 5)]
    assert Lookup(row_of).rows(asked).tolist() == [*range(LARGE), *[LARGE] * 5]
