"""How long a training will take, about: from the sizes of a recipe and data, and how fast this machine multiplies.

The constants were measured on one core of an Intel Xeon with AVX-512; every other machine is taken to be as much slower
or faster as its matrix product is. A machine that does other work meanwhile takes longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.recipe import LlmRecipe, StageRecipe
from corella_edge_export.recipe import Recipe

REFERENCE = 130e9  # floating-point operations a second of one core, of `multiplying`, where the constants were measured
EFFICIENCY = 0.2  # of it that a step of a small LLM reaches
CRM_ROW = 50e-6  # seconds to learn one row once, of a model of an ensemble
ENCODED_ROW = 60e-6  # seconds to encode a training row, of each time
FITTED_ROW = 1e-7  # seconds of a training row in one step of fitting the items' quality
FITS, FIT_STEPS = 11, 100
CHARS = 3.5  # characters a token of a text, about
SECOND_CORE = 0.6  # of a core's work that each further one adds
LOOKED_AT = 500  # items whose text is looked at


def here(recipe: Recipe, data: PreparedData) -> float | None:
    """Seconds on this machine; None where there is a GPU, or a checkpoint of any size."""
    if torch.cuda.is_available() or recipe.llm.source != "scratch":
        return None
    return seconds(recipe, data, multiplying(), torch.get_num_threads())


def seconds(recipe: Recipe, data: PreparedData, speed: float, cores: int) -> float:
    """Seconds of all stages of a model from scratch, on cores of `speed` operations a second each."""
    work = crm_seconds(recipe, data) + llm_seconds(recipe, data)
    return work * REFERENCE / speed / (1.0 + SECOND_CORE * (min(cores, 4) - 1))


def crm_seconds(recipe: Recipe, data: PreparedData) -> float:
    """Of the base model, on one core of the reference."""
    rows, crm = int(data.info["counts"]["train"]), recipe.crm
    found = rows * (crm.epochs * crm.members * CRM_ROW + ENCODED_ROW)
    if crm.features.item_quality or crm.features.item_vectors:
        found += rows * (ENCODED_ROW + FITTED_ROW * FITS * FIT_STEPS)
    return found


def llm_seconds(recipe: Recipe, data: PreparedData) -> float:
    """Of the LLM in all its stages, on one core of the reference."""
    rows, llm = int(data.info["counts"]["train"]), recipe.llm
    stages: list[StageRecipe] = [llm, recipe.joint, recipe.continuation]
    passes = sum(stage.epochs * min(stage.rows or rows, rows) for stage in stages)
    tokens = passes * tokens_a_row(recipe, data)
    if llm.text.trains:
        tokens += llm.text.epochs * llm.text.blocks * llm.text.block
    return tokens * token_operations(llm, len(data.item_ids)) / (REFERENCE * EFFICIENCY)


def tokens_a_row(recipe: Recipe, data: PreparedData) -> float:
    """Tokens that a training row adds to the sequences: its question, an answer and its tail; padding included."""
    if recipe.llm.whole_items:
        question = 1.0 + recipe.llm.spell_rate * _chars(recipe, data) / CHARS
    else:
        question = _chars(recipe, data) / CHARS
    return 1.3 * (question + 2.0) + 1.0


def _chars(recipe: Recipe, data: PreparedData) -> float:
    """Characters of an item's question, on average."""
    names = [name for name in data.items if name in recipe.prompt.item_fields]
    chosen = range(0, len(data.item_ids), max(1, len(data.item_ids) // LOOKED_AT))
    texts = [recipe.prompt.item_text({name: data.items[name][row] for name in names}) for row in chosen]
    return sum(len(text or "") for text in texts) / max(1, len(texts))


def token_operations(llm: LlmRecipe, items: int) -> float:
    """Floating-point operations of a token, forwards and backwards."""
    heads = 2 * llm.hidden * llm.hidden * (1 + llm.kv_heads / llm.heads)
    weights = llm.layers * (heads + 3 * llm.hidden * llm.intermediate)
    table = llm.hidden * (llm.vocab_size + (items if llm.whole_items else 0))
    return 6 * (weights + (table / 4 if llm.text_weight else 0))


def multiplying(clock: Callable[[], float] = time.process_time, span: float = 0.05, rounds: int = 5) -> float:
    """Operations a second of processor time, of products as a small LLM has them: [4096, 128] by [128, 256]."""
    a, b = torch.ones(4096, 128), torch.ones(128, 256)
    operations, found = 2 * 4096 * 128 * 256, []
    for _ in range(rounds):
        start, count = clock(), 0
        while clock() - start < span:
            torch.mm(a, b)
            count += 1
        found.append(count * operations / (clock() - start))
    return median(found)


def told(seconds: float) -> str:
    """A time for people, of which one digit is meant."""
    if seconds < 60:
        return "less than a minute"
    minutes = seconds / 60
    if minutes < 90:
        return f"about {round(minutes):,} minute{'s' if round(minutes) > 1 else ''}"
    return f"about {round(minutes / 60):,} hours"
