"""In what precision the LLM is trained: the one that the recipe names, where the machine computes in it."""

from __future__ import annotations

from collections.abc import Set
from functools import cache

import torch

from corella_edge_export.llm.recipe import LlmRecipe, Precision
from corella_edge_runtime.box import cpu_flags

# Flags of the CPUs that multiply in bfloat16: AVX512-BF16 and AMX (x86-64), FEAT_BF16 (aarch64).
MULTIPLY = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def base_dtype(recipe: LlmRecipe, device: str) -> torch.dtype:
    """What a checkpoint's frozen weights are held in while its adapters train on `device` ("cpu", "cuda").

    It is what the LLM is computed in there. Adapters are float32 always, and so is everything at export: this only
    halves the memory of the weights.
    """
    return torch.bfloat16 if computed_here(recipe.precision, device) == "bfloat16" else torch.float32


def computed_in(precision: Precision, device: str, flags: Set[str]) -> Precision:
    """What the LLM is computed in on `device`.

    A CPU without instructions for bfloat16 takes about ten times as long in it as in float32, as each number is widened
    and rounded by itself, and some of torch's products do not end at all.

    Args:
        precision: the recipe's.
        flags: of the CPU (`box.cpu_flags`); none where the system does not tell, and then the recipe is followed.
    """
    lacking = device == "cpu" and flags and not flags & MULTIPLY
    return "float32" if lacking else precision


def computed_here(precision: Precision, device: str) -> Precision:
    """`computed_in` on this machine."""
    return computed_in(precision, device, _flags())


def note(asked: Precision, device: str) -> str:
    """What to tell whoever trains here with the precision `asked`; empty where it is followed."""
    if computed_here(asked, device) == asked:
        return ""
    return (
        f'the LLM is trained in float32 and not in the recipe\'s precision, "{asked}", for which this CPU has no '
        "instructions: that would take about ten times as long"
    )


@cache
def _flags() -> frozenset[str]:
    return frozenset(cpu_flags())
