"""The recipe's section on the words of items, [crm.text]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from corella_edge_export.recipe_keys import from_zero


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """Text vectors of items, one more input of every family: section [crm.text].

    `source` says what makes them of the words of `attributes` (their first `tokens` tokens): "" nothing; "encoder" a
    sentence encoder, whose Hugging Face folder `path` is; "llm" the mean of the last hidden states of the checkpoint in
    `path` ("" = the recipe's LLM); "said" vectors learned so that a frozen LLM writes the words. `width` 0 keeps their
    own width; another number takes as many principal components of those of training items. `tuned`: every stage that
    trains the CRM goes on training the vectors; of items that come later, they are the untuned ones.
    """

    source: Literal["", "encoder", "llm", "said"] = ""
    path: str = ""
    attributes: tuple[str, ...] = ("title",)
    tokens: int = 128
    width: int = from_zero(0)
    tuned: bool = False

    def problems(self) -> Iterator[str]:
        """Keys that need another key."""
        if self.source and not self.attributes:
            yield "attributes: name at least one, such as title"
        if self.source == "encoder" and not self.path:
            yield "path: name the Hugging Face folder of the sentence encoder"
        if self.tuned and not self.source:
            yield "tuned: there are no vectors without a source"
