"""The judge of kills finds what it is there to find, and a few kills go through."""

from __future__ import annotations

from pathlib import Path

import pytest

from kill_events import AppendFaults, StoreAlone, judge, kill_often


@pytest.mark.parametrize(
    ("acknowledged", "held", "found"),
    [
        (0, "", AppendFaults()),
        (2, "0a 0b 1a 1b", AppendFaults()),
        (1, "0a 0b 1a 1b", AppendFaults(unacknowledged_kept=1)),
        (2, "0a 0b", AppendFaults(lost=1)),
        (2, "", AppendFaults(lost=2)),
        (1, "0a", AppendFaults(torn=1)),
        (1, "0a 0b 1b", AppendFaults(torn=1)),
        (1, "0a 0b 0a 0b", AppendFaults(doubled=1, reordered=1)),
        (2, "1a 1b 0a 0b", AppendFaults(reordered=1)),
        (2, "0a 0b 1b 1a", AppendFaults(reordered=1)),
    ],
)
def test_the_judge_tells_what_became_of_appends(acknowledged: int, held: str, found: AppendFaults) -> None:
    assert judge(7, acknowledged, [f"7-{item[:-1]}-{item[-1]}" for item in held.split()]) == found


def test_a_few_kills_of_a_store_lose_nothing(tmp_path: Path) -> None:
    starts, found, early = kill_often(StoreAlone(tmp_path / "users.db"), 8, 0.05, 3)
    assert sum(starts.values()) > 0
    assert early == 1
    assert found.bad == 0
