"""The recipe's section on the words of items, [crm.text]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from corella_edge.features.schema import TextForm
from corella_edge_export.recipe_keys import from_zero, positive, share


@dataclass(frozen=True, slots=True)
class SaidRecipe:
    """SAID's first stage: vectors that make a frozen LLM write the items' texts, section [crm.text.said].

    They `start` at random or at the mean of the words' embeddings; `epochs = 0` leaves them there. The LLM is the
    recipe's [llm]; one from scratch reads the items' texts first, as [llm.text] says. `new_items` is the ridge
    strength of the linear map from the sentence encoder's vectors, which gives an item that comes later its vector.
    """

    start: Literal["random", "words"] = "words"
    epochs: int = from_zero(8)
    batch_tokens: int = 4096
    learning_rate: float = positive(1e-2)
    projector_learning_rate: float = positive(1e-3)
    evaluations: int = 1
    patience: int = 4
    new_items: float = positive(0.1)


@dataclass(frozen=True, slots=True)
class TextVectorsRecipe:
    """Text vectors of items, one more input of every family: section [crm.text].

    `source` says what makes them of the words of `attributes` (their first `tokens` tokens; `form`: the "values" alone,
    or "pairs" of an attribute's name and its value): "" nothing; "encoder" a sentence encoder, whose Hugging Face
    folder `path` is, or its commit of the hub (hub:OWNER/NAME@COMMIT); "llm" the mean of the last hidden states of the
    checkpoint in `path` ("" = the recipe's LLM); "said" vectors learned so that a frozen LLM writes the words, to which
    the vectors of the sentence encoder in `path` are mapped for items that come later ("" = those get none). `width` 0
    keeps their own width; another number takes as many principal components of those of training items. `tuned`: every
    stage that trains the CRM goes on training the vectors; of items that come later, they are the untuned ones.

    `map_start`: the map from the vectors to the CRM begins at "random", or, for families whose scores are products, the
    model begins as a "cosine" of the candidate's words with those of the latest events. `map_rate`: the factor on the
    learning rate of that map; 0 keeps it as it starts. `start_share`: stage 1 judges and keeps the mean of the trained
    weights and the start's, of which these are that share: what a cosine knows of items without training rows stays.
    """

    source: Literal["", "encoder", "llm", "said"] = ""
    path: str = ""
    attributes: tuple[str, ...] = ("title",)
    form: TextForm = "values"
    tokens: int = 128
    width: int = from_zero(0)
    tuned: bool = False
    map_start: Literal["random", "cosine"] = "random"
    map_rate: float = from_zero(1.0)
    start_share: float = share(0.0)
    said: SaidRecipe = field(default_factory=SaidRecipe)

    def problems(self) -> Iterator[str]:
        """Keys that need another key."""
        if self.source and not self.attributes:
            yield "attributes: name at least one, such as title"
        if self.source == "encoder" and not self.path:
            yield "path: name the Hugging Face folder of the sentence encoder"
        if self.source == "said" and self.width:
            yield "width: SAID's vectors are as wide as the LLM's hidden states; set it to 0"
        if self.tuned and not self.source:
            yield "tuned: there are no vectors without a source"
        if self.start_share and self.map_start != "cosine":
            yield "start_share: a mean with weights at random is worth nothing; set map_start = 'cosine'"
        if self.map_start == "cosine" and not self.source:
            yield "map_start: there are no words without a source"
