"""The tolerance that an export writes is one that `verify` accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from corella_edge_export.bundling.verify import BATCHED_TOLERANCE, TEXT_TOLERANCE, allowed


@given(st.floats(0, 1), st.sampled_from([BATCHED_TOLERANCE, TEXT_TOLERANCE]))
def test_a_tolerance_holds_what_was_found_and_is_at_most_1(found: float, least: float) -> None:
    """A type of few bits may move a probability by more than a half."""
    tolerance = allowed(least, found)
    assert max(found, least) <= tolerance <= 1.0
    assert tolerance == pytest.approx(2 * found) or tolerance in (least, 1.0)
