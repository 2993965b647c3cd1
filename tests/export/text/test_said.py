"""SAID: vectors that make a frozen LLM write the items' texts, and the map that gives new items theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError, InterruptedRunError, RecipeError  # noqa: E402
from corella_edge_export.crm.text_recipe import SaidRecipe  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.llm import model as llm  # noqa: E402
from corella_edge_export.llm.recipe import LlmRecipe  # noqa: E402
from corella_edge_export.recipe import Recipe, recipe_from  # noqa: E402
from corella_edge_export.text import vectors  # noqa: E402
from corella_edge_export.text.said import ItemWriter, ridge  # noqa: E402
from corella_edge_export.training import loop, said  # noqa: E402
from corella_edge_export.training.tasks.said import SaidTask  # noqa: E402
from encoders import make_encoder  # noqa: E402

HIDDEN = 16
SCRATCH = {"vocab_size": 300, "hidden": HIDDEN, "layers": 1, "heads": 2, "kv_heads": 2, "intermediate": 24,
           "context": 64, "text": {"epochs": 2, "block": 8, "batch_tokens": 64, "evaluations": 1}}  # fmt: skip


def recipe(path: Path | str = "", **keys: Any) -> Recipe:
    own = {"epochs": 3, "batch_tokens": 64, **keys}
    text = {"source": "said", "path": str(path), "attributes": ["title", "genres"], "said": own}
    return recipe_from({"name": "writing", "crm": {"text": text}, "llm": SCRATCH}, "writing")


def writer(texts: Sequence[Sequence[int]], start: Any = "random", seed: int = 0) -> ItemWriter:
    torch.manual_seed(seed)
    sizes = LlmRecipe(**{name: value for name, value in SCRATCH.items() if name != "text"})  # type: ignore[arg-type]
    model = llm.scratch_model(sizes, 40, 1, 2, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)  # a random head as it comes tells no word from another
    return ItemWriter(model, texts, start, 1)


TEXTS = [[5, 6, 7], [8], [], [5, 9, 10, 11, 12]]


def perplexity(task: SaidTask) -> float:
    with torch.inference_mode():
        return float(task.evaluate()["perplexity"])


@torch.inference_mode()
def test_the_loss_is_that_of_each_items_words_given_its_vector_one_by_one() -> None:
    model = writer(TEXTS)
    items = np.array([0, 1, 3])
    together = float(model.log_loss(items)) * sum(len(TEXTS[i]) for i in items)
    table, total = model.llm.get_input_embeddings().weight, 0.0
    for item in items.tolist():
        seen = [model.projector(model.vectors[item])]
        for token in TEXTS[item]:
            logits = model.llm(inputs_embeds=torch.stack(seen).unsqueeze(0)).logits[0, -1]
            total -= float(torch.log_softmax(logits, dim=0)[token])
            seen.append(table[token])
    assert together == pytest.approx(total, rel=1e-5)


def test_only_vectors_and_projector_learn_and_the_texts_become_likelier() -> None:
    task = SaidTask(writer(TEXTS), SaidRecipe(batch_tokens=8), seed=1)
    assert sorted(task.trainable()) == ["projector.bias", "projector.weight", "vectors"]
    before = {name: p.clone() for name, p in task.writer.llm.named_parameters()}
    start, optimizer = perplexity(task), torch.optim.Adam([task.writer.vectors], lr=0.05)
    for epoch in range(30):
        for index, batch in enumerate(task.batches(epoch)):
            optimizer.zero_grad()
            task.losses(batch, epoch, index, loop.Part())["loss"].backward()
            optimizer.step()
    assert perplexity(task) < 0.8 * start
    for name, p in task.writer.llm.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


@torch.inference_mode()
def test_the_parts_of_a_batch_add_up_to_it() -> None:
    task = SaidTask(writer(TEXTS), SaidRecipe(), seed=1)
    (batch,) = task.batches(0)
    assert sorted(batch) == [0, 1, 3]
    whole = float(task.losses(batch, 0, 0, loop.Part())["loss"])
    parts = [task.losses(batch, 0, 0, loop.Part(i, 5)) for i in range(5)]
    assert sum(float(part["loss"]) for part in parts if part) == pytest.approx(whole, rel=1e-5)


@torch.inference_mode()
def test_vectors_start_at_the_mean_of_the_words_or_at_random() -> None:
    model = writer(TEXTS, "words")
    table = model.llm.get_input_embeddings().weight
    mean = table[torch.tensor(TEXTS[0])].mean(dim=0)
    assert float(torch.cosine_similarity(model.vectors[0], mean, dim=0)) == pytest.approx(1.0, abs=1e-5)
    assert not torch.equal(writer(TEXTS, "random").vectors, writer(TEXTS, "random", seed=1).vectors)


def test_vectors_have_length_one_and_an_item_without_words_has_zeros() -> None:
    lengths = np.linalg.norm(writer(TEXTS).item_vectors(), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1], atol=1e-6)
    with pytest.raises(InputError, match=r"crm\.text\.attributes"):
        SaidTask(writer([[], []]), SaidRecipe(), seed=1)


@pytest.mark.slow
def test_a_run_has_them_made_once_and_resumes(data: PreparedData, tmp_path: Path, monkeypatch: Any) -> None:
    whole = made(tmp_path / "whole", recipe(), data)
    assert whole.shape == (len(data.item_ids), HIDDEN)
    evaluate, calls = SaidTask.evaluate, []

    def interrupted(task: SaidTask) -> Any:
        calls.append(task)
        if len(calls) == 2:
            raise InterruptedRunError("stopped")
        return evaluate(task)

    monkeypatch.setattr(SaidTask, "evaluate", interrupted)
    with pytest.raises(InterruptedRunError):
        made(tmp_path / "run", recipe(), data)
    np.testing.assert_array_equal(made(tmp_path / "run", recipe(), data), whole)
    monkeypatch.setattr(said, "raw", None)
    np.testing.assert_array_equal(made(tmp_path / "other", recipe(), data, reuse=[tmp_path / "run"]), whole)


@pytest.mark.slow
def test_without_an_epoch_the_vectors_are_those_that_training_starts_from(data: PreparedData, tmp_path: Path) -> None:
    found = {start: made(tmp_path / start, recipe(start=start, epochs=0), data) for start in ("words", "random")}
    assert not (tmp_path / "words" / "said" / "vectors").exists()
    assert not np.allclose(found["words"], found["random"])
    assert not np.allclose(found["words"], made(tmp_path / "learnt", recipe(start="words"), data))


def test_what_decides_them_tells_recipes_apart() -> None:
    assert said.identity(recipe()) == said.identity(recipe())
    assert said.identity(recipe()) != said.identity(recipe(start="random"))
    with pytest.raises(RecipeError, match="width"):
        recipe_from({"name": "w", "crm": {"text": {"source": "said", "width": 4}}}, "w")


def test_new_items_get_theirs_by_a_map_from_the_sentence_encoder(data: PreparedData, tmp_path: Path) -> None:
    made(tmp_path / "run", recipe(make_encoder(tmp_path / "encoder")), data)
    chosen = recipe(tmp_path / "encoder")
    found, served = vectors.projection(tmp_path / "run"), said.text_model(chosen, tmp_path / "run")
    assert found is not None
    assert [part.shape for part in found] == [(16, HIDDEN), (HIDDEN,)]
    assert served is not None
    assert served[0].width == HIDDEN
    assert said.text_model(recipe(), tmp_path / "run") is None
    told = json.loads((tmp_path / "run" / "said" / "new_items.json").read_text("utf-8"))["cosine"]
    assert told["unknown"] <= told["known"] <= 1.0


def test_the_map_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(3)
    inputs, true, bias = rng.normal(size=(200, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
    components, offset = ridge(inputs.astype(np.float32), (inputs @ true + bias).astype(np.float32), 1e-9)
    np.testing.assert_allclose(inputs @ components + offset, inputs @ true + bias, atol=1e-4)


def test_a_target_that_no_direction_of_the_inputs_tells_is_still_met_in_the_mean() -> None:
    rng = np.random.default_rng(4)
    inputs, targets = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(5.0, 0.1, size=(50, 3)).astype(np.float32)
    components, offset = ridge(inputs, targets, 1e6)
    np.testing.assert_allclose((inputs @ components + offset).mean(axis=0), targets.mean(axis=0), atol=1e-5)


def made(folder: Path, chosen: Recipe, data: PreparedData, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return vectors.item_vectors(folder, chosen, data, quiet=True, **options).copy()
