"""Fields of the CRM, their vocabularies, and how one value becomes an index or a number.

Index 0 pads, 1 is a value never seen in training (OOV), known values follow in vocabulary order, so that no index can
leave the embedding table. A vocabulary may have hash buckets after its values: an unseen value then has the row
that its stable hash gives. Whole requests are encoded by `corella_edge.features.encoder`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.features.derived import DERIVED, FARTHEST, LARGEST, WIDEST, Ints, Side, is_number, number
from corella_edge.formats.text_table import TextTable, text_hash

PAD, OOV, FIRST = 0, 1, 2
LONGEST = 10_000  # slots of a field, events that it looks back on
MOST_BUCKETS = 2**24
REFUSE = "refuse"

Kind = Literal["categorical", "multi", "ordered", "text", "sequence", "numeric", "derived", "vector", "vectors"]
CODED: tuple[Kind, ...] = ("categorical", "multi", "ordered", "text")  # an attribute's values as rows of a table
TextForm = Literal["values", "pairs"]  # an item's attributes as text: their values alone, or each after its name
ATTRIBUTES: tuple[Kind, ...] = (*CODED, "numeric")
EVENTS: tuple[Kind, ...] = ("sequence", "vectors")  # one entry for each of the latest events
NUMBERS: tuple[Kind, ...] = ("numeric", "derived", "vector", "vectors")  # float32; all others are int64
Feed = dict[str, npt.NDArray[Any]]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Field:
    """One input of `crm.onnx`; its name is the input's name.

    Attributes:
        kind: categorical int64 [b]; multi (a set of values), ordered (the latest of a list), text (its words) and
            sequence (of the history's events) int64 [b, length]; numeric float32 [b, width]; derived float32 [b, width
            of the function]; vector (of an item's text) float32 [b, length]; vectors (those of the history's events)
            float32 [b, length, width]. b is 1 on the user side, n on the item side.
        side: whose value it is; user-side inputs are broadcast over the candidates in the graph.
        source: "id", an attribute's name, "item" or "rating" of history events, a derived function's name, or "text" of
            vectors.
        vocab: name of the vocabulary (of the kinds whose values are indices).
        length: slots of a field of several values, events of a sequence or that a derived function looks back on,
            numbers of a vector.
        args: constants of a derived function, or the mean and scale of a numeric field, fixed at fit time; with
            `missing` true the number has a second one beside it, 1 where it is missing. `unknown` "refuse": a request
            with a value that training has not seen is refused. `block` of what is of events: see `kept`. A vector's
            `attributes` are those whose words it is made of, in the `form` "values" where none is named; the `width` of
            vectors is that of each.
    """

    name: str
    kind: Kind
    side: Side
    source: str
    vocab: str = ""
    length: int = 1
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Numbers of a numeric or derived field, or of each of the vectors."""
        if self.kind in ("vector", "vectors"):
            return self.length if self.kind == "vector" else int(self.args["width"])
        return DERIVED[self.source][1] if self.kind == "derived" else 2 if self.args.get("missing") else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one user's or item's value."""
        if self.kind in NUMBERS:
            return (self.length, self.width) if self.kind == "vectors" else (self.width,)
        return () if self.kind == "categorical" else (self.length,)

    def kept(self, events: Any) -> Any:
        """How many of a history's latest events a sequence holds; of `events` in all, a number or an array of them.

        They begin at an event whose number, counted from the history's first, is a multiple of `block`: while it stays
        the same, what a model made of the older events is of use. At most `length`, more than `length` - `block`.
        """
        block = self.args.get("block", 1)
        beyond = events - self.length
        return events - (beyond > 0) * (-(-beyond // block) * block)


class Vocabulary:
    """Known values in order; `index` gives FIRST + place, and for anything else a bucket or, without buckets, OOV.

    Attributes:
        values: the known ones, as a list, or mapped where they are many.
        buckets: rows after those of the values, which unseen values share by their hash.
        first_bucket: the row from which on a value is unseen.
    """

    def __init__(self, name: str, values: Iterable[str], buckets: int = 0) -> None:
        self.name, self.buckets = name, buckets
        self.values: Sequence[str] = values if isinstance(values, TextTable) else list(values)
        self.index_of: Mapping[str, int] = (
            _Rows(self.values)
            if isinstance(self.values, TextTable)
            else {value: FIRST + i for i, value in enumerate(self.values)}
        )
        if len(self.index_of) != len(self.values):
            raise BundleError(f"vocab/{name}.json: a value occurs twice")
        self.first_bucket = FIRST + len(self.values)

    @property
    def file(self) -> str:
        """Its file in a bundle."""
        return f"vocab/{self.name}.{'safetensors' if isinstance(self.values, TextTable) else 'json'}"

    def __len__(self) -> int:
        """Rows of the embedding table: PAD, OOV, the values and the buckets."""
        return self.first_bucket + self.buckets

    def index(self, value: Any) -> int:
        """The value's row; a missing one (None) is OOV, whatever texts are known."""
        key = value if type(value) is str else None if value is None else value_key(value)
        if key is None:
            return OOV
        found = self.index_of.get(key, OOV)
        return self.unseen(key) if found == OOV else found

    def unseen(self, key: str) -> int:
        """The row of a text that is not among the values."""
        return self.first_bucket + text_hash(key) % self.buckets if self.buckets else OOV

    def indices(self, values: Sequence[Any]) -> Ints:
        """int64 [n]: `index` of each, looked up together."""
        if isinstance(self.values, TextTable) and not self.buckets and set(map(type, values)) <= {str}:
            return np.maximum(self.values.places(values) + FIRST, OOV)
        return np.fromiter(map(self.index, values), np.int64, len(values))

    def is_unseen(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Of rows of the table, which stand for values that training has not seen; of words without values none do."""
        if self.first_bucket == FIRST and self.buckets:
            return np.zeros(rows.shape, np.bool_)
        unseen: npt.NDArray[np.bool_] = rows == OOV
        return unseen | (rows >= self.first_bucket) if self.buckets else unseen

    def hidden(self) -> Ints:
        """int64 [rows]: the row that each row's value would have, were it unseen."""
        rows = np.full(len(self), OOV, np.int64)
        rows[PAD] = PAD
        if self.buckets:
            rows[FIRST : self.first_bucket] = [self.unseen(value) for value in self.values]
            rows[self.first_bucket :] = np.arange(self.first_bucket, len(self))
        return rows


class _Rows(Mapping[str, int]):
    """The rows of mapped values."""

    def __init__(self, values: TextTable) -> None:
        self._values = values

    def __getitem__(self, value: str) -> int:
        return self._values.places_of[value] + FIRST

    def get(self, value: Any, default: Any = None) -> Any:
        place = self._values.place(value) if isinstance(value, str) else -1
        return default if place < 0 else place + FIRST

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


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
            raise BundleError("schema.json: a field occurs twice")
        if len({item.vocab for item in self.of("sequence") if item.source == "item"}) > 1:
            raise BundleError("schema.json: the sequences of items have different vocabularies")
        for item in self.fields:
            if problem := _problem(item, self.vocabularies):
                raise BundleError(f"schema.json: field {item.name}: {problem}")
        vectors = self.of("vector", "vectors")
        if len(self.of("vector")) > 1 or len({item.width for item in vectors}) > 1:
            raise BundleError("schema.json: more than one field holds the items' vectors, or their widths differ")

    def of(self, *kinds: Kind, side: Side | None = None) -> list[Field]:
        """Fields of the given kinds (and side), in order."""
        return [f for f in self.fields if f.kind in kinds and (side is None or f.side == side)]

    @property
    def window(self) -> int:
        """How many of the latest events any field looks at."""
        return max([f.length for f in self.of(*EVENTS, "derived")], default=0)

    @property
    def text_width(self) -> int:
        """Numbers of an item's text vector; 0 where no field asks for one."""
        return max([f.width for f in self.of("vector", "vectors")], default=0)

    @property
    def text_attributes(self) -> tuple[str, ...]:
        """The attributes whose words an item's text vector is made of."""
        return tuple(name for f in self.of("vector") for name in f.args["attributes"])

    @property
    def text_form(self) -> TextForm:
        """How those are written."""
        forms: list[TextForm] = [f.args["form"] for f in self.of("vector") if "form" in f.args]
        return forms[0] if forms else "values"

    @property
    def block(self) -> int:
        """Older events may be left out of a history by multiples of it: every sequence still begins where it did."""
        return math.lcm(*(item.args.get("block", 1) for item in self.of(*EVENTS)))

    @property
    def known_ratings(self) -> list[float]:
        """The values of the vocabularies of ratings."""
        coded = [self.vocabularies[f.vocab] for f in self.of("sequence") if f.source == "rating"]
        return [float(value) for vocab in coded for value in vocab.values]

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating seen in training; without a vocabulary of ratings, where they are cut; or None."""
        if known := self.known_ratings:
            return min(known), max(known)
        profiles = [f.args for f in self.of("derived") if f.source == "history_profile" and "centre" not in f.args]
        spans = [(a["mean"] - FARTHEST * a["scale"], a["mean"] + FARTHEST * a["scale"]) for a in profiles]
        return spans[0] if spans else None

    @property
    def refused(self) -> list[Field]:
        """Fields whose unseen values a request may not have."""
        return [f for f in self.of(*CODED) if f.args.get("unknown") == REFUSE]

    def to_json(self) -> dict[str, Any]:
        buckets = {name: vocab.buckets for name, vocab in self.vocabularies.items() if vocab.buckets}
        return {"fields": [asdict(item) for item in self.fields], **({"buckets": buckets} if buckets else {})}

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


def bucket_counts(data: Mapping[str, Any]) -> dict[str, int]:
    """Hash buckets by vocabulary of a decoded schema.json. Raises BundleError for what is no such number."""
    found = data.get("buckets", {})
    right = isinstance(found, dict) and all(type(n) is int and 1 <= n <= MOST_BUCKETS for n in found.values())
    if not right or not found.keys() <= vocabulary_names(data):
        raise BundleError(f"schema.json: buckets must give vocabularies of the fields 1 to {MOST_BUCKETS} each")
    return dict(found)


def _problem(item: Field, vocabularies: Mapping[str, Vocabulary]) -> str:
    """Why a field cannot be encoded; empty if it can."""
    if item.kind not in get_args(Kind) or item.side not in get_args(Side) or not 1 <= item.length <= LONGEST:
        return f"unknown kind or side, or a length that is not 1 to {LONGEST}"
    if item.kind in (*CODED, "sequence") and item.vocab not in vocabularies:
        return f"unknown vocabulary {item.vocab!r}"
    if item.args.get("unknown", REFUSE) != REFUSE:
        return f"unknown policy {str(item.args['unknown'])[:40]!r} for unknown values"
    if item.kind == "text" and not vocabularies[item.vocab].buckets:
        return "a text needs a vocabulary with buckets"
    if item.kind == "sequence":
        return _sequence_problem(item, vocabularies[item.vocab])
    if item.kind == "numeric":
        return _constants_problem(item, "mean", "scale")
    if item.kind == "derived":
        return _derived_problem(item, vocabularies)
    return _vector_problem(item) if item.kind in ("vector", "vectors") else ""


def _vector_problem(item: Field) -> str:
    one = item.kind == "vector"
    if item.source != "text" or item.side != ("item" if one else "user"):
        return f"a {item.kind} is of the source 'text' and of the {'item' if one else 'user'} side"
    if not one:
        width = item.args.get("width")
        fits = type(width) is int and 1 <= width <= LONGEST
        return _block_problem(item) if fits else f"args: width must be a whole number from 1 to {LONGEST}"
    names = item.args.get("attributes")
    fits = isinstance(names, (list, tuple)) and len(names) > 0 and all(isinstance(name, str) for name in names)
    if not fits:
        return "args must name the attributes whose words the vector is made of"
    return "" if item.args.get("form", "values") in get_args(TextForm) else 'args: form must be "values" or "pairs"'


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


def _block_problem(item: Field) -> str:
    block = item.args.get("block", 1)
    right = type(block) is int and 1 <= block <= item.length
    return "" if right else f"args: block must be a whole number from 1 to its length, {item.length}"


def _sequence_problem(item: Field, vocab: Vocabulary) -> str:
    if (problem := _block_problem(item)) or item.source == "item":
        return problem
    if item.source != "rating":
        return f"a sequence of {item.source!r} is unknown"
    try:
        [float(value) for value in vocab.values]
    except ValueError as error:
        return f"its vocabulary of ratings: {error}"
    return ""


def encode_value(item: Field, vocab: Vocabulary | None, value: Any) -> Any:
    """One attribute value as an index, a padded list of indices, or standardised numbers."""
    if item.kind == "numeric":
        return _numbers(item, value)
    assert vocab is not None
    if item.kind == "categorical":
        return vocab.index(value)
    if item.kind == "text":
        values: Sequence[Any] = words_of(value)
    else:
        values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    values = values[-item.length :] if item.kind == "ordered" else values[: item.length]
    if vocab.buckets:
        known = list(map(vocab.index, values))
    else:
        get, index = vocab.index_of.get, vocab.index
        known = [get(v, OOV) if type(v) is str else index(v) for v in values]
    padding = [PAD] * (item.length - len(known))
    return padding + known if item.kind == "ordered" else known + padding


def _numbers(item: Field, value: Any) -> Any:
    """The standardised number, or with `missing` a list of it and whether it is missing; the mean stands in then."""
    centred = (number(value, item.args["mean"]) - item.args["mean"]) / item.args["scale"]
    cut = min(max(centred, -FARTHEST), FARTHEST)
    return [cut, float(not is_number(value))] if item.args.get("missing") else cut


def words_of(value: Any) -> list[str]:
    """The distinct words of a text, or of a list of texts, in lower case and in their order."""
    texts = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    found = (word for text in texts if text is not None for word in _WORD.findall(value_key(text).casefold()))
    return list(dict.fromkeys(found))
