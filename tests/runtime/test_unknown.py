"""A bundle that refuses unknown values: one error a request, none where rows are judged, and what the commands tell."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundles import ITEMS, make_bundle, reseal
from corella_edge.errors import InputError, UnknownValueError
from corella_edge.formats.text_files import TextFile
from corella_edge.request import Candidate, Request, User
from corella_edge_runtime import batch, reference
from corella_edge_runtime.engine import Engine

SEEN, UNSEEN = "i1", f"i{ITEMS - 2}"  # of the catalogue's items, the vocabulary has all but the last five
MESSAGE = f"candidates[1].item: '{UNSEEN}' is unknown to this bundle, which refuses unknown values of item"


def change(root: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    schema = json.loads((root / "schema.json").read_text())
    for field in schema["fields"]:
        edit(field)
    (root / "schema.json").write_text(json.dumps(schema))
    reseal(root)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_bundle(tmp_path_factory.mktemp("refusing") / "bundle", llm=False)
    return change(made, lambda field: field["name"] == "item" and field["args"].update(unknown="refuse"))


@pytest.fixture(scope="module")
def engine(root: Path) -> Any:
    with Engine.open(root, llm=None) as opened:
        opened.warm_up()
        yield opened


def asked(*items: str) -> Request:
    return Request(User("u1"), [Candidate(item) for item in items])


def test_a_request_with_an_unknown_item_is_refused(engine: Engine) -> None:
    assert engine.rank(asked(SEEN)).unknown == ((),)
    for run in (engine.rank, engine.begin, engine.check):
        with pytest.raises(UnknownValueError) as caught:
            run(asked(SEEN, UNSEEN))
        assert (str(caught.value), caught.value.field) == (MESSAGE, "item")


def test_the_whole_catalogue_is_what_is_not_refused(engine: Engine) -> None:
    scores = engine.rank(Request(User("u1")))
    assert scores.items == tuple(f"i{i}" for i in range(ITEMS - 5))


def test_rows_that_are_judged_are_not_refused(engine: Engine) -> None:
    assert engine.rank(asked(SEEN, UNSEEN), refuses=False).unknown == ((), ("item",))
    assert not reference.compare(engine).problems


def test_a_file_is_checked_before_the_first_request_is_scored(engine: Engine, tmp_path: Path) -> None:
    lines = [
        {"user": {}, "candidates": [{"item": SEEN}]},
        {"user": {}, "candidates": [{"item": SEEN}, {"item": UNSEEN}]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=f"line 2: {re.escape(MESSAGE)}"):
        batch.check_all(engine.check, TextFile(tmp_path / "in.jsonl"))


def test_a_scored_file_tells_the_rate_of_each_field(tmp_path: Path) -> None:
    with Engine.open(make_bundle(tmp_path / "bundle", llm=False), llm=None) as plain:
        (tmp_path / "in.jsonl").write_text(
            json.dumps({"user": {"id": "?"}, "candidates": [{"item": SEEN}, {"item": UNSEEN}]})
        )
        tally = batch.Tally()
        batch.score_stream(plain, TextFile(tmp_path / "in.jsonl"), io.BytesIO(), tally, lambda tally: None)
    assert tally.unknown == {"user": 2, "item": 1}
