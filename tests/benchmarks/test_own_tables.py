"""The tables of `benchmarks/own_tables.py`: answers to init's questions, steps that are not repeated, what is kept."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import own_tables
from corella_edge.errors import InputError
from scenarios import tallrec

ROOT = Path(__file__).parents[2]


def test_answers_take_the_place_of_questions() -> None:
    proposed = 'a = 1\ntime_unit = "CHOOSE: %m/%d | %d/%m — both fit"\n'
    line = (r'time_unit = "CHOOSE: .*', 'time_unit = "%m/%d"')
    assert own_tables.answered(proposed, (line,)) == 'a = 1\ntime_unit = "%m/%d"\n'
    with pytest.raises(InputError, match="nothing answers 'time_unit"):
        own_tables.answered(proposed, ())
    with pytest.raises(InputError, match="init writes no line"):
        own_tables.answered(proposed, (line, ("zone = .*", "")))


def test_a_step_whose_work_is_there_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        done.append(command[3:])
        Path(command[-1]).mkdir(parents=True)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(own_tables.subprocess, "run", run)
    place = own_tables.CaseFolder(tmp_path / "case")
    for _ in range(2):
        place.step("prepare", place / "data", "prepare", "table", "--out", place / "data")
    assert done == [["prepare", "table", "--out", str(place / "data")]]
    assert place.steps["prepare"].keys() == {"seconds", "load", "resumed"}
    assert place.steps["prepare"]["resumed"] is False


def test_a_step_that_fails_ends_the_benchmark_and_is_not_kept(tmp_path: Path) -> None:
    place = own_tables.CaseFolder(tmp_path / "case")
    with pytest.raises(InputError, match="prepare ended with 2"):
        place.step("prepare", place / "data", "prepare", "no-such-reader", "--out", place / "data")
    assert place.steps == {}


def test_served_answers_are_held_against_scored_ones_candidate_by_candidate() -> None:
    one = {"candidates": [{"item": "a", "probability": 0.25}, {"item": "b", "probability": 0.5}]}
    other = {"candidates": [{"item": "a", "probability": 0.5}, {"item": "b", "probability": 0.5}]}
    swapped = {"candidates": other["candidates"][::-1]}
    assert list(own_tables.differences([one, one], [one, other])) == [0.0, 0.0, 0.25, 0.0]
    assert list(own_tables.differences([swapped, {"candidates": []}], [other, other])) == [1.0, 1.0, 1.0]


def test_tallrec_s_rows_are_the_last_of_the_list_that_its_authors_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three users, named first in the order b, a, c; b's times are not in order."""
    monkeypatch.setattr(tallrec, "PARTS", {"train": 5, "valid": 3, "test": 3})
    rows = [f"{user}\ti{k}\t5\t{900 - k if user == 'b' else k}" for k in range(14) for user in "bac"]
    b, a, c = ([row for row in rows if row.startswith(user)] for user in "bac")
    assert tallrec.parts(rows) == {"train": [*b[::-1][1:], *a[:12]], "valid": [*a[12:], *c[:11]], "test": c[11:]}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    return importlib.import_module("own_tables_page")


@pytest.fixture
def kept() -> Any:
    path = next((ROOT / "benchmarks" / "results").glob("**/own-tables.json"))
    return json.loads(path.read_text("utf-8"))


def test_the_page_says_first_where_the_llm_pays_and_where_not(page: Any, kept: Any) -> None:
    name, table = next((name, one) for name, one in kept["tables"].items() if users(one) >= page.FEW)
    for low, high, words in ((0.01, 0.02, "pays"), (-0.02, -0.01, "costs"), (-0.01, 0.01, "Nothing can be told")):
        for one in table["seeds"].values():
            row = next(row for row in one["groups"]["all"]["at"] if row["ratio"] == one["ratio"])
            row["gain"] = {"value": (low + high) / 2, "low": low, "high": high}
        told = list(page._verdict({name: table}))
        assert [name in line for line in told[:3]] == [words in line for line in told[:3]]


def test_few_users_get_no_interval_and_no_verdict(page: Any, kept: Any) -> None:
    name, table = next(iter(kept["tables"].items()))
    for one in table["seeds"].values():
        one["groups"]["all"]["users"] = page.FEW - 1
    assert [name in line for line in page._verdict({name: table})] == [False, False, False, True, False]
    row = next(line for line in page._quality(name, table) if line.startswith("| all"))
    assert "[" not in row


def users(table: Any) -> int:
    found: int = next(iter(table["seeds"].values()))["groups"]["all"]["users"]
    return found


def test_kept_figures_hold_no_id_and_no_title_of_the_data(kept: Any) -> None:
    for table in kept["tables"].values():
        assert table.keys() == {"told", "steps", "dataset", "seeds"}
        assert not {"sources", "notes"} & table["dataset"].keys()
    text = json.dumps(kept)
    assert not [word for word in ("Toy Story", "MEASURING", "B07J3GH1W1", ".csv", "u.data") if word in text]
