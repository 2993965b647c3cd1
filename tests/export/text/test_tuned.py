"""An encoder that is tuned: what it gives, what learns, and the words that are hidden from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.text.encoder import SentenceEncoder, tokenizer_for  # noqa: E402
from corella_edge_export.text.tuned import TunedEncoder  # noqa: E402
from encoders import make_encoder  # noqa: E402

TEXTS = ["the tea", "", "cup", "the film 7 of a tea cup", "item b c d e f g h i j k l m n o p", "tea"]
ROWS = np.arange(len(TEXTS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


def tuned(folder: Path, layers: int) -> TunedEncoder:
    encoder = SentenceEncoder(folder)
    torch.manual_seed(0)
    return TunedEncoder(encoder, tokenizer_for(folder, encoder, 12), TEXTS, layers)


def plain(folder: Path) -> Any:
    """The vectors as the downloaded encoder gives them."""
    encoder = SentenceEncoder(folder)
    tokenizer = tokenizer_for(folder, encoder, 12)
    coded = tokenizer.encode_batch(TEXTS)
    with torch.inference_mode():
        vectors = encoder(torch.tensor([c.ids for c in coded]), torch.tensor([c.attention_mask for c in coded]))
    found = vectors.numpy()
    found[1] = 0.0  # an empty text
    return found


@pytest.mark.parametrize(("layers", "apart"), [(2, 1e-6), (1, 2e-3)])
def test_before_it_learns_it_gives_what_was_downloaded(folder: Path, layers: int, apart: float) -> None:
    """What the fixed layers made is kept in half precision."""
    model, expected = tuned(folder, layers).eval(), plain(folder)
    np.testing.assert_allclose(model.all_vectors(), expected, atol=1e-6)
    heard: list[int] = []
    model.prepare(heard.append)
    assert sum(heard) == (len(TEXTS) if layers == 1 else 0)
    np.testing.assert_allclose(model.all_vectors(), expected, atol=apart)
    one_by_one = torch.cat([model.vectors(np.array([row])) for row in ROWS]).detach().numpy()
    np.testing.assert_allclose(one_by_one, model.all_vectors(), atol=1e-6)


@pytest.mark.parametrize(("layers", "learns"), [(1, ("encoder.layer.1.",)), (2, ("encoder.layer.", "embeddings."))])
def test_the_upper_layers_learn_and_the_others_stay(folder: Path, layers: int, learns: tuple[str, ...]) -> None:
    model = tuned(folder, layers)
    model.prepare()
    model.train()
    before = {name: weight.clone() for name, weight in model.encoder.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    (model.vectors(ROWS)[:, 0].sum() + model.hidden_words(ROWS, 0.5, np.random.default_rng(0))).backward()
    optimizer.step()
    moved = {name for name, weight in model.encoder.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all(name.removeprefix("model.").startswith(learns) for name in moved)
    assert {name for name in model.learnt() if name not in moved} <= {
        name for name in before if "attention.self.key.bias" in name or "token_type" in name
    }  # whose gradients are zero


def test_dropout_is_of_the_layers_that_learn_alone(folder: Path) -> None:
    model = tuned(folder, 1).train()
    embeddings, lower, upper = model.encoder.model.embeddings, *model.encoder.model.encoder.layer
    assert (embeddings.training, lower.training, upper.training) == (False, False, True)


def test_hidden_words_can_be_learnt_and_special_tokens_are_not_asked_for(folder: Path) -> None:
    model = tuned(folder, 2)
    assert model.hidden_words(np.array([1]), 1.0, np.random.default_rng(0)).item() == 0.0
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(60):
        loss = model.hidden_words(ROWS, 0.3, np.random.default_rng(step % 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3.0  # about the logarithm of the words there are
    assert np.mean(losses[-3:]) < 0.3 * losses[0]


def test_most_asked_words_are_hidden_some_are_others_some_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shown = tuned(folder, 2), []
    real = TunedEncoder._lower
    monkeypatch.setattr(TunedEncoder, "_lower", lambda self, ids, there: (shown.append(ids), real(self, ids, there))[1])
    rows = np.full(400, 4)
    model.hidden_words(rows, 0.5, np.random.default_rng(0))
    at, _ = model.texts.places(rows)
    words, ids = model.texts.ids[at][:, 1:-1], shown[0].numpy()[:, 1:-1]  # between [CLS] and [SEP]
    assert (shown[0].numpy()[:, [0, -1]] == model.texts.ids[at][:, [0, -1]]).all()
    masked, other = (ids == model.mask_token).mean(), ((ids != words) & (ids != model.mask_token)).mean()
    assert masked == pytest.approx(0.4, abs=0.03)
    assert other == pytest.approx(0.05, abs=0.02)


def test_what_cannot_be_tuned_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train_layers: the encoder has 2 layers, 3"):
        tuned(folder, 3)
    other = make_encoder(tmp_path / "other")
    encoder = SentenceEncoder(other)
    encoder.config.model_type = "mpnet"
    with pytest.raises(InputError, match="'mpnet' cannot be tuned"):
        TunedEncoder(encoder, tokenizer_for(other, encoder, 12), TEXTS, 1)
