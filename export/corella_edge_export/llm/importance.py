"""An importance matrix: how much each column of a matrix is used, which quantisation weighs its errors by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge_export.llm.architectures import ARCHITECTURES, OUTSIDE
from corella_edge_export.llm.to_gguf import gguf_name

Importance = dict[str, npt.NDArray[np.float32]]


class _Squares:
    """Sums of squares of what goes through named places of a model, over all tokens."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """`values` [..., columns]."""
        flat = values.detach().double().reshape(-1, values.shape[-1])
        self.sums[name] = self.sums.get(name, torch.zeros(())) + flat.square().sum(0)
        self.counts[name] = self.counts.get(name, 0) + len(flat)

    def inputs_of(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, given: self.add(name, given[0])

    def outputs_of(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda _, given, made: self.add(name, made)


def importance(model: Any, texts: Iterable[Sequence[int]]) -> Importance:
    """Tensor of the GGUF → float32 [columns], the mean square of what each column is multiplied with.

    Args:
        model: as `to_gguf.write_gguf` takes it.
        texts: token ids of prompts, one after the other, as the model will be asked.
    """
    row, squares, hooks = ARCHITECTURES[model.config.model_type], _Squares(), []
    for name, part in model.model.named_modules():
        if isinstance(part, nn.Linear):
            place = gguf_name(f"model.{name}.weight", row)
            hooks.append(part.register_forward_pre_hook(squares.inputs_of(place)))
    head = "model.embed_tokens" if model.config.tie_word_embeddings else "lm_head"
    hooks.append(model.model.norm.register_forward_hook(squares.outputs_of(f"{OUTSIDE[head]}.weight")))
    try:
        with torch.inference_mode():
            for ids in texts:
                model.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (total / squares.counts[name]).float().numpy() for name, total in squares.sums.items()}
