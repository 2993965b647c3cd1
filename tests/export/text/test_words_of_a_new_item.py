"""From a recipe with [crm.text] to a served bundle: an item that nobody has seen is scored by its words."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from corella_edge.bundle.artefact import TEXT, TEXT_REFERENCE, TOKENIZER, Bundle, seal  # noqa: E402
from corella_edge.cli import cli  # noqa: E402
from corella_edge.errors import BundleError, MissingExtraError  # noqa: E402
from corella_edge.features.vectors import as_float16, as_float32, item_text  # noqa: E402
from corella_edge.request import Candidate, Event, Request, User  # noqa: E402
from corella_edge.request_json import request_json  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.text import to_onnx  # noqa: E402
from corella_edge_export.text.encoder import SentenceEncoder, tokenizer_for  # noqa: E402
from corella_edge_export.text.sentences import reader  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.tasks.crm import tensors  # noqa: E402
from corella_edge_runtime import reference  # noqa: E402
from corella_edge_runtime.engine import Engine  # noqa: E402
from corella_edge_runtime.site.catalog_change import change  # noqa: E402
from corella_edge_runtime.site.catalog_update import Update  # noqa: E402
from corella_edge_runtime.text import TextModel  # noqa: E402
from encoders import WIDTH, make_encoder  # noqa: E402
from sessions import serving, start, succeed  # noqa: E402
from tiny_run import recipe  # noqa: E402

NEW = {"title": "A cup of tea"}
ATTRIBUTES = ["title", "genres"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def run(folder: Path, data: PreparedData) -> Run:
    path = str(make_encoder(folder / "encoder"))
    text = {"source": "encoder", "path": path, "attributes": ATTRIBUTES, "width": 5}
    return trained(folder / "run", text, data)


def trained(folder: Path, text: dict[str, Any], data: PreparedData, **crm: Any) -> Run:
    """A run of the base model alone."""
    off = {"epochs": 0}
    stages.train(folder, recipe(crm={"text": text, **crm}, llm=off, joint=off, continuation=off), data, quiet=True)
    return Run.open(folder, data)


@pytest.fixture(scope="module")
def bundle(folder: Path, run: Run) -> Bundle:
    return export(run, folder / "bundle", ExportOptions(threads=1))


@pytest.fixture(scope="module")
def user(data: PreparedData) -> User:
    split = data.split("test")
    return data.request(int(split.users[2]), int(split.positions[2]), [0]).user


def scores(bundle: Path, user: User, *candidates: Candidate) -> Any:
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        return engine.rank(Request(user, candidates, threshold="ratio:0")).crm


def test_the_bundle_has_what_makes_vectors_and_says_how_well(bundle: Bundle) -> None:
    assert bundle.has(TEXT)
    assert bundle.has(TOKENIZER)
    schema, catalog = bundle.schema()
    assert catalog.vectors is not None
    assert (schema.text_width, catalog.vectors.shape) == (5, (len(catalog), 5))
    assert bundle.json("verification.json")["text"]["difference"] <= 1e-4
    assert bundle.manifest.about["recipe"]["crm"]["text"]["path"] == "encoder"


def test_a_new_item_is_scored_by_its_words_as_torch_does(bundle: Bundle, run: Run, user: User) -> None:
    """The encoder, the projection and the CRM in torch; the answer names the item's id as unknown, as ever."""
    made = run.text_model()
    assert made is not None
    vector = as_float32(as_float16(_by_torch(*made)([item_text(NEW, ATTRIBUTES, "values")])))
    with Engine.open(bundle.root, llm=None, tuned=False) as engine:
        assert not [text for text in engine.warnings if "words" in text]
        answer = engine.rank(Request(user, [Candidate("new", NEW), Candidate("new", {})]))
        feed, _ = engine.encoder.encode(user, [Candidate("new", NEW)])
    assert answer.unknown[0] == ("item",)
    with torch.inference_mode():
        expected = torch.sigmoid(run.crm()(tensors({**feed, "item_text": vector})).double()).numpy()
    np.testing.assert_allclose(answer.crm[:1], expected, atol=1e-4)
    assert abs(answer.crm[0] - answer.crm[1]) > 1e-6


@pytest.mark.slow
def test_http_score_and_engine_say_the_same_of_a_typed_in_item(bundle: Bundle, user: User, tmp_path: Path) -> None:
    body = request_json(Request(user, [Candidate("new", NEW), Candidate("other", {"title": "A lamp"})]))
    own, other = scores(bundle.root, user, Candidate("new", NEW), Candidate("other", {"title": "A lamp"}))
    assert own != other
    (tmp_path / "asked.jsonl").write_text(json.dumps(body) + "\n")
    succeed("score", bundle.root, tmp_path / "asked.jsonl", "--out", tmp_path / "scored.jsonl", "--no-llm")
    with serving(start("serve", bundle.root, "--port", "0", "--no-llm")) as server:
        served = httpx.post(f"{server.url}/v1/rank", json=body, timeout=60).json()
    for answer in (served, json.loads((tmp_path / "scored.jsonl").read_text())):
        found = {one["item"]: one["crm"] for one in answer["candidates"]}
        assert found == {"new": pytest.approx(own, abs=1e-12), "other": pytest.approx(other, abs=1e-12)}


def _by_torch(model: Any, tokenizer: Any) -> Any:
    return reader(model, tokenizer)


def test_the_projection_is_that_of_the_catalogue(run: Run, data: PreparedData) -> None:
    made = run.text_model()
    assert made is not None
    texts = [
        item_text({name: data.items[name][i] for name in ATTRIBUTES}, ATTRIBUTES, "values")
        for i in range(len(data.item_ids))
    ]
    np.testing.assert_allclose(_by_torch(*made)(texts), run.item_vectors(), atol=2e-3)
    encoder = SentenceEncoder(Path(run.recipe.crm.text.path))
    raw = reader(encoder, tokenizer_for(Path(run.recipe.crm.text.path), encoder, 128))(texts)
    assert raw.shape == (len(texts), WIDTH)


def test_taken_up_into_the_catalogue_it_is_scored_as_typed_in(bundle: Bundle, user: User, tmp_path: Path) -> None:
    known = bundle.catalog()
    other = {"item": known.ids[0], "title": "Another film"}
    lines = [{"item": "new", **NEW}, {"item": "mute"}, other]
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    told: list[tuple[int, int]] = []
    done = change(Update, bundle.root, items, tmp_path / "out", told=lambda n, count: told.append((n, count)))
    assert (done.added, done.changed, told[-1]) == (2, 1, (2, 2))
    after = Bundle.open(tmp_path / "out").catalog
    _, updated = Bundle.open(tmp_path / "out").schema()
    assert after().ids[-2:] == ["new", "mute"]
    _, before = bundle.schema()
    assert updated.vectors is not None
    assert before.vectors is not None
    np.testing.assert_array_equal(updated.vectors[1 : len(known)], before.vectors[1:])
    assert (updated.vectors[0] != before.vectors[0]).any()
    given = [
        Candidate("new", NEW),
        Candidate("mute", {}),
        Candidate(known.ids[0], {"title": other["title"]}),
    ]
    plain = [Candidate("new"), Candidate("mute"), Candidate(known.ids[0])]
    np.testing.assert_allclose(scores(bundle.root, user, *given), scores(tmp_path / "out", user, *plain), atol=1e-6)
    assert (tmp_path / "out" / TEXT).stat().st_nlink > 1
    seen = User(user.id, user.features, [*user.history, Event("new", 4.0)])
    assert scores(tmp_path / "out", seen, Candidate("mute"))[0] != scores(bundle.root, seen, Candidate("mute"))[0]


def test_without_tokenizers_the_catalogue_is_served_and_a_warning_tells(
    bundle: Bundle, user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "corella_edge_runtime.text", raising=False)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with Engine.open(bundle.root, llm=None, tuned=False) as engine:
        (warning,) = [text for text in engine.warnings if "words" in text]
        assert "corella-edge[text]" in warning
        answer = engine.rank(Request(user, [Candidate("new", NEW), Candidate(bundle.catalog().ids[0])]))
    assert np.isfinite(answer.crm).all()
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"item": "new", **NEW}) + "\n", "utf-8")
    with pytest.raises(MissingExtraError, match=r"corella-edge\[text\]"):
        change(Update, bundle.root, items, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_text_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    from corella_edge_runtime.text import TextModel

    graph, words = bundle.path(TEXT), bundle.path(TOKENIZER)
    with pytest.raises(BundleError, match=r"text\.onnx: does not give one vector of 6 numbers"):
        TextModel(graph, words, 6)
    with pytest.raises(BundleError, match=r"crm\.onnx: its inputs are"):
        TextModel(bundle.path("crm.onnx"), words, 5)
    plain = tmp_path / "tokenizer.json"
    for altered, part in (
        ({"truncation": None}, "how long texts"),
        ({"padding": None}, "filled up"),
        (None, "no tokeni"),
    ):
        text = json.dumps({**json.loads(words.read_text("utf-8")), **altered}) if altered else "{"
        plain.write_text(text, "utf-8")
        with pytest.raises(BundleError, match=f"tokenizer.json: .*{part}"):
            TextModel(graph, plain, 5)


def test_texts_of_any_kind_have_vectors_and_recent_ones_are_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corella_edge_runtime import text as module

    model = module.TextModel(bundle.path(TEXT), bundle.path(TOKENIZER), 5)
    texts = ["tea", "", "\ud800", "tea", "a" * 5000, "\0", "茶 🎬"]
    found = model(texts)
    assert found.shape == (len(texts), 5)
    assert np.isfinite(found).all()
    assert not found[1].any()
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(model.vectors([text])[0], vector, atol=1e-3)
    asked: list[int] = []
    vectors = model.vectors
    monkeypatch.setattr(model, "vectors", lambda texts: (asked.append(len(texts)), vectors(texts))[1])
    monkeypatch.setattr(module, "KEPT", 3)
    assert model(["tea", "cup", "cup"]).shape == (3, 5)
    assert model(["tea", "cup"]).shape == (2, 5)
    assert asked == [1, 0]
    model(["a", "b"])
    model(["a", "b", "tea"])
    assert asked == [1, 0, 2, 1]


def test_tuned_vectors_are_trained_travel_and_are_scored_as_in_torch(
    folder: Path, data: PreparedData, user: User, tmp_path: Path
) -> None:
    """The export itself holds its bundle against torch; new items have the encoder's vectors."""
    text = {"source": "encoder", "path": str(folder / "encoder"), "attributes": ATTRIBUTES, "tuned": True}
    run = trained(tmp_path / "run", text, data, learning_rate=0.05)
    bundle = export(run, tmp_path / "bundle", ExportOptions(threads=1))
    started, (_, catalog) = run.item_vectors(), bundle.schema()
    assert started is not None
    assert catalog.vectors is not None
    np.testing.assert_array_equal(catalog.vectors, as_float16(run.best("crm")["text.table"].numpy()))
    moved = np.abs(catalog.vectors.astype(np.float32) - started).max(axis=1)
    items = np.unique(data.split("train").items)
    assert moved[items].min() > 1e-3
    made = run.text_model()
    assert made is not None
    words = item_text({name: data.items[name][0] for name in ATTRIBUTES}, ATTRIBUTES, "values")
    new = {name: data.items[name][0] for name in ATTRIBUTES}
    with Engine.open(bundle.root, llm=None, tuned=False) as engine:
        feed, _ = engine.encoder.encode(user, [Candidate(data.item_ids[0], new), Candidate("new", new)])
    np.testing.assert_array_equal(feed["item_text"][0], as_float32(catalog.vectors[0]))
    np.testing.assert_allclose(feed["item_text"][1], _by_torch(*made)([words])[0], atol=2e-3)


def test_verify_repeats_the_vectors_of_texts(bundle: Bundle, run: Run) -> None:
    """Torch's own, of texts from the shortest to the longest."""
    made, rows = run.text_model(), reference.read_texts(bundle)
    assert made is not None
    lengths = [len(text) for text, _ in rows]
    assert lengths == sorted(lengths)
    expected = _by_torch(*made)([text for text, _ in rows])
    np.testing.assert_array_equal([vector for _, vector in rows], as_float32(as_float16(expected)))
    with Engine.open(bundle.root, llm=None, tuned=False) as engine:
        found = reference.compare(engine)
        engine.encoder.make_vectors = lambda texts: 1.05 * _by_torch(*made)(texts)
        other = reference.compare(engine)
        engine.encoder.make_vectors = lambda texts: np.zeros((len(texts), 3), np.float32)
        short = reference.compare(engine)
    assert (found.texts, found.problems) == (len(rows), [])
    assert found.text <= found.allowed.text == 1e-3
    assert len(other.problems) == len(short.problems) == len(rows)
    assert other.problems[0].startswith("text/reference.jsonl row 1: the text's vector is 5.0e-02 of its length from")


def test_verify_tells_of_text_vectors(bundle: Bundle) -> None:
    shown = CliRunner().invoke(cli, ["inspect", str(bundle.root)])
    assert "`verify` allows differences of: base model 1e-05, LLM 0.005, text vectors 0.001" in shown.output
    told = CliRunner().invoke(cli, ["verify", str(bundle.root)])
    assert told.exit_code == 0, told.output
    assert re.search(r"text vectors: \d+ rows, greatest difference \S+ \(at most 0.001\)", told.output)


def test_eight_bit_weights_are_written_where_their_vectors_are_near_enough(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, texts = run.text_model(), ["A cup of tea", "The tea", ""]
    assert made is not None
    written = to_onnx.write(*made, tmp_path, texts, int8=True)
    assert written["int8"]
    assert to_onnx.LIKE <= written["cosine_lowest"] <= written["cosine_mean"] <= 1.0 + 1e-6
    operators = [node.op_type for node in onnx.load(tmp_path / TEXT).graph.node]
    assert "MatMulNBits" in operators
    exact, found = _by_torch(*made)(texts), TextModel(tmp_path / TEXT, tmp_path / TOKENIZER, 5).vectors(texts)
    assert 0 < max(map(reference.distance, found[:2], exact[:2])) < 0.1
    monkeypatch.setattr(to_onnx, "LIKE", 1.1)
    refused = to_onnx.write(*made, tmp_path, texts, int8=True)
    assert not refused["int8"]
    np.testing.assert_allclose(TextModel(tmp_path / TEXT, tmp_path / TOKENIZER, 5).vectors(texts), exact, atol=1e-3)


def test_int8_is_judged_by_words_from_all_over_the_catalogue() -> None:
    texts = [""] * 600 + [f"item {i}" for i in range(2000)]
    found = to_onnx.judged(texts, 1)
    assert len(set(found)) == to_onnx.JUDGED
    assert all(found)
    assert found == to_onnx.judged(texts, 1) != to_onnx.judged(texts, 2)
    assert int(found[0].split()[1]) < 100 < 1900 < int(found[-1].split()[1])
    assert to_onnx.judged(["", ""], 1) == []
    assert "no item has words" in to_onnx.verdict({"difference": 0.0, "int8": False})


def test_verify_says_why_texts_are_not_repeated(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra [text]; and of a bundle that an older release wrote."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "corella_edge_runtime.text", raising=False)
    told = CliRunner().invoke(cli, ["verify", str(bundle.root)])
    assert told.exit_code == 0, told.output
    assert "text vectors: not checked: making vectors of words needs" in " ".join(told.output.split())
    assert "LLM: not checked: the bundle has no LLM" in told.output
    assert told.output.count("the bundle has no LLM") == 1
    monkeypatch.undo()
    old = shutil.copytree(bundle.root, tmp_path / "old")
    for damage, why in (
        (lambda file: file.write_text(""), "text/reference.jsonl holds no text"),  # of a catalogue without words
        (Path.unlink, "the bundle has no text/reference.jsonl"),
    ):
        damage(old / TEXT_REFERENCE)
        for name in ("manifest.json", "manifest.sha256"):
            (old / name).unlink()
        seal(old, "old", "1", dict(bundle.manifest.about))
        told = CliRunner().invoke(cli, ["verify", str(old)])
        assert told.exit_code == 0, told.output
        assert f"text vectors: not checked: {why}" in told.output
