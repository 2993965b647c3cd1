"""Both forms trained on the same rows, seed by seed; what is finished is read, what was interrupted goes on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from corella_edge.prompt import PromptEncoder
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.training.loop import Metrics
from corella_edge_export.training.run import Run, hold
from corella_edge_export.training.stages import Stages
from corella_edge_runtime.llm.llama.binding import quantize
from harness.pairs import OURS
from scenarios.wording.prompts import ITEMS, PAPER, ShortLines, constant_tokens

HISTORY_LINES, BLOCK = 20, 10
CONTEXT = 2048  # the repeated form needs more than the recipe's 1,024
STAGE_ROWS = 1000  # validation rows of the stage itself, which has one evaluation and so nothing to choose
GGUF = "Q8_0"
SAMPLED_USERS = 300


class ShortLineRun(Run):
    """A run with short lines, and the tokenizer that both forms share: it has learnt the words of both."""

    def __init__(self, folder: Path, recipe: Recipe, words: Run) -> None:
        super().__init__(folder, recipe, words.data)
        self.words = words

    @property
    def gguf(self) -> Path:
        return self.folder / "llm.gguf"

    def tokenizer(self) -> Any:
        return self.words.tokenizer()

    def repeated(self) -> PromptEncoder:
        """Prompts as a bundle with this template makes them: a line is the answered question."""
        _, catalog = self.words.fit_inputs()
        return self.prompt_encoder(catalog)

    def short_lines(self) -> ShortLines:
        return ShortLines(self.repeated())

    def builder(self) -> SequenceBuilder:
        """Every target a question of its own after the lines before it: no line needs the question's words."""
        encoder = self.short_lines()
        return SequenceBuilder(self.data, encoder, encoder.lines)

    @cached_property
    def tokens_a_row(self) -> float:
        """Tokens of training sequences a row, from some of the users."""
        split = self.data.split("train")
        users = draw_users(split, self.recipe.llm.rows, self.recipe.llm.seed)[:SAMPLED_USERS]
        made = self.builder().training(split, users.tolist(), 0)
        return sum(len(s.tokens) for s in made) / sum(len(s.rows) for s in made)

    def train(self) -> Metrics:
        """Train, or read what was trained; its GGUF lies beside it then. The stage's best line."""
        with hold(self.folder, self.recipe, self.data):
            line = Stages(self).do("llm", ())
            if not self.gguf.exists():
                self._quantise()
        return line

    def _quantise(self) -> None:
        """The model as a GGUF, complete or not at all."""
        whole, partial = self.folder / "f16.gguf", self.gguf.with_suffix(".partial")
        write_gguf(self.llm("llm"), self.tokenizer(), whole, self.folder.name, None, CONTEXT)
        quantize(whole, partial, GGUF)
        partial.rename(self.gguf)


Forms = dict[str, ShortLineRun]


@dataclass(frozen=True, slots=True)
class Study:
    """What both parts measure: the forms of any training seed, and how they are trained."""

    recipe: Recipe
    words: Run
    work: Path
    rows: int
    step: str

    def forms(self, seed: int) -> Forms:
        """Ours and the paper's with one training seed."""
        made = {
            name: ShortLineRun(
                self.work / f"seed-{seed}" / name, form_recipe(self.recipe, name, self.rows, seed), self.words
            )
            for name in ITEMS
        }
        if self.step == "rows":
            times = made[PAPER].tokens_a_row / made[OURS].tokens_a_row
            made[PAPER].recipe = with_batch(made[PAPER].recipe, times)
        return made

    def about(self, forms: Forms) -> dict[str, Any]:
        """What was trained, and how.

        Raises:
            ExportError: the paper's question has not about 30 constant tokens.
        """
        return {
            "recipe": self.recipe.name, "data": self.words.data.info["name"], "training_rows": self.rows,
            "step_holds_equal": self.step, "history_lines": HISTORY_LINES, "block": BLOCK, "items": ITEMS,
            "constant_tokens": constant_tokens(forms[OURS].repeated(), forms[PAPER].repeated()),
        }  # fmt: skip


@contextmanager
def study(options: argparse.Namespace) -> Iterator[Study]:
    """The data, the recipe and the shared tokenizer, made at the first time; nobody else trains there meanwhile."""
    data, recipe = PreparedData.open(options.data), load_recipe(options.recipe)
    shared = form_recipe(recipe, PAPER, options.rows, recipe.llm.seed)
    with hold(options.work / "words", shared, data):
        words = Run(options.work / "words", shared, data)
        yield Study(recipe, words, options.work, options.rows, options.step)


def form_recipe(recipe: Recipe, name: str, rows: int, seed: int) -> Recipe:
    """The recipe with one form's question; one epoch on `rows` rows, questions in words."""
    llm = replace(
        recipe.llm, whole_items=False, context=CONTEXT, rows=rows, valid_rows=STAGE_ROWS, epochs=1, evaluations=1,
        seed=seed,
    )  # fmt: skip
    prompt = replace(recipe.prompt, item=ITEMS[name], history_lines=HISTORY_LINES, block=BLOCK)
    return replace(recipe, llm=llm, prompt=prompt)


def with_batch(recipe: Recipe, times: float) -> Recipe:
    """Steps with so many times the tokens: as many rows as the shorter form's steps have, so as many steps."""
    return replace(recipe, llm=replace(recipe.llm, batch_tokens=round(recipe.llm.batch_tokens * times)))
