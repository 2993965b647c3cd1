"""A sentence encoder's folder: its vectors as a formula, batch = one by one, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.text.encoder import SentenceEncoder, tokenizer_for  # noqa: E402
from corella_edge_export.text.sentences import reader  # noqa: E402
from encoders import LONGEST, WIDTH, make_encoder, write  # noqa: E402

TEXTS = ["Tea", "", "the film 1999", "a cup of tea and a film " * 5, "茶"]


def vectors(folder: Path, texts: list[str] = TEXTS, tokens: int = 128) -> Any:
    encoder = SentenceEncoder(folder)
    return reader(encoder, tokenizer_for(folder, encoder, tokens))(texts)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalises", [True, False])
def test_vectors_are_the_formula(tmp_path: Path, pooling: str, normalises: bool) -> None:
    folder = make_encoder(tmp_path / "encoder", pooling, normalises)
    encoder = SentenceEncoder(folder)
    tokenizer = tokenizer_for(folder, encoder, 128)
    found = vectors(folder)
    assert found.shape == (len(TEXTS), WIDTH)
    for text, vector in zip(TEXTS, found, strict=True):
        if not text:
            assert not vector.any()
            continue
        ids = tokenizer.encode(text).ids
        assert len(ids) <= LONGEST
        with torch.inference_mode():
            states = encoder.model(torch.tensor([ids])).last_hidden_state[0].numpy()
        expected = states.mean(axis=0) if pooling == "mean" else states[0]
        expected = expected / np.linalg.norm(expected) if normalises else expected
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def test_a_text_alone_is_that_of_a_batch(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    together = vectors(folder)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(vectors(folder, [text])[0], vector, rtol=1e-5, atol=1e-6)


def test_texts_are_cut_at_the_recipes_tokens(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    same = vectors(folder, ["tea cup film", "tea cup film item"], tokens=5)
    np.testing.assert_allclose(same[0], same[1], rtol=1e-5, atol=1e-6)
    assert np.abs(np.subtract(*vectors(folder, ["tea cup film", "tea cup film item"]))).max() > 1e-3


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.0.attention.self.query.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.attention.self.query.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another(name: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        write(folder / name, {**json.loads((folder / name).read_text()), **changes})

    return change


BROKEN = {
    "no folder": (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
    "another kind": (another("config.json", model_type="llama"), r"config\.json: model_type 'llama' is no sentence"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"the encoder cannot be read"),
    "a weight less": (drop_weight, r"do not fit config\.json: .*query\.weight"),
    "a weight that is no number": (poison, r"query\.weight holds a number that is not finite"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: cannot be read"),
    "a module more": (lambda folder: write(folder / "modules.json", [{"type": "x.Dense"}]), r"the module 'Dense' is"),
    "modules that are none": (lambda folder: write(folder / "modules.json", {}), r"modules\.json: expected a list"),
    "another pooling": (another("1_Pooling/config.json", pooling_mode_max_tokens=True), r"pools by .*max_tokens"),
    "no pooling": (lambda folder: (folder / "1_Pooling" / "config.json").unlink(), r"1_Pooling/config\.json: cannot"),
    "lower case elsewhere": (another("sentence_bert_config.json", do_lower_case=True), r"do_lower_case is not known"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_no_whole_encoder_is_refused(name: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "encoder")
    breaking, part = BROKEN[name]
    breaking(folder)
    with pytest.raises(InputError, match=part):
        vectors(folder)
