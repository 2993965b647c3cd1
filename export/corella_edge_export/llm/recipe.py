"""The LLM's sections of a recipe: its sizes or checkpoint, adapters, plain text, and what every stage of it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from corella_edge_export.recipe_keys import from_zero, positive, share

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """Low-rank adapters (peft) on a checkpoint; ReLLa's settings by default.

    `layers`: the upper so many blocks have adapters, 0 = all. The blocks below stay as they are, and nothing is kept of
    them for gradients.
    """

    layers: int = from_zero(0)
    r: int = 8
    alpha: int = 16
    dropout: float = share(0.05)
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class CodesRecipe:
    """The base model's knowledge of an item as text (`llm.codes`), the attribute `code` of its question.

    `bits` is a multiple of 8, 0 = none; `hide` is the share of the questions and lines that training leaves without it,
    as those of items that come later are.
    """

    bits: int = from_zero(0, 64)
    hide: float = share(0.1)


@dataclass(frozen=True, slots=True)
class PlainTextRecipe:
    """Language modelling on plain text before a scratch model sees any interaction.

    `files` are .txt, .jsonl or .parquet with a column `text` (or `abstract`). Batches hold blocks of `block` tokens;
    `blocks` of them are drawn at random, 0 = all.
    """

    files: tuple[str, ...] = ()
    blocks: int = from_zero(0)
    epochs: int = from_zero(1)
    block: int = 256
    batch_tokens: int = 8192
    learning_rate: float = positive(1e-3)
    weight_decay: float = from_zero(0.01)
    warmup: float = share(0.02)
    evaluations: int = 4
    patience: int = 4

    @property
    def trains(self) -> bool:
        """Whether the stage is on."""
        return bool(self.files) and self.epochs > 0


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """What every stage of the LLM has: `epochs` over `rows` rows, in batches of about `batch_tokens` tokens."""

    epochs: int = from_zero(0)
    rows: int = from_zero(25_000)
    batch_tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = positive(5e-4)
    weight_decay: float = from_zero(0.01)
    warmup: float = share(0.05)
    evaluations: int = 2
    patience: int = 4

    @property
    def trains(self) -> bool:
        """Whether the stage is on."""
        return self.epochs > 0


@dataclass(frozen=True, slots=True)
class LlmRecipe(StageRecipe):
    """The Yes/No model, `scratch` (sizes below) or `checkpoint` (LoRA on what `path` names: a Hugging Face directory, a
    GGUF file, or hub:OWNER/NAME@COMMIT), and its own training on answered questions; `epochs` 0 leaves that to the
    joint stage, as the paper does.

    `whole_items` gives every item of the training rows a token of its own for its question; `spell_rate` of the
    questions are spelled out in training all the same, so that the words of new items are trained. `text_weight`
    adds the next-token loss over the whole sequence, `ranking_weight` that a user's liked items stand above the others
    (`training.tasks.llm.ranking_loss`). `rows` limits the training rows (0 = all); whole users are
    drawn. A batch holds about `batch_tokens` tokens, worked off in `accumulate` pieces. `seed` is the model's
    own: like a downloaded checkpoint, it is the same for every seed of the recipe. `gradient_checkpointing`
    computes every block twice and keeps its input only.
    """

    source: Literal["scratch", "checkpoint"] = "scratch"
    path: str = ""
    vocab_size: int = 4096
    whole_items: bool = False
    spell_rate: float = share(0.1)
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 768
    context: int = 1024
    seed: int = from_zero(1)
    rows: int = from_zero(0)
    epochs: int = from_zero(1)
    learning_rate: float = positive(2e-3)
    text_weight: float = from_zero(0.0)
    ranking_weight: float = from_zero(0.0)
    valid_rows: int = from_zero(4000)
    evaluations: int = 4
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    text: PlainTextRecipe = field(default_factory=PlainTextRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    codes: CodesRecipe = field(default_factory=CodesRecipe)
