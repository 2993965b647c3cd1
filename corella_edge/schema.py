"""Fields of the CRM and how a request becomes its input arrays.

One encoder serves training and serving: a training run encodes many (user, candidate) rows through the same
tables and the same derived functions that a request goes through. Index 0 pads, 1 is a value never seen in
training (OOV), known values follow in vocabulary order, so that no index can leave the embedding table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.derived import (
    DERIVED,
    FARTHEST,
    LARGEST,
    WIDEST,
    Bits,
    Facts,
    Floats,
    Histories,
    Ints,
    Side,
    number,
    number_fact,
    vector_fact,
)
from corella_edge.errors import BundleError
from corella_edge.request import Candidate, User

PAD, OOV, FIRST = 0, 1, 2

Kind = Literal["categorical", "multi", "sequence", "numeric", "derived"]
Feed = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Field:
    """One input of `crm.onnx`; its name is the input's name.

    Attributes:
        kind: categorical int64 [b]; multi and sequence int64 [b, length]; numeric float32 [b, 1];
            derived float32 [b, width of the function]. b is 1 on the user side, n on the item side.
        side: whose value it is; user-side inputs are broadcast over the candidates in the graph.
        source: "id", an attribute's name, "item" or "rating" of history events, or a derived function's name.
        vocab: name of the vocabulary (categorical, multi, sequence).
        length: slots of a multi field, events of a sequence, events a derived function looks back on.
        args: constants of a derived function or the mean and scale of a numeric field, fixed at fit time.
    """

    name: str
    kind: Kind
    side: Side
    source: str
    vocab: str = ""
    length: int = 1
    args: Mapping[str, Any] = field(default_factory=dict)


class Vocabulary:
    """Known values in order; `index` gives FIRST + place, OOV for anything else."""

    def __init__(self, name: str, values: Iterable[str]) -> None:
        self.name = name
        self.values = list(values)
        self.index_of = {value: FIRST + i for i, value in enumerate(self.values)}
        if len(self.index_of) != len(self.values):
            raise BundleError(f"vocabulary {name}: a value occurs twice")

    def __len__(self) -> int:
        """Rows of the embedding table: the values, PAD and OOV."""
        return FIRST + len(self.values)

    def index(self, value: Any) -> int:
        """The value's row; a missing one (None) is unseen, whatever texts are known."""
        return OOV if value is None else self.index_of.get(value_key(value), OOV)


def value_key(value: Any) -> str:
    """The one text form of a feature value: 3, 3.0 and "3" are the same value."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


@dataclass(frozen=True, slots=True)
class Schema:
    """All fields of a CRM with their vocabularies."""

    fields: tuple[Field, ...]
    vocabularies: Mapping[str, Vocabulary]

    def __post_init__(self) -> None:
        """Raises BundleError for a field that could not be encoded, or not within its table."""
        if len({item.name for item in self.fields}) != len(self.fields):
            raise BundleError("schema: a field occurs twice")
        if len({item.vocab for item in self.of("sequence") if item.source == "item"}) > 1:
            raise BundleError("schema: the sequences of items have different vocabularies")
        for item in self.fields:
            if problem := _problem(item, self.vocabularies):
                raise BundleError(f"schema: field {item.name}: {problem}")

    def of(self, *kinds: Kind, side: Side | None = None) -> list[Field]:
        """Fields of the given kinds (and side), in order."""
        return [f for f in self.fields if f.kind in kinds and (side is None or f.side == side)]

    @property
    def window(self) -> int:
        """How many of the latest events any field looks at."""
        return max([f.length for f in self.of("sequence", "derived")], default=0)

    def to_json(self) -> dict[str, Any]:
        return {"fields": [asdict(item) for item in self.fields]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]) -> Schema:
        return cls(tuple(_fields(data)), vocabularies)


def _fields(data: Mapping[str, Any]) -> list[Field]:
    """The fields of a decoded schema.json; their kinds of value are right, their meaning is unchecked."""
    try:
        fields = [Field(**item) for item in data["fields"]]
    except (KeyError, TypeError) as error:
        raise BundleError(f"schema.json: not a schema of this version ({error})") from None
    for item in fields:
        texts = all(isinstance(value, str) for value in (item.name, item.kind, item.side, item.source, item.vocab))
        args = isinstance(item.args, dict) and isinstance(item.args.get("vocab", ""), str)
        if not texts or not args or type(item.length) is not int:
            raise BundleError(f"schema.json: field {str(item.name)[:80]}: a value is of the wrong type")
    return fields


def vocabulary_names(data: Mapping[str, Any]) -> set[str]:
    """Vocabularies that a decoded schema.json refers to. Raises BundleError as `Schema.from_json`."""
    fields = _fields(data)
    names = {item.vocab for item in fields} | {item.args.get("vocab", "") for item in fields}
    return names - {""}


def _problem(item: Field, vocabularies: Mapping[str, Vocabulary]) -> str:
    """Why a field can not be encoded; empty if it can."""
    if item.kind not in get_args(Kind) or item.side not in get_args(Side) or item.length < 1:
        return "unknown kind or side, or a length below 1"
    if item.kind in ("categorical", "multi", "sequence") and item.vocab not in vocabularies:
        return f"unknown vocabulary {item.vocab!r}"
    if item.kind == "sequence":
        return _sequence_problem(item, vocabularies[item.vocab])
    if item.kind == "numeric":
        return _constants_problem(item, "mean", "scale")
    if item.kind == "derived":
        return _derived_problem(item, vocabularies)
    return ""


def _derived_problem(item: Field, vocabularies: Mapping[str, Vocabulary]) -> str:
    if item.source not in DERIVED or DERIVED[item.source][2] != item.side:
        return f"{item.source!r} is not a function of the {item.side} side"
    if item.source == "history_match" and item.args.get("vocab") not in vocabularies:
        return f"unknown vocabulary {item.args.get('vocab')!r}"
    if item.side == "item" and not isinstance(item.args.get("attribute"), str):
        return "args must name the attribute to look at"
    width = item.args.get("width")
    if item.source == "history_similarity" and not (type(width) is int and 1 <= width <= WIDEST):
        return f"args: width must be a whole number from 1 to {WIDEST}"
    if not isinstance(item.args.get("centre", ""), str):
        return "args: centre must name a number of the catalogue"
    return _constants_problem(item, "mean", "scale", "strength")


def _constants_problem(item: Field, *names: str) -> str:
    constants = [item.args.get(name) for name in names]
    if not all(isinstance(c, (int, float)) and abs(c) < LARGEST for c in constants):
        return f"args must hold the numbers {', '.join(names)}"
    return "scale and strength must be above 0" if min(item.args[n] for n in names if n != "mean") <= 0 else ""


def _sequence_problem(item: Field, vocab: Vocabulary) -> str:
    if item.source == "item":
        return ""
    if item.source != "rating":
        return f"a sequence of {item.source!r} is unknown"
    try:
        [float(value) for value in vocab.values]
    except ValueError as error:
        return f"its vocabulary of ratings: {error}"
    return ""


def encode_value(item: Field, vocab: Vocabulary | None, value: Any) -> Any:
    """One attribute value as an index, a padded list of indices, or a standardised number."""
    if item.kind == "numeric":
        centred = (number(value, item.args["mean"]) - item.args["mean"]) / item.args["scale"]
        return min(max(centred, -FARTHEST), FARTHEST)
    assert vocab is not None
    if item.kind == "categorical":
        return vocab.index(value)
    values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    known = [vocab.index(v) for v in values][: item.length]
    return known + [PAD] * (item.length - len(known))


class FeatureEncoder:
    """Requests → the CRM's input arrays, through tables encoded once per catalogue item."""

    def __init__(self, schema: Schema, catalog: Catalog) -> None:
        self.schema = schema
        self.catalog = catalog
        self.unknown_row = len(catalog)
        self._attributes = schema.of("categorical", "multi", "numeric", side="item")
        self.item_tables: Feed = {f.name: self._table(f) for f in self._attributes}
        self.item_index = self._item_index()
        self._looking = schema.of("derived", side="item")
        self._facts = {f.name: self._fact_table(f) for f in self._looking}
        self._centres = {f.name: self._centre_table(f) for f in schema.of("derived") if "centre" in f.args}

    def encode(self, user: User, candidates: Sequence[Candidate]) -> tuple[Feed, list[tuple[str, ...]]]:
        """The input arrays of one request and, per candidate, the names of fields with unseen values."""
        rows = np.asarray(self.catalog.rows([c.item for c in candidates]), dtype=np.int64)
        feed: Feed = {name: table[rows] for name, table in self.item_tables.items()}
        facts = {name: table[rows][None] for name, table in self._facts.items()}
        for i, candidate in enumerate(candidates):
            if candidate.features is not None:
                self._encode_inline(candidate, i, feed, facts)
        feed.update(self.encode_user(user))
        feed.update(self.encode_history(self.history(user), facts))
        return feed, self._unknown(feed, len(candidates))

    def encode_user(self, user: User) -> Feed:
        """User-side attribute inputs, leading dimension 1."""
        feed: Feed = {}
        for item in self.schema.of("categorical", "multi", "numeric", side="user"):
            value = user.id if item.source == "id" else user.features.get(item.source)
            dtype = np.float32 if item.kind == "numeric" else np.int64
            cell = np.asarray(encode_value(item, self._vocab(item), value), dtype=dtype)
            feed[item.name] = cell.reshape(1, 1) if item.kind == "numeric" else cell[None]
        return feed

    def history(self, user: User) -> Histories:
        """The latest events of one user as padded arrays with b = 1."""
        w = self.schema.window
        events = user.history[-w:] if w else ()
        rows = np.full((1, w), self.unknown_row, dtype=np.int64)
        ratings = np.full((1, w), np.nan, dtype=np.float32)
        mask = np.zeros((1, w), dtype=np.bool_)
        if events:
            rows[0, -len(events) :] = self.catalog.rows([e.item for e in events])
            ratings[0, -len(events) :] = [np.nan if e.rating is None else e.rating for e in events]
            mask[0, -len(events) :] = True
        return Histories(rows, ratings, mask)

    def encode_history(self, history: Histories, candidate_facts: Mapping[str, Facts]) -> Feed:
        """Sequence inputs int64 [b, length] and the derived ones."""
        feed: Feed = {f.name: self.encode_sequence(f, history.last(f.length)) for f in self.schema.of("sequence")}
        feed.update(self.encode_derived(history, candidate_facts))
        return feed

    def encode_derived(self, history: Histories, candidate_facts: Mapping[str, Facts]) -> Feed:
        """Derived inputs: float32 [b, width] on the user side, [b * n, width] on the item side."""
        feed: Feed = {}
        nothing = np.zeros((1, 1, 1), dtype=np.uint64)
        for item in self.schema.of("derived"):
            function, width, _ = DERIVED[item.source]
            recent = self._centred(item, history.last(item.length))
            looks = item.name in self._facts
            seen = self._facts[item.name][recent.rows] if looks else nothing
            facts = candidate_facts[item.name] if looks else nothing
            feed[item.name] = function(recent, seen, facts, item.args).reshape(-1, width)
        return feed

    def _centred(self, item: Field, history: Histories) -> Histories:
        """Ratings as seen from each event's own centre: moved so that it lies at the mean of all ratings."""
        if item.name not in self._centres:
            return history
        moved = history.ratings - self._centres[item.name][history.rows]
        return Histories(history.rows, moved, history.mask)

    def candidate_facts(self, rows: Ints) -> dict[str, Facts]:
        """What every derived field of the item side looks at, of catalogue rows int64 [b, n]."""
        return {name: table[rows] for name, table in self._facts.items()}

    def encode_sequence(self, item: Field, history: Histories) -> Ints:
        """int64 [b, w]: vocabulary indices of the events' items or ratings."""
        if item.source == "item":
            codes = self.item_index[history.rows]
        else:
            codes = self._rating_codes(item, history.ratings)
        return np.where(history.mask, codes, PAD)

    def _rating_codes(self, item: Field, ratings: Floats) -> Ints:
        vocab = self.schema.vocabularies[item.vocab]
        known = np.asarray([float(v) for v in vocab.values], dtype=np.float32)
        equal = ratings[..., None] == known
        return np.where(equal.any(axis=-1), equal.argmax(axis=-1) + FIRST, OOV)

    def _vocab(self, item: Field) -> Vocabulary | None:
        return self.schema.vocabularies.get(item.vocab)

    def _table(self, item: Field) -> npt.NDArray[Any]:
        """One encoded value a catalogue row, and a last row for items outside the catalogue."""
        vocab = self._vocab(item)
        ids, records = self.catalog.ids, self.catalog.attributes
        cells = ids if item.source == "id" else [record.get(item.source) for record in records]
        rows = [encode_value(item, vocab, cell) for cell in [*cells, None]]
        table = np.asarray(rows, dtype=np.float32 if item.kind == "numeric" else np.int64)
        return table.reshape(-1, 1) if item.kind == "numeric" else table

    def _item_index(self) -> Ints:
        """int64 [items + 1]: catalogue row → index in the vocabulary the history's items use."""
        fields = [f for f in self.schema.of("sequence") if f.source == "item"]
        if not fields:
            return np.full(len(self.catalog) + 1, OOV, dtype=np.int64)
        vocab = self.schema.vocabularies[fields[0].vocab]
        return np.asarray([vocab.index(i) for i in self.catalog.ids] + [OOV], dtype=np.int64)

    def _fact_table(self, item: Field) -> Facts:
        """[items + 1, width]: what the field's function looks at of every item, and of one outside the catalogue."""
        name = item.args["attribute"]
        values = [*(record.get(name) for record in self.catalog.attributes), None]
        return np.stack([self._fact(item, value) for value in values])

    def _fact(self, item: Field, value: Any) -> Facts:
        """An attribute's value as the field's function looks at it."""
        if item.source == "history_number":
            return number_fact(value, item.args)
        if item.source == "history_similarity":
            return vector_fact(value, item.args)
        vocab = self.schema.vocabularies[item.args["vocab"]]
        return attribute_bits(value, vocab, (len(vocab) + 63) // 64)

    def _centre_table(self, item: Field) -> Floats:
        """float32 [items + 1]: how far an item's centre, a number of the catalogue, lies from the mean."""
        mean = float(item.args["mean"])
        numbers = [number(record.get(item.args["centre"]), mean) - mean for record in self.catalog.attributes]
        return np.asarray([*numbers, 0.0], dtype=np.float32)

    def _encode_inline(self, candidate: Candidate, i: int, feed: Feed, facts: dict[str, Facts]) -> None:
        """Attributes that came with the request win over the catalogue's."""
        features = candidate.features or {}
        for item in self._attributes:
            if item.source in features and item.source != "id":
                feed[item.name][i] = encode_value(item, self._vocab(item), features[item.source])
        for item in self._looking:
            if item.args["attribute"] in features:
                facts[item.name][0, i] = self._fact(item, features[item.args["attribute"]])

    def _unknown(self, feed: Feed, n: int) -> list[tuple[str, ...]]:
        """Per candidate the sources ("user", "item", an attribute) whose value is OOV."""
        flags = [(_label(f), _holds_oov(feed[f.name])) for f in self.schema.of("categorical", "multi")]
        raised = [(label, np.broadcast_to(flag, n)) for label, flag in flags if flag.any()]
        if not raised:
            return [()] * n
        return [tuple(label for label, flag in raised if flag[i]) for i in range(n)]


def _holds_oov(codes: Ints) -> npt.NDArray[np.bool_]:
    """bool [b] of int64 [b] or [b, length]."""
    unseen: npt.NDArray[np.bool_] = codes == OOV
    return unseen if unseen.ndim == 1 else np.any(unseen, axis=1)


def _label(item: Field) -> str:
    return item.side if item.source == "id" else item.source


def attribute_bits(value: Any, vocab: Vocabulary, words: int) -> Bits:
    """uint64 [words]: bit i set when value i of the vocabulary is among `value` (a list or a scalar)."""
    bits = [0] * words
    for entry in value if isinstance(value, (list, tuple)) else [value]:
        index = vocab.index(entry)
        if index >= FIRST:
            bits[index // 64] |= 1 << (index % 64)
    return np.asarray(bits, dtype=np.uint64)
