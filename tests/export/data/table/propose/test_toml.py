"""The text of a data.toml: whatever a file's columns are called, it is TOML and says what was meant."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from corella_edge_export.data.table.propose.proposal import questions
from corella_edge_export.data.table.propose.toml import WIDTH, WrittenSection, render

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUE = st.recursive(
    TEXT | st.booleans() | st.integers(-999, 999),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=3),
)


def written(*entries: tuple[str, Any, str]) -> str:
    section = WrittenSection("a")
    for key, value, why in entries:
        section.key(key, value, why)
    return render([section])


@given(TEXT, VALUE, TEXT)
def test_any_value_is_read_back(key: str, value: Any, why: str) -> None:
    assert tomllib.loads(written((key, value, why)))["a"] == {key: value}


@given(st.lists(TEXT, min_size=10, max_size=60))
def test_long_lists_stand_on_several_lines(values: list[str]) -> None:
    text = written(("names", values, ""))
    assert tomllib.loads(text)["a"]["names"] == values


def test_reasons_stand_behind_short_lines_and_above_long_ones() -> None:
    assert written(("x", 1, "short")) == "\n[a]\nx = 1  # short\n"
    lines = written(("x", 1, "long " * 40)).splitlines()
    assert lines[-1] == "x = 1"
    assert all(line.startswith("# ") and len(line) <= WIDTH for line in lines[2:-1])


def test_questions_are_listed_with_their_lines() -> None:
    section = WrittenSection("a")
    section.ask("time_unit", ("%d/%m/%Y", "%m/%d/%Y"), "both fit", "no number is above 12")
    text = render([section])
    assert questions(text) == ["line 4: time_unit: %d/%m/%Y | %m/%d/%Y — both fit"]
    assert tomllib.loads(text)["a"]["time_unit"].startswith("CHOOSE: ")
