"""The CRM's sections of a recipe: its warm-up, what is fitted for it on training rows, and each family's own sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from corella_edge.features.schema import LONGEST, MOST_BUCKETS
from corella_edge_export.crm.text_recipe import TextVectorsRecipe
from corella_edge_export.recipe_keys import from_zero, positive, share, signed

# The families: `kind` in a recipe, which also names the family's section and module (`section_of`) → the class there.
FAMILIES = {"dcnv2": "DCNv2", "din": "DIN", "sequence": "SequenceModel", "text-sequence": "TextSequence"}


@dataclass(frozen=True, slots=True)
class NumberRecipe:
    """A number of the items that liking follows, such as a year of release: section [crm.features.item_number].

    `attribute` names it, "" is none. It is an input as (number - `mean`) / `scale`, and the items' quality may take
    a step at every whole number from `first` to `last`. Both go with `item_quality`.
    """

    attribute: str = ""
    mean: float = signed(0.0)
    scale: float = positive(1.0)
    first: int = signed(0)
    last: int = signed(0)

    @property
    def steps(self) -> range:
        """The whole numbers that quality may take a step at."""
        return range(self.first, self.last + 1)


_BUCKETS = re.compile(r"hash:([1-9][0-9]{0,7})")
POLICIES = "'oov', 'hash:N' (N from 1 to 16777216) or 'refuse'"


def buckets_of(policy: str) -> int:
    """The buckets of a policy for unknown values; 0 of one that has none. Raises ValueError for no policy."""
    found = _BUCKETS.fullmatch(policy)
    if found is None:
        if policy not in ("oov", "refuse"):
            raise ValueError(policy)
        return 0
    if int(found[1]) > MOST_BUCKETS:
        raise ValueError(policy)
    return int(found[1])


@dataclass(frozen=True, slots=True)
class FeaturesRecipe:
    """What every family reads, fitted on training rows: section [crm.features].

    Without `user_ids` a user is what is told of him and what he did, as most users of a service are new to the model.
    The latest `history` events are read, from one whose number is a multiple of `history_block` on, so that what was
    made of them stays of use while new ones come (1: always the latest `history`, once there are as many); derived
    statistics look back on `window` events, whose ratings count from the `centre`: the mean of all training ratings,
    or of the event's item. `item_quality` adds how liked the candidate and the history's items are in training rows,
    where `item_text` names attributes whose words speak for items of few rows, and `item_number` a number that liking
    follows; `item_vectors` (their width) adds how far the same users like both, `user_level` how much more than others
    a known user likes, `user_leaning` whether that is so of good items and of a high `item_number`, and `history_pace`
    how quickly event follows event. With `event_attributes` an event says its item's attributes as well as its id.

    A text attribute is read as its first `text_words` distinct words, which share `text_buckets` rows by their hash (0
    = texts are not read); of a sequence the latest `sequence_length` values count. `unknown` gives a field's policy for
    values that training has not seen, by the field's name (user_id, item_id, item_ATTRIBUTE, user_ATTRIBUTE).
    """

    user_ids: bool = True
    history: int = 30
    history_block: int = 1
    window: int = 256
    centre: Literal["all", "item"] = "all"
    item_quality: bool = False
    item_text: tuple[str, ...] = ()
    item_vectors: int = from_zero(0)
    user_level: bool = False
    user_leaning: bool = False
    history_pace: bool = False
    event_attributes: bool = False
    text_words: int = 32
    text_buckets: int = from_zero(4096)
    sequence_length: int = 16
    unknown: Mapping[str, str] = field(default_factory=dict)
    item_number: NumberRecipe = field(default_factory=NumberRecipe)

    def problems(self) -> Iterator[str]:
        """Keys that need another key that is missing, and policies that are not known."""
        for name, policy in self.unknown.items():
            try:
                buckets_of(policy if isinstance(policy, str) else "")
            except ValueError:
                yield f"unknown, {name}: expected {POLICIES}, got {policy!r}"
        for name, most in (("text_words", LONGEST), ("sequence_length", LONGEST), ("text_buckets", MOST_BUCKETS)):
            if getattr(self, name) > most:
                yield f"{name}: at most {most}"
        for name in ("item_text", "user_level"):
            if getattr(self, name) and not self.item_quality:
                yield f"{name} rests on the items' quality; set item_quality = true"
        if self.item_number.attribute and not self.item_quality:
            yield "item_number rests on the items' quality; set item_quality = true"
        if self.user_level and not self.user_ids:
            yield "user_level is kept of each user by his id; set user_ids = true"
        if self.history_block > self.history:
            yield f"history_block: at most history, {self.history}"
        if self.item_number.first > self.item_number.last:
            yield f"item_number: first {self.item_number.first} is above last {self.item_number.last}"
        if self.user_leaning and not self.user_level:
            yield "user_leaning goes with the users' levels; set user_level = true"


@dataclass(frozen=True, slots=True)
class FamilyRecipe:
    """What a family's section begins with: embeddings start at random with the deviation `embedding_std`."""

    embedding_dim: int = 32
    embedding_std: float = positive(0.05)

    @property
    def layers(self) -> int:
        """How many layers the model's `states` gives, which the joint stage can align."""
        return 1

    @property
    def ranks(self) -> bool:
        """Whether it learns which item comes next, rather than each row's label."""
        return False

    @property
    def multiplies(self) -> bool:
        """Whether a score is the product of what the user and the item are, each by itself."""
        return False

    def problems(self) -> Iterator[str]:
        """Keys that do not go together."""
        yield from ()


@dataclass(frozen=True, slots=True)
class DcnRecipe(FamilyRecipe):
    """DCNv2 (arXiv 2008.13535): section [crm.dcnv2].

    `cross_rank` 0 means full-rank cross layers. The history is pooled evenly, or by `attention` of the candidate.
    """

    cross_layers: int = from_zero(3)
    cross_rank: int = from_zero(0)
    structure: Literal["parallel", "stacked"] = "parallel"
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = share(0.1)
    pooling: Literal["mean", "attention"] = "mean"

    @property
    def layers(self) -> int:
        """One a cross layer."""
        return self.cross_layers


@dataclass(frozen=True, slots=True)
class DinRecipe(FamilyRecipe):
    """DIN (arXiv 1706.06978): section [crm.din]. The activation unit has one hidden layer of `attention` numbers.

    `in_order`: an event also says its rating by itself, not only signed by its item, and how far back it lies.
    """

    attention: int = 36
    in_order: bool = False
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = share(0.1)


@dataclass(frozen=True, slots=True)
class SequenceRecipe(FamilyRecipe):
    """A causal transformer over the events (SASRec's form, arXiv 1808.09781): section [crm.sequence].

    It has `blocks` blocks of `heads` heads: `block = "transformer"` has softmax attention and a feed-forward layer of
    `inner` numbers; in "hstu" (arXiv 2402.17152) events add up, each by a SiLU, and a gate replaces that layer. With
    `head = "attention"` the candidate is a query of the last block, and layers of `hidden` numbers read what it finds
    beside the fields; with "dot" the score is the product of the user's state and the item's vector (the sum of its id,
    its attributes and a linear map of its numbers), by which a softmax ranks a whole catalogue at once.

    `loss = "pointwise"` learns each row's label; "softmax", for "dot" alone, which item a user likes next, among
    `negatives` others drawn for each batch (0 = all of the training rows) evenly or by how often they occur; both are
    corrected for how likely an item is drawn. A probability is then a scale and a bias on the score, learnt beside.
    A batch holds about `batch_events` events. The softmax takes `new_bonus` off the score of an item whose id is hidden
    (`oov_rate`), so that the score of one without training rows comes out so many nats higher than its chance is.

    "pointwise" with the head "attention" may also learn each row's exact rating, at `rating_weight`, and which item
    comes next, liked or not, at `next_weight`. Both teach the events more than labels do; nothing of them is served.
    """

    embedding_dim: int = 64
    block: Literal["transformer", "hstu"] = "transformer"
    blocks: int = 2
    heads: int = 2
    inner: int = 128
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = share(0.1)
    head: Literal["attention", "dot"] = "attention"
    loss: Literal["pointwise", "softmax"] = "pointwise"
    negatives: int = from_zero(0)
    drawn: Literal["evenly", "by count"] = "evenly"
    batch_events: int = 4096
    new_bonus: float = from_zero(0.0)
    rating_weight: float = from_zero(0.0)
    next_weight: float = from_zero(0.0)

    @property
    def layers(self) -> int:
        """The candidate after every block, or the user's vector alone."""
        return 1 if self.head == "dot" else self.blocks

    @property
    def ranks(self) -> bool:
        """The softmax does."""
        return self.loss == "softmax"

    @property
    def multiplies(self) -> bool:
        """The head "dot" does."""
        return self.head == "dot"

    def problems(self) -> Iterator[str]:
        """Keys that do not go together."""
        if self.embedding_dim % self.heads:
            yield f"embedding_dim {self.embedding_dim} must divide by heads {self.heads}"
        if self.loss == "softmax" and self.head != "dot":
            yield "loss = 'softmax' ranks by products; set head = 'dot'"
        if self.new_bonus and self.loss != "softmax":
            yield "new_bonus goes with loss = 'softmax'"
        for name in ("rating_weight", "next_weight"):
            if getattr(self, name) and (self.loss, self.head) != ("pointwise", "attention"):
                yield f"{name} goes with loss = 'pointwise' and head = 'attention'"


@dataclass(frozen=True, slots=True)
class TextSequenceRecipe(SequenceRecipe):
    """A sequence model that knows items by their words alone (Recformer's idea, arXiv 2305.13731): [crm.text_sequence].

    No field holds an id. Where `encoder_epochs` is above 0, the sentence encoder of [crm.text] is tuned before stage 1,
    beside a sequence model that stage 1 goes on with: by the next item among those of the batch, and by `mlm` times
    the loss of words hidden from the encoder. It trains the upper `train_layers` of the encoder's layers, at
    `encoder_rate`; where that is all of them, the embeddings of words as well. A batch holds about `encoder_events`
    events. A score is a cosine over `temperature`.
    """

    embedding_dim: int = 128
    inner: int = 256
    dropout: float = share(0.2)
    head: Literal["attention", "dot"] = "dot"
    loss: Literal["pointwise", "softmax"] = "softmax"
    temperature: float = positive(0.05)
    encoder_epochs: int = from_zero(0)
    encoder_rate: float = positive(5e-5)
    encoder_events: int = 512
    train_layers: int = 1
    mlm: float = from_zero(0.1)

    @property
    def trains(self) -> bool:
        """Whether the encoder is tuned."""
        return self.encoder_epochs > 0

    def problems(self) -> Iterator[str]:
        """Keys that do not go together."""
        yield from SequenceRecipe.problems(self)
        if self.head != "dot":
            yield "head: 'dot' alone scores by what a text says"
        if self.new_bonus:
            yield "new_bonus: no item is known by its id, so none is without one"


def section_of(kind: str) -> str:
    """The name of a family's section in a recipe, and of its module."""
    return kind.replace("-", "_")


SECTIONS = tuple(map(section_of, FAMILIES))


@dataclass(frozen=True, slots=True)
class CrmRecipe:
    """The CRM and stage 1, its warm-up on all training rows; `epochs` 0 switches the stage off.

    `kind` is the family, whose sizes stand in a section of its own. The CRM is the mean of `members` models of it.
    `oov_rate` is the share of user and item ids replaced by OOV in training, so that unseen ids have a trained row.
    A metric is looked at after every `epoch / evaluations` rows.
    """

    kind: str = "dcnv2"
    members: int = 1
    oov_rate: float = share(0.1)
    batch_size: int = 1024
    learning_rate: float = positive(1e-3)
    weight_decay: float = from_zero(1e-5)
    epochs: int = from_zero(5)
    evaluations: int = 2
    patience: int = 3
    features: FeaturesRecipe = field(default_factory=FeaturesRecipe)
    text: TextVectorsRecipe = field(default_factory=TextVectorsRecipe)
    dcnv2: DcnRecipe = field(default_factory=DcnRecipe)
    din: DinRecipe = field(default_factory=DinRecipe)
    sequence: SequenceRecipe = field(default_factory=SequenceRecipe)
    text_sequence: TextSequenceRecipe = field(default_factory=TextSequenceRecipe)

    @property
    def trains(self) -> bool:
        """Whether the stage is on."""
        return self.epochs > 0

    @property
    def family(self) -> FamilyRecipe:
        """The section of the recipe's kind."""
        found: FamilyRecipe = getattr(self, section_of(self.kind))
        return found

    @property
    def knows_ids(self) -> bool:
        """Whether anything of the model is learnt of a single user or item."""
        return not isinstance(self.family, TextSequenceRecipe)

    @property
    def model(self) -> str:
        """The family's name."""
        return FAMILIES[self.kind]

    def table(self) -> dict[str, Any]:
        """The recipe's sections without those of the other families."""
        own = section_of(self.kind)
        return {name: value for name, value in asdict(self).items() if name == own or name not in SECTIONS}


def flat(table: dict[str, Any]) -> dict[str, Any]:
    """A CRM's table (`CrmRecipe.table`) with the keys of its sections beside its own: how stages are told apart.

    That of the words stays a section: it has keys that [llm] has, too.
    """
    found = {name: value for name, value in table.items() if not isinstance(value, dict) or name == "text"}
    for name, section in table.items():
        found |= section if isinstance(section, dict) and name != "text" else {}
    return found


def nested(table: dict[str, Any]) -> dict[str, Any]:
    """The table of a run begun when [crm] was flat and DCNv2 the one family; others stay as they are."""
    found: dict[str, Any] = dict(table)
    for section, cls in (("features", FeaturesRecipe), ("dcnv2", DcnRecipe)):
        moved = {item.name: found.pop(item.name) for item in fields(cls) if item.name in found}
        if moved:
            found[section] = {**moved, **found.get(section, {})}
    return found
