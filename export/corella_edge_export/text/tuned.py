"""A sentence encoder while it is tuned: its upper layers learn, what the lower ones make of every text is kept.

One core makes some tens of gigaflops: the layers that learn cost thrice their forward pass, the fixed ones nothing but
memory, two bytes for each number of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.errors import InputError
from corella_edge_export.text.encoder import SentenceEncoder

LAYERED = ("bert", "roberta", "xlm-roberta", "camembert")  # whose layers stand in a list and need a mask alone
AT_ONCE = 64  # texts of like length that pass the layers together where nothing is learnt
Indices = npt.NDArray[np.int64]
Told = Callable[[int], Any]


class Texts:
    """Texts in tokens: those of text i are `ids[offsets[i]:offsets[i + 1]]`, int64; [CLS] and such are `special`."""

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        found = tokenizer.encode_batch(list(texts))
        lengths = [sum(one.attention_mask) for one in found]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        pieces = list(zip(found, lengths, strict=True))
        self.ids = np.concatenate([np.asarray(one.ids[:n], np.int64) for one, n in pieces])
        self.special = np.concatenate([np.asarray(one.special_tokens_mask[:n], np.bool_) for one, n in pieces])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def places(self, rows: Indices) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Where the tokens of texts stand in `ids`, and which of them are there: [n, the longest's length]."""
        first, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        along = np.arange(lengths.max())
        there = along < lengths[:, None]
        return np.where(there, first[:, None] + along, 0), there


class TunedEncoder(nn.Module):
    """The encoder over the texts of a catalogue, by catalogue row.

    Attributes:
        mask_token: what stands for a hidden word; None where the encoder's tokenizer has no such token.
    """

    def __init__(self, encoder: SentenceEncoder, tokenizer: Any, texts: Sequence[str], layers: int) -> None:
        """`layers`: how many of the encoder's layers learn; all of them with the embeddings of words.

        Raises:
            InputError: the encoder is of a kind whose layers cannot be taken apart here, or has fewer layers.
        """
        super().__init__()
        if encoder.config.model_type not in LAYERED:
            raise InputError(
                f"recipe, crm, text: an encoder of the kind {encoder.config.model_type!r} cannot be tuned, only of "
                f"{', '.join(LAYERED)}; set encoder_epochs = 0 in [crm.text_sequence]"
            )
        stack = encoder.model.encoder.layer
        if not 1 <= layers <= len(stack):
            raise InputError(
                f"recipe, crm, text_sequence, train_layers: the encoder has {len(stack)} layers, {layers} cannot learn"
            )
        self.encoder, self.texts = encoder, Texts(tokenizer, texts)
        self.worded = torch.tensor([bool(text) for text in texts])
        self.fixed = len(stack) - layers
        self.upper = list(stack[self.fixed :])
        learning: list[nn.Module] = self.upper if self.fixed else [encoder.model.embeddings, *self.upper]
        for part in learning:
            part.requires_grad_(True)
        self.mask_token = tokenizer.token_to_id("[MASK]") or tokenizer.token_to_id("<mask>") or None
        d = encoder.config.hidden_size
        # BERT's head over the words (arXiv 1810.04805), which a sentence encoder has lost.
        self.words = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.LayerNorm(d))
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        self._below: Tensor | None = None

    def train(self, mode: bool = True) -> TunedEncoder:
        """The fixed layers stay without dropout, as what they made is kept."""
        super().train(mode)
        if self.fixed:
            self.encoder.model.embeddings.eval()
            for layer in self.encoder.model.encoder.layer[: self.fixed]:
                layer.eval()
        return self

    def learnt(self) -> dict[str, Tensor]:
        """The encoder's weights that learn, by their names in it."""
        return {name: weight for name, weight in self.encoder.named_parameters() if weight.requires_grad}

    def prepare(self, told: Told = lambda count: None) -> None:
        """Have the fixed layers read every text; `told` hears how many are done."""
        if not self.fixed or self._below is not None:
            return
        kept = torch.empty(len(self.texts.ids), self.encoder.config.hidden_size, dtype=torch.float16)
        with torch.inference_mode():
            for rows in self._like():
                at, there = self.texts.places(rows)
                states = self._lower(torch.from_numpy(self.texts.ids[at]), torch.from_numpy(there))
                kept[torch.from_numpy(at[there])] = states[torch.from_numpy(there)].half().cpu()
                told(len(rows))
        self._below = kept

    def vectors(self, rows: Indices) -> Tensor:
        """float32 [n, width] of texts, through which the upper layers learn; zeros of an empty text."""
        at, there = (torch.from_numpy(found) for found in self.texts.places(rows))
        if self._below is None:
            states = self._lower(torch.from_numpy(self.texts.ids)[at], there)
        else:
            states = self._below[at].to(self._device).float()
        found: Tensor = self.encoder.pooled(self._higher(states, there), there.to(self._device).long())
        return found * self.worded[rows].to(self._device).unsqueeze(1)

    def all_vectors(self, told: Told = lambda count: None) -> npt.NDArray[np.float32]:
        """The vectors of all texts as they are now, float32 [texts, width]."""
        found = np.zeros((len(self.texts), self.encoder.width), np.float32)
        with torch.inference_mode():
            for rows in self._like():
                found[rows] = self.vectors(rows).float().cpu().numpy()
                told(len(rows))
        return found

    def hidden_words(self, rows: Indices, share: float, rng: np.random.Generator) -> Tensor:
        """Mean loss of words that are hidden from the encoder: masked language modelling.

        As in arXiv 1810.04805, section 3.1: of the texts' words a `share` is asked for; 80 % of those stand as the
        mask, 10 % as any other token, 10 % as they are.
        """
        assert self.mask_token is not None  # what the stage asks for before
        at, there = self.texts.places(rows)
        ids = self.texts.ids[at]
        asked = there & ~self.texts.special[at] & (rng.random(ids.shape) < share)
        if not asked.any():
            return self.bias.sum() * 0.0
        fate = rng.random(ids.shape)
        shown = np.where(asked & (fate < 0.8), self.mask_token, ids)
        any_other = rng.integers(0, self.encoder.config.vocab_size, ids.shape)
        shown = np.where(asked & (fate >= 0.9), any_other, shown)
        states = self._higher(self._lower(torch.from_numpy(shown), torch.from_numpy(there)), torch.from_numpy(there))
        table = self.encoder.model.embeddings.word_embeddings.weight
        logits = functional.linear(self.words(states[torch.from_numpy(asked)]), table, self.bias)
        return functional.cross_entropy(logits, torch.from_numpy(ids[asked]).to(logits.device))

    @property
    def _device(self) -> torch.device:
        return self.bias.device

    def _like(self) -> list[Indices]:
        """All rows, those of like length together."""
        order = np.argsort(np.diff(self.texts.offsets), kind="stable")
        return [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]

    def _lower(self, ids: Tensor, there: Tensor) -> Tensor:
        """What embeddings and fixed layers give, float32 [n, length, d]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.fixed):
            states = self.encoder.model.embeddings(input_ids=ids.to(self._device))
            return self._through(self.encoder.model.encoder.layer[: self.fixed], states, there)

    def _higher(self, states: Tensor, there: Tensor) -> Tensor:
        return self._through(self.upper, states, there)

    def _through(self, layers: Any, states: Tensor, there: Tensor) -> Tensor:
        hidden = torch.finfo(states.dtype).min * (~there.to(states.device))[:, None, None].to(states.dtype)
        for layer in layers:
            states = layer(states, attention_mask=hidden)[0]
        return states
