"""What asking costs: from timed requests to milliseconds of the first candidate and of each further one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import ITEMS, make_bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge_runtime.llm.ask_cost import ROUNDS, cost_of, users

MS = st.floats(0.01, 1e5)


@given(st.lists(MS, min_size=1, max_size=5), st.lists(MS, min_size=1, max_size=5), st.integers(1, 20))
def test_the_quickest_requests_count_and_nothing_costs_less_than_nothing(
    single: list[float], several: list[float], more: int
) -> None:
    found = cost_of(single, several, more)
    assert found is not None
    assert found.first == min(single)
    assert found.further >= 0.0
    assert found.first + more * found.further == pytest.approx(max(min(single), min(several)))


@pytest.mark.parametrize(("single", "several"), [([], []), ([1.0, math.inf], [2.0]), ([1.0], [math.inf])])
def test_without_every_answer_there_is_no_cost(single: list[float], several: list[float]) -> None:
    assert cost_of(single, several, 3) is None


@pytest.mark.parametrize("sample", [True, False])
def test_the_users_differ_and_have_histories(tmp_path: Path, sample: bool) -> None:
    root = make_bundle(tmp_path / "bundle")
    opened = Bundle.open(root)
    _, catalog = opened.schema()
    count = 1 + 2 * ROUNDS if sample else 10_000  # more than the sample has: they are made up
    found = users(opened, catalog, count)
    assert len(found) == count
    assert all(len(user.history) <= ITEMS for user in found)
    if sample:
        assert len({user.id for user in found}) == count
