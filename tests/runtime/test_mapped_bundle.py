"""A bundle of a mapped catalogue and mapped vocabularies answers as the one that is parsed, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, USERS, make_bundle, reseal
from corella_edge.bundle import schema_files
from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import TABLES
from corella_edge.errors import BundleError
from corella_edge.formats.text_table import TextTable
from corella_edge.request import Candidate, Event, Request, User
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site.catalog_change import change
from corella_edge_runtime.site.catalog_update import Update
from corella_edge_runtime.site.describe import describe

REQUESTS = [
    Request(User(f"u{u}", None, [Event(f"i{(u * k) % ITEMS}", 4.0, k) for k in range(u)]),
            [Candidate(f"i{i}") for i in range(0, ITEMS, 1 + u % 3)] + [Candidate("new", {"genres": ["Drama"]})])
    for u in range(0, USERS, 3)
]  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same bundle, parsed and mapped."""
    folder = tmp_path_factory.mktemp("mapped")
    plain = make_bundle(folder / "plain")
    mapped = Path(shutil.copytree(plain, folder / "mapped"))
    schema, catalog = Bundle.open(plain).schema()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema_files, "LARGE", 20)
        shutil.rmtree(mapped / "vocab")
        schema_files.write_schema(mapped, schema, catalog)
        schema_files.write_catalog_tables(mapped, schema, catalog)
        reseal(mapped)
    return plain, mapped


def test_its_answers_are_the_same(roots: Any) -> None:
    plain, mapped = roots
    with Engine.open(plain, llm_threads=1) as a, Engine.open(mapped, llm_threads=1) as b:
        assert isinstance(b.encoder.catalog.ids, TextTable)
        assert isinstance(b.encoder.schema.vocabularies["user"].values, TextTable)
        for request in [*REQUESTS, Request(User("u1"))]:
            x, y = a.rank(request), b.rank(request)
            assert (x.items, x.unknown, x.reason) == (y.items, y.unknown, y.reason)
            np.testing.assert_array_equal(x.crm, y.crm)
            np.testing.assert_allclose(x.llm, y.llm, atol=1e-3)
        assert a.showcase.items("film 3", 5, 0) == b.showcase.items("film 3", 5, 0)


def test_it_is_described_alike(roots: Any) -> None:
    plain, mapped = map(describe, roots)
    assert plain["problems"] == mapped["problems"] == []
    for part in ("fields", "catalogue", "prompt"):
        assert plain[part] == mapped[part]


def test_a_catalogue_update_writes_its_tables_anew(roots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "items.jsonl").write_text('{"item": "fresh", "title": "Fresh", "genres": ["Comedy"]}\n')
    monkeypatch.setattr(schema_files, "LARGE", 20)
    bundles = []
    for number, root in enumerate(roots):
        out = tmp_path / str(number)
        change(Update, root, tmp_path / "items.jsonl", out)
        bundles.append(Bundle.open(out))
        assert bundles[-1].has(TABLES)
    with Engine.open(bundles[1].root, llm=None) as engine:
        assert len(engine.encoder.catalog) == ITEMS + 1
        known, inline = (engine.rank(Request(User("u1"), [c])).crm for c in (
            Candidate("fresh"), Candidate("other", {"genres": ["Comedy"]})))  # fmt: skip
        np.testing.assert_array_equal(known, inline)


def test_an_older_catalogue_beside_new_tables_is_refused(roots: Any, tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots[1], tmp_path / "bundle"))
    with (root / "catalog.jsonl").open("a") as file:
        file.write('{"item": "more"}\n')
    reseal(root)
    with pytest.raises(BundleError, match=r"catalog\.safetensors: does not fit catalog\.jsonl"):
        Engine.open(root, llm=None)
