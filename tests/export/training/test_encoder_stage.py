"""The stage that tunes a sentence encoder: it learns, resumes exactly, and the CRM goes on with what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError, RecipeError  # noqa: E402
from corella_edge.features.vectors import as_float16  # noqa: E402
from corella_edge_export.crm.base import CrmModel  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.recipe import Recipe  # noqa: E402
from corella_edge_export.text.sentences import reader  # noqa: E402
from corella_edge_export.text.vectors import texts_of  # noqa: E402
from corella_edge_export.training import loop  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.stages import Stages  # noqa: E402
from corella_edge_export.training.tasks import encoder as tasks  # noqa: E402
from tiny_run import recipe  # noqa: E402

KEYS = {"kind": "text-sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "history": 6, "learning_rate": 3e-3}
OWN = {"encoder_epochs": 2, "encoder_events": 64, "train_layers": 1, "encoder_rate": 3e-3, "mlm": 0.1}


def chosen(sentence_encoder: Path, **own: Any) -> Recipe:
    """A tiny recipe of the family, its words those of the titles and genres."""
    text = {"source": "encoder", "path": str(sentence_encoder), "attributes": ["title", "genres"]}
    return recipe(crm={**KEYS, **OWN, **text, **own})


@pytest.fixture(scope="module")
def whole(data: PreparedData, sentence_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose stages `encoder` and `crm` are finished."""
    run = Run(tmp_path_factory.mktemp("run"), chosen(sentence_encoder), data)
    stages = Stages(run, quiet=True)
    for name in ("encoder", "crm"):
        stages.do(name, ())
    return run


def test_the_item_matrix_is_that_of_the_tuned_encoder(whole: Run) -> None:
    made = whole.text_model()
    assert made is not None
    again = reader(*made)(texts_of(whole.data, whole.recipe.crm.text))
    _, catalog = whole.fit_inputs()
    assert catalog.vectors is not None
    np.testing.assert_allclose(catalog.vectors.astype(np.float32), again, atol=5e-3)  # the lower layer's are halves
    before = whole.text_vectors().astype(np.float32)
    assert np.abs(catalog.vectors - before).max() > 0.02


def test_the_crm_goes_on_from_the_one_that_the_encoder_was_tuned_beside(whole: Run) -> None:
    task, _ = Stages(whole, quiet=True).task("crm")
    beside, begun = whole.best("encoder", "crm"), task.model.state_dict()
    assert all(torch.equal(begun[name], tensor) for name, tensor in beside.items())
    crm = whole.crm("crm")
    assert isinstance(crm, CrmModel)
    assert any(not torch.equal(crm.state_dict()[name], tensor) for name, tensor in beside.items())


def test_each_part_of_the_loss_moves_what_it_should(data: PreparedData, sentence_encoder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, chosen(sentence_encoder, mlm=0.5), data)
    task, _ = Stages(run, quiet=True).task("encoder")
    task.model.train()
    found = task.losses(task.batches(0)[0], 0, 0, loop.Part())
    assert found["loss"].item() == pytest.approx(
        found["next_loss"].item() + found["label_loss"].item() + 0.5 * found["word_loss"].item(), rel=1e-5
    )
    (found["next_loss"]).backward()
    weights = dict(task.model.named_parameters())
    upper = [w for name, w in weights.items() if ".layer.1.output.dense.weight" in name]
    lower = [w for name, w in weights.items() if ".layer.0." in name]
    assert upper
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in upper)
    assert all(w.grad is None for w in lower)


def test_parts_of_a_batch_add_up_to_it(data: PreparedData, sentence_encoder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, chosen(sentence_encoder, mlm=0.0), data)
    task, _ = Stages(run, quiet=True).task("encoder")
    task.model.eval()
    batch = task.batches(0)[0]
    at_once = task.losses(batch, 0, 0, loop.Part())["next_loss"]
    parts = [task.losses(batch, 0, 0, loop.Part(index, 2)) for index in range(2)]
    assert sum(part["next_loss"].item() for part in parts) == pytest.approx(at_once.item(), rel=1e-5)


def test_others_of_the_batch_are_what_an_item_is_told_from(
    data: PreparedData, sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    real = tasks.ItemsOfBatch._sampled
    monkeypatch.setattr(
        tasks.ItemsOfBatch, "_sampled", lambda self, *found: (told.append(found), real(self, *found))[1]
    )
    run = Run(tmp_path, chosen(sentence_encoder, encoder_events=12), data)
    task, _ = Stages(run, quiet=True).task("encoder")
    batch = task.batches(0)[0]
    task.losses(batch, 0, 0, loop.Part())
    _, table, wanted, drawn = told[0]
    rows = task.chunks.along(batch).feed
    present = np.union1d(rows["item_text"], rows["history_text"])
    assert set(task.others.items[drawn].tolist()) <= set(present.tolist())
    assert set(wanted.tolist()) <= set(drawn.tolist())
    assert table.shape == (len(wanted), len(drawn))
    assert len(drawn) < len(task.others.items)


@pytest.mark.slow
def test_an_interrupted_stage_ends_as_an_uninterrupted_one(
    whole: Run, data: PreparedData, sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the midst of an epoch, when the item matrix is older than the weights."""
    run = Run(tmp_path, chosen(sentence_encoder), data)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    task, schedule = Stages(run, quiet=True).task("encoder")
    steps, real = len(task.batches(0)) + 2, tasks.EncoderTask.losses
    count = [0]

    def once(self: Any, *given: Any) -> Any:
        count[0] += 1
        if count[0] > steps:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(tasks.EncoderTask, "losses", once)
    (tmp_path / "encoder").mkdir()
    with pytest.raises(KeyboardInterrupt):
        loop.fit(task, schedule, tmp_path / "encoder", run.recipe.seed, quiet=True)
    monkeypatch.setattr(tasks.EncoderTask, "losses", real)
    Stages(run, quiet=True).do("encoder", ())
    expected, found = whole.best("encoder"), run.best("encoder")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def test_the_kept_vectors_are_those_of_the_kept_weights(whole: Run) -> None:
    kept = whole.best("encoder")["vectors"].numpy()
    _, catalog = whole.fit_inputs()
    np.testing.assert_array_equal(catalog.vectors, as_float16(kept))


REFUSED = [
    ({"text": {"source": ""}}, "text, source"),
    ({"text": {"source": "llm", "path": ""}}, "tunes an encoder"),
    ({"text": {"tuned": True}}, "an id in other clothes"),
    ({"item_quality": True}, "item_quality: is of ids"),
]


@pytest.mark.parametrize(("keys", "told"), REFUSED)
def test_what_would_bring_ids_back_is_refused(sentence_encoder: Path, keys: dict[str, Any], told: str) -> None:
    from corella_edge_export.recipe import recipe_from, table_of

    table = table_of(chosen(sentence_encoder))
    given = keys.pop("text", {})
    table["crm"]["text"].update(given)
    table["crm"]["features"].update(keys)
    with pytest.raises(RecipeError, match=told):
        recipe_from(table, "tiny")


def test_an_encoder_without_a_token_for_hidden_words_is_told(
    data: PreparedData, sentence_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.tuned_encoder

    def without(run: Run) -> Any:
        found = real(run)
        found.mask_token = None
        return found

    monkeypatch.setattr(tasks, "tuned_encoder", without)
    with pytest.raises(InputError, match="set mlm = 0"):
        Stages(Run(tmp_path, chosen(sentence_encoder), data), quiet=True).task("encoder")
