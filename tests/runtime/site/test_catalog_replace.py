"""A catalogue replaced where the bundle has adapters: what is written can be verified, or it is not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bundles import make_bundle, reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import InputError, MissingExtraError
from corella_edge_runtime import opening
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.reference import compare, unheld
from corella_edge_runtime.reference import read as reference_rows
from corella_edge_runtime.site.catalog_change import change
from corella_edge_runtime.site.catalog_replace import ROWS, Replacement

Json = dict[str, Any]
NEW = [{"item": f"n{i}", "title": f"a title {i}"} for i in range(20)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", adapters=("a", "b"))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without llama.cpp."""

    def missing(*_: object) -> None:
        raise MissingExtraError("the LLM", "llm")

    monkeypatch.setattr(opening, "_open", missing)


def lines(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def known(bundle: Path, *without: str) -> list[Json]:
    """The items of a bundle but some."""
    _, catalog = Bundle.open(bundle).schema()
    return [{"item": item, **catalog.of(item)} for item in catalog.ids if item not in without]


def one_row_of_b(bundle: Path) -> tuple[str, list[str]]:
    """Only one row of reference.jsonl is of the adapter b; its item, and the rows that do not name that."""
    file = bundle / "reference.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    only = next(row for row in rows if row.get("adapters"))
    file.unlink()  # it may be a link
    lines(file, [row if row is only else {k: v for k, v in row.items() if k != "adapters"} for row in rows])
    reseal(bundle)
    item = only["request"]["candidates"][0]["item"]
    return item, [json.dumps(row["request"]) for row in rows if f'"{item}"' not in json.dumps(row["request"])]


def verified(folder: Path) -> list[str]:
    with Engine.open(folder, llm_threads=1, require_llm=True, tuned=False) as engine:
        return compare(engine).problems


def test_rows_of_new_items_are_of_every_adapter(bundle: Path, tmp_path: Path) -> None:
    report = change(Replacement, bundle, lines(tmp_path / "items.jsonl", NEW), tmp_path / "new")
    assert report.rows == 0
    assert verified(tmp_path / "new") == []


def test_without_llama_cpp_what_no_adapter_could_be_verified_by_is_refused(
    bundle: Path, tmp_path: Path, bare: None
) -> None:
    with pytest.raises(InputError, match=r"left of the adapter a, .* by it here: .*extra \[llm\]"):
        change(Replacement, bundle, lines(tmp_path / "items.jsonl", NEW), tmp_path / "new")
    item, _ = one_row_of_b(bundle)
    with pytest.raises(InputError, match="left of the adapter b, "):
        change(Replacement, bundle, lines(tmp_path / "items.jsonl", known(bundle, item)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_without_llama_cpp_rows_that_hold_are_enough(bundle: Path, tmp_path: Path, bare: None) -> None:
    last = next(item for item in reversed(Bundle.open(bundle).schema()[1].ids))
    report = change(Replacement, bundle, lines(tmp_path / "items.jsonl", known(bundle, last)), tmp_path / "new")
    assert report.rows == len(reference_rows(Bundle.open(tmp_path / "new"))) > 0
    without = make_bundle(tmp_path / "plain")
    change(Replacement, without, lines(tmp_path / "items.jsonl", NEW), tmp_path / "other")
    assert len(reference_rows(Bundle.open(tmp_path / "other"))) == ROWS


def test_rows_that_hold_stay_beside_new_ones(bundle: Path, tmp_path: Path) -> None:
    item, held = one_row_of_b(bundle)
    report = change(Replacement, bundle, lines(tmp_path / "items.jsonl", known(bundle, item)), tmp_path / "new")
    new = Bundle.open(tmp_path / "new")
    written = (tmp_path / "new" / "reference.jsonl").read_text("utf-8").splitlines()
    assert [json.dumps(json.loads(line)["request"]) for line in written[: len(held)]] == held
    assert (report.rows, len(written)) == (len(held), len(held) + ROWS)
    assert new.manifest.about["catalog_update"]["reference_rows_dropped"] == report.dropped == 64 - len(held)
    assert unheld(reference_rows(new), new.adapters()) == []
    assert verified(tmp_path / "new") == []
