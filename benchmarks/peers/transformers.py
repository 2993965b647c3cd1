"""transformers on the same weights: one prompt at a time, and by hand over a shared prefix."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt
from harness.models import Subject
from harness.shapes import by_prefix


class Single:
    """`model(ids, logits_to_keep=1)`, one prompt a call; float32 or bfloat16 by the name's end."""

    def __init__(self, name: str, subject: Subject, tokens: Tokens, sample: int | None) -> None:
        self.name, self.sample, self._tokens = name, sample, tokens
        self._model = model_of(subject, name)

    def reset(self) -> None:
        return None

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return [self._one([*prompt.prefix, *prompt.suffix]) for prompt in prompts]

    @torch.inference_mode()
    def _one(self, ids: list[int]) -> float:
        logits = self._model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
        return float(_yes(logits[[self._tokens.yes, self._tokens.no]]))

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        self._model = None


class Shared:
    """The prefix once, its cache repeated for all suffixes, which go through together; only two rows of the head."""

    sample: int | None = None

    def __init__(self, name: str, subject: Subject, tokens: Tokens) -> None:
        self.name = name
        self._model = model_of(subject, name)
        self._answers = self._model.get_output_embeddings().weight[[tokens.yes, tokens.no]].detach()

    def reset(self) -> None:
        return None

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return [p for prefix, suffixes in by_prefix(list(prompts)) for p in self._group(prefix, suffixes)]

    @torch.inference_mode()
    def _group(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> list[float]:
        cache = self._model.model(torch.tensor([prefix]), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(suffixes))
        hidden = self._model.model(torch.tensor(suffixes), past_key_values=cache).last_hidden_state[:, -1]
        found: list[float] = _yes(hidden @ self._answers.T).tolist()
        return found

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        self._model = None


def model_of(subject: Subject, name: str) -> Any:
    """The reference itself, or a bfloat16 copy of it."""
    return subject.reference if "f32" in name else copy.deepcopy(subject.reference).to(torch.bfloat16)


def _yes(logits: torch.Tensor) -> torch.Tensor:
    """P(Yes) from logits [..., (yes, no)]."""
    return torch.softmax(logits.float(), -1)[..., 0]
