"""A model that knows items by their words, exported, and its catalogue swapped whole: scores are torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.bundle.artefact import Bundle  # noqa: E402
from corella_edge.catalog import Catalog  # noqa: E402
from corella_edge.errors import BundleError, InputError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.vectors import as_float16, item_text  # noqa: E402
from corella_edge.request import Candidate, Event, Request, User  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.text.sentences import reader  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.stages import train  # noqa: E402
from corella_edge_export.training.tasks.crm import tensors  # noqa: E402
from corella_edge_runtime import reference  # noqa: E402
from corella_edge_runtime.engine import Engine  # noqa: E402
from corella_edge_runtime.site.catalog_change import change  # noqa: E402
from corella_edge_runtime.site.catalog_replace import Replacement  # noqa: E402
from corella_edge_runtime.site.catalog_update import Update  # noqa: E402
from encoders import make_encoder  # noqa: E402
from tiny_run import prepared, recipe  # noqa: E402

OFF = {"epochs": 0}
KEYS = {"kind": "text-sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "history": 6, "history_block": 2,
        "encoder_epochs": 1, "encoder_events": 64, "encoder_rate": 3e-3, "epochs": 4,
        "learning_rate": 2e-2}  # fmt: skip
NEW = [{"item": f"n{i}", "title": f"the {word} {i % 7} film", "genres": ["tea", word]}
       for i, word in enumerate(["cup", "item", "the", "tea", "film", "a", "b", "c", "d", "e"] * 3)]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("text-sequence")
    data, encoder = prepared(folder / "data"), make_encoder(folder / "encoder")
    text = {"source": "encoder", "path": str(encoder), "attributes": ["title", "genres"], "form": "pairs"}
    chosen = recipe(crm={**KEYS, **text}, llm=OFF, joint=OFF, continuation=OFF)
    assert list(train(folder / "run", chosen, data, quiet=True)) == ["encoder", "crm"]
    return Run.open(folder / "run", data)


@pytest.fixture(scope="module")
def bundle(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bundle") / "words"
    export(run, found, ExportOptions())
    return found


@pytest.fixture(scope="module")
def swapped(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swapped")
    report = change(Replacement, bundle, lines(folder / "items.jsonl", NEW), folder / "new")
    old = len(Bundle.open(bundle).schema()[1])
    assert (report.added, report.changed, report.removed, report.rows) == (len(NEW), 0, old, 0)
    assert any("reference rows of the new items" in note for note in report.notes)
    return folder / "new"


def lines(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return path


def users(ids: list[str]) -> list[User]:
    """With more events than are read, with a few, with one, with none; some of unknown items."""
    rated = [Event(ids[i % len(ids)], float(1 + i % 5), None) for i in range(11)]
    odd = (*rated[:3], Event("unknown", 4.0, None))
    return [User("u", {}, tuple(events)) for events in (rated, rated[:4], rated[:1], (), odd)]


def alike(found: Any, expected: Any) -> bool:
    """Within a fiftieth of what tells the candidates apart: text.onnx and torch may round a float16 apart."""
    return bool(np.abs(found - expected).max() <= 0.02 * np.ptp(expected) + 1e-5)


def test_after_a_swap_scores_are_those_of_torch_with_the_new_words(run: Run, swapped: Path) -> None:
    made = run.text_model()
    assert made is not None
    texts = [item_text(item, run.recipe.crm.text.attributes, "pairs") for item in NEW]
    catalog = Catalog([item["item"] for item in NEW], NEW)
    catalog.vectors = as_float16(reader(*made)(texts))
    encoder, model = FeatureEncoder(run.fit_inputs()[0], catalog), run.crm()
    candidates = [Candidate(item["item"]) for item in NEW[:20]]
    with Engine.open(swapped, tuned=False) as engine, torch.inference_mode():
        for user in users([item["item"] for item in NEW]):
            expected = torch.sigmoid(model(tensors(encoder.encode(user, candidates)[0])).double()).numpy()
            assert alike(engine.rank(Request(user, candidates)).crm, expected)
            assert np.ptp(expected) > 1e-3


def test_typed_in_or_taken_up_an_items_words_have_the_form_of_training(run: Run, bundle: Path, tmp_path: Path) -> None:
    """Each attribute after its name: the runtime's vectors are those that torch makes of that text."""
    made, item = run.text_model(), {"title": "the cup of tea", "genres": ["tea", "film"]}
    assert made is not None
    change(Update, bundle, lines(tmp_path / "items.jsonl", [{"item": "new", **item}]), tmp_path / "new")
    expected = reader(*made)(["title: the cup of tea. genres: tea, film"])
    without = reader(*made)(["the cup of tea. tea, film"])
    for place, candidate in ((bundle, Candidate("typed in", item)), (tmp_path / "new", Candidate("new"))):
        with Engine.open(place, tuned=False) as engine:
            found = engine.encoder.encode(User(), [candidate])[0]["item_text"]
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert np.abs(found - without).max() > 0.02
    assert run.fit_inputs()[0].text_form == Bundle.open(bundle).schema()[0].text_form == "pairs"


def test_the_new_bundle_verifies_itself_and_holds_no_old_item(bundle: Path, swapped: Path) -> None:
    new, old = Bundle.open(swapped), Bundle.open(bundle)
    assert list(new.schema()[1].ids) == [item["item"] for item in NEW]
    assert not new.has("sample.jsonl")
    assert new.manifest.about["catalog_update"]["removed"] == len(old.schema()[1])
    for name in ("crm.onnx", "text.onnx", "schema.json"):
        assert new.manifest.files[name] == old.manifest.files[name]
    ids = {item["item"] for item in NEW}
    rows = reference.read(new)
    assert len(rows) == len(reference.read(old))
    assert all({c.item for c in r.request.candidates or ()} | {e.item for e in r.request.user.history} <= ids
               for r in rows)  # fmt: skip
    with Engine.open(swapped, tuned=False) as engine:
        assert not reference.compare(engine).problems


def test_swapped_back_it_scores_as_before_but_for_the_encoders_rounding(bundle: Path, swapped: Path,
                                                                         tmp_path: Path) -> None:  # fmt: skip
    _, catalog = Bundle.open(bundle).schema()
    items = [{"item": item, **catalog.of(item)} for item in catalog.ids]
    extras = sorted({name for item in items for name in item} - {"item"})
    change(Replacement, swapped, lines(tmp_path / "old.jsonl", items), tmp_path / "back", extras)
    with Engine.open(bundle, tuned=False) as one, Engine.open(tmp_path / "back", tuned=False) as other:
        for user in users(list(catalog.ids)):
            asked = Request(user, [Candidate(item) for item in catalog.ids[:15]])
            assert alike(other.rank(asked).crm, one.rank(asked).crm)


def test_items_that_stay_keep_their_reference_rows(bundle: Path, tmp_path: Path) -> None:
    """All but one item that no reference row names."""
    _, catalog = Bundle.open(bundle).schema()
    rows = reference.read(Bundle.open(bundle))
    named = {e.item for r in rows for e in r.request.user.history} | {
        c.item for r in rows for c in r.request.candidates
    }
    gone = next(item for item in catalog.ids if item not in named)
    items = [{"item": item, **catalog.of(item)} for item in catalog.ids if item != gone]
    report = change(Replacement, bundle, lines(tmp_path / "items.jsonl", items), tmp_path / "new")
    assert (report.added, report.changed, report.removed, report.rows) == (0, 0, 1, len(rows))
    with Engine.open(tmp_path / "new", tuned=False) as engine:
        assert not reference.compare(engine).problems


def test_nothing_to_replace_a_taken_folder_and_a_damaged_bundle_are_told(bundle: Path, tmp_path: Path) -> None:
    _, catalog = Bundle.open(bundle).schema()
    same = lines(tmp_path / "same.jsonl", [{"item": item, **catalog.of(item)} for item in catalog.ids])
    with pytest.raises(InputError, match="changes nothing"):
        change(Replacement, bundle, same, tmp_path / "new")
    with pytest.raises(InputError, match="unknown attribute 'titel'"):
        change(Replacement, bundle, lines(tmp_path / "typo.jsonl", [{"item": "a", "titel": "x"}]), tmp_path / "new")
    with pytest.raises(InputError):
        change(Replacement, bundle, lines(tmp_path / "new.jsonl", NEW), tmp_path)
    with pytest.raises(BundleError):
        change(Replacement, tmp_path, lines(tmp_path / "new.jsonl", NEW), tmp_path / "new")
    assert not (tmp_path / "new").exists()
