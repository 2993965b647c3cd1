"""Fields of the CRM, their vocabularies, and how one value becomes an index or a number.

Index 0 pads, 1 is a value never seen in training (OOV), known values follow in vocabulary order, so that no index can
leave the embedding table. Whole requests are encoded by `corella_edge.features.encoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.features.derived import DERIVED, FARTHEST, LARGEST, WIDEST, Side, number

PAD, OOV, FIRST = 0, 1, 2
LONGEST = 10_000  # slots of a field, events that it looks back on

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
            raise BundleError(f"vocab/{name}.json: a value occurs twice")

    def __len__(self) -> int:
        """Rows of the embedding table: the values, PAD and OOV."""
        return FIRST + len(self.values)

    def index(self, value: Any) -> int:
        """The value's row; a missing one (None) is unseen, whatever texts are known."""
        key = value if type(value) is str else None if value is None else value_key(value)
        return OOV if key is None else self.index_of.get(key, OOV)


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

    def of(self, *kinds: Kind, side: Side | None = None) -> list[Field]:
        """Fields of the given kinds (and side), in order."""
        return [f for f in self.fields if f.kind in kinds and (side is None or f.side == side)]

    @property
    def window(self) -> int:
        """How many of the latest events any field looks at."""
        return max([f.length for f in self.of("sequence", "derived")], default=0)

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
    """Why a field cannot be encoded; empty if it can."""
    if item.kind not in get_args(Kind) or item.side not in get_args(Side) or not 1 <= item.length <= LONGEST:
        return f"unknown kind or side, or a length that is not 1 to {LONGEST}"
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
    get, index = vocab.index_of.get, vocab.index
    known = [get(v, OOV) if type(v) is str else index(v) for v in values[: item.length]]
    return known + [PAD] * (item.length - len(known))
