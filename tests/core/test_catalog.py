from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = TEXT | st.none() | st.integers() | st.floats(allow_nan=False) | st.lists(TEXT, max_size=3)
RECORDS = st.dictionaries(TEXT.filter(lambda name: name != "item"), VALUES, max_size=3)


@given(st.dictionaries(TEXT, RECORDS, max_size=6))
def test_a_catalogue_survives_its_file(tmp_path_factory: pytest.TempPathFactory, items: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("catalog") / "catalog.jsonl"
    path.write_text("".join(Catalog(items, items.values()).lines()), "utf-8")
    found = Catalog.read(path)
    assert found.ids == list(items)
    assert found.attributes == list(items.values())
    assert found.row_of == {item: row for row, item in enumerate(items)}


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"{", "line 1: not JSON"), (b'{"item": "a"}\n\n', "line 2"), (b'{"item": "a"}\n[]\n', "line 2: expected"),
     (b'{"item": 3}\n', "line 1"), (b'{"title": "x"}\n', "line 1"), (b'{"item": "\xff"}\n', "line 1: not JSON"),
     (b"[" * 100_000, "line 1: not JSON"), (b'{"item": "a"}\n{"item": "a"}\n', "twice")],
)  # fmt: skip
def test_a_malformed_line_is_named(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "catalog.jsonl").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        Catalog.read(tmp_path / "catalog.jsonl")
    assert part in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"catalog\.jsonl"):
        Catalog.read(tmp_path / "catalog.jsonl")


def test_as_many_records_as_ids() -> None:
    with pytest.raises(ValueError, match="as many"):
        Catalog(["a"], [])


def test_lines_are_plain_json() -> None:
    lines = list(Catalog(["é"], [{"title": "a\nb\u2028", "year": 3}]).lines())
    assert [json.loads(line) for line in lines] == [{"item": "é", "title": "a\nb\u2028", "year": 3}]
    assert lines[0].count("\n") == 1
