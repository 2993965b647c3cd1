"""A run's text vectors: made once, gone on with after an interruption, shared by runs, and what decides them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError, RecipeError  # noqa: E402
from corella_edge.features.vectors import as_float16  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.recipe import Recipe, recipe_from  # noqa: E402
from corella_edge_export.text import sentences, vectors  # noqa: E402
from corella_edge_export.text.encoder import SentenceEncoder, tokenizer_for  # noqa: E402
from encoders import WIDTH, make_encoder  # noqa: E402


def recipe(path: Path | str, **keys: Any) -> Recipe:
    text = {"source": "encoder", "path": str(path), "attributes": ["title", "genres"]} | keys
    return recipe_from({"name": "worded", "crm": {"text": text}}, "worded")


def made(folder: Path, chosen: Recipe, data: PreparedData, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return vectors.item_vectors(folder, chosen, data, quiet=True, **options)


def test_they_are_the_encoders_in_the_order_of_the_catalogue(
    data: PreparedData, sentence_encoder: Path, tmp_path: Path
) -> None:
    found = made(tmp_path / "run", recipe(sentence_encoder), data)
    model = SentenceEncoder(sentence_encoder)
    texts = vectors.texts_of(data, recipe(sentence_encoder).crm.text)
    assert len(texts) == len(data.item_ids)
    assert texts[0].startswith(data.items["title"][0])
    expected = sentences.reader(model, tokenizer_for(sentence_encoder, model, 128))(texts)
    np.testing.assert_array_equal(found, as_float16(expected))


def test_an_interrupted_run_goes_on_where_it_was(
    data: PreparedData, sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "CHUNK", 8)
    whole = made(tmp_path / "whole", recipe(sentence_encoder), data).copy()
    reader, done = sentences.reader, []

    def tiring(limit: int) -> Any:
        def make(model: Any, tokenizer: Any) -> Any:
            plain = reader(model, tokenizer)

            def counted(texts: Any) -> Any:
                done.append(len(texts))
                if len(done) > limit:
                    raise KeyboardInterrupt
                return plain(texts)

            return counted

        return make

    monkeypatch.setattr(sentences, "reader", tiring(3))
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "run", recipe(sentence_encoder), data)
    assert not (tmp_path / "run" / vectors.KEY).exists()
    done.clear()
    monkeypatch.setattr(sentences, "reader", tiring(100))
    np.testing.assert_array_equal(made(tmp_path / "run", recipe(sentence_encoder), data), whole)
    assert sum(done) == len(whole) - 3 * 8
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["text.json", "text.safetensors"]


def test_what_is_there_or_in_another_run_is_not_made_again(
    data: PreparedData, sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(tmp_path / "first", recipe(sentence_encoder, width=3), data)
    monkeypatch.setattr(sentences, "raw", None)
    np.testing.assert_array_equal(made(tmp_path / "first", recipe(sentence_encoder, width=3), data), first)
    other = made(
        tmp_path / "second", recipe(sentence_encoder, width=3), data, reuse=[tmp_path / "nowhere", tmp_path / "first"]
    )
    np.testing.assert_array_equal(other, first)
    found, expected = (vectors.projection(tmp_path / name) for name in ("second", "first"))
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    "keys", [{"attributes": ["genres"]}, {"form": "pairs"}, {"tokens": 4}, {"width": 3}, {"seed": 1}]
)
def test_what_decides_them_makes_them_anew(
    keys: dict[str, Any], data: PreparedData, sentence_encoder: Path, tmp_path: Path
) -> None:
    keys = dict(keys)
    other = make_encoder(tmp_path / "other", seed=keys.pop("seed")) if "seed" in keys else sentence_encoder
    before = made(tmp_path / "first", recipe(sentence_encoder), data)
    after = made(tmp_path / "second", recipe(other, **keys), data, reuse=[tmp_path / "first"])
    assert before.shape != after.shape or (before != after).any()


def test_a_width_takes_the_principal_components(data: PreparedData, sentence_encoder: Path, tmp_path: Path) -> None:
    raw = made(tmp_path / "whole", recipe(sentence_encoder), data).astype(np.float64)
    found = made(tmp_path / "narrow", recipe(sentence_encoder, width=4), data).astype(np.float64)
    items = np.unique(data.split("train").items)
    centred = raw[items] - raw[items].mean(axis=0)
    lost = np.linalg.svd(centred, compute_uv=False)[4:]
    kept = found[items] - found[items].mean(axis=0)
    assert np.isclose((centred**2).sum() - (kept**2).sum(), (lost**2).sum(), rtol=1e-2, atol=1e-3)
    assert np.abs(found[items].mean(axis=0)).max() < 1e-3
    with pytest.raises(InputError, match=rf"width: 99 is more than the {WIDTH} numbers"):
        made(tmp_path / "wide", recipe(sentence_encoder, width=99), data)


def test_a_recipe_that_cannot_be_is_told(data: PreparedData, sentence_encoder: Path, tmp_path: Path) -> None:
    for keys, part in (
        ({"source": "encoder"}, "path: name the Hugging Face folder"), ({"tuned": True}, "tuned: there are no vectors"),
        ({"source": "words"}, "expected one of"), ({"form": "keys"}, "expected one of"),
        ({"source": "llm", "attributes": []}, "attributes: name at least"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=part):
            recipe_from({"name": "x", "crm": {"text": keys}}, "x")
    with pytest.raises(RecipeError, match="members must be 1"):
        recipe_from({"name": "x", "crm": {"members": 2, "text": {"source": "llm", "tuned": True}}}, "x")
    with pytest.raises(InputError, match=r"attributes: .* has no attribute 'titel' of an item"):
        vectors.check(recipe(sentence_encoder, attributes=["titel"]), data)
    with pytest.raises(InputError, match=r"config\.json"):
        vectors.check(recipe(tmp_path / "nowhere"), data)
    with pytest.raises(InputError, match="name the folder of a checkpoint as path"):
        vectors.check(recipe("", source="llm"), data)


def test_the_schema_gets_a_field_of_each_side(data: PreparedData, sentence_encoder: Path) -> None:
    from corella_edge_export.crm.fitted.schema import fit_schema

    chosen = recipe(sentence_encoder)
    chosen = replace(chosen, crm=replace(chosen.crm, features=replace(chosen.crm.features, history=6, history_block=2)))
    schema = vectors.with_text(fit_schema(data, chosen.crm.features), chosen, 5)
    one, events = schema.of("vector", "vectors")
    assert (one.name, one.shape, schema.text_attributes) == ("item_text", (5,), ("title", "genres"))
    assert (schema.text_form, one.args) == ("values", {"attributes": ["title", "genres"]})  # as before there were forms
    paired = replace(chosen, crm=replace(chosen.crm, text=replace(chosen.crm.text, form="pairs")))
    assert vectors.with_text(fit_schema(data, paired.crm.features), paired, 5).text_form == "pairs"
    assert (events.name, events.shape, events.kept(9)) == ("history_text", (6, 5), schema.of("sequence")[0].kept(9))
