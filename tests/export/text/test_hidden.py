"""Items' vectors by a language model: the mean of its last hidden states, without what all items have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from checkpoints import save_checkpoint  # noqa: E402
from corella_edge.features.derived import Floats  # noqa: E402
from corella_edge_export.llm.model import checkpoint_model  # noqa: E402
from corella_edge_export.llm.tokenizer import load_tokenizer  # noqa: E402
from corella_edge_export.recipe import recipe_from  # noqa: E402
from corella_edge_export.text import hidden, vectors  # noqa: E402
from tiny_run import prepared  # noqa: E402

TEXTS = ["Toy Story", "", "Misérables, Les (1995)", "a b c d e f g h i j k l m n o p", "x"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def made(checkpoint: Path, texts: list[str], tokens: int = 8) -> Floats:
    model = checkpoint_model(checkpoint).eval()
    return hidden.reader(model, load_tokenizer(checkpoint), tokens)(texts)


def test_they_are_means_of_hidden_states_alone_or_in_a_batch(checkpoint: Path) -> None:
    model, tokenizer = checkpoint_model(checkpoint).eval(), load_tokenizer(checkpoint)
    found = made(checkpoint, TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(made(checkpoint, [text])[0], vector, rtol=1e-4, atol=1e-5)
        if not text:
            assert not vector.any()
            continue
        ids = tokenizer(text).input_ids[:8]
        with torch.inference_mode():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(vector, states.mean(dim=0).numpy(), rtol=1e-4, atol=1e-5)


def test_a_runs_vectors_are_centred_and_of_length_one(checkpoint: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path / "small")
    text: dict[str, Any] = {"source": "llm", "path": str(checkpoint)}
    chosen = recipe_from({"name": "x", "crm": {"text": text}}, "x")
    (tmp_path / "run").mkdir()
    found = vectors.item_vectors(tmp_path / "run", chosen, data, quiet=True).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=2e-3)
    raw = made(checkpoint, vectors.texts_of(data, chosen.crm.text), 128)
    centred = raw - raw[np.unique(data.split("train").items)].mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert vectors.source_of(chosen).text_model(chosen, tmp_path / "run") is None
