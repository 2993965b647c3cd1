"""Which items a request ranks: what it may say of them, and what a server knows beside it.

A field of `Selection` is defined here alone: requests, their schema and `Request.selection` have it from this type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec import field as named_field

from corella_edge.messages import MAX_FEATURES, MAX_ID_CHARS, MAX_TEXT_CHARS, Id, an_id

MAX_LISTED = 100_000  # ids in one list, values in one condition
MAX_SIMILAR = 100  # items that others may be similar to
MAX_VALUE = 10**6  # of a weight or a bonus

Left = None | UnsetType  # null, and a field that is left out, are the same
Word = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | int | float | bool
Words = Annotated[list[Word], Meta(max_length=MAX_LISTED)]
Items = Annotated[list[Id], Meta(max_length=MAX_LISTED)]


Attribute = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Weights = Annotated[list[Annotated[float, Meta(ge=0, le=MAX_VALUE)]], Meta(max_length=MAX_LISTED)]
Bonuses = Annotated[list[Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)]], Meta(max_length=MAX_LISTED)]


class Condition(Struct, forbid_unknown_fields=True):
    """What an attribute must be: all that is given here must hold. An item without the attribute is no number."""

    min: Annotated[float | Left, Meta(description="A number of at least this.")] = UNSET
    max: Annotated[float | Left, Meta(description="A number of at most this.")] = UNSET
    any: Annotated[Words | Left, Meta(description="One of these; of several values, at least one.")] = UNSET
    without: Annotated[Words | Left, Meta(description="None of these; items without the attribute pass.")] = (
        named_field(default=UNSET, name="not")
    )


Filter = Annotated[
    dict[str, Word | Words | Condition],
    Meta(
        max_length=MAX_FEATURES,
        description="By attribute: a value, a list of values of which an item has one, or an object with `min`, `max`, "
        "`any` and `not`. An item must pass all of them.",
    ),
]


class Selection(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which items are ranked, by what beside their probability, and in what order they are answered."""

    exclude_seen: Annotated[
        bool | Left,
        Meta(
            description="Leave out the items of the user's history, of a stored one too. Left out: true where the "
            "whole catalogue is ranked, false where candidates are given."
        ),
    ] = UNSET
    filter: Filter | Left = UNSET
    available: Annotated[
        bool | Items | Left,
        Meta(
            description="True: only what the server holds as available; a list: only these items. Left out: true where "
            "the whole catalogue is ranked, false where candidates are given."
        ),
    ] = UNSET
    exclude: Annotated[Items | Left, Meta(description="Items to leave out.")] = UNSET
    similar_to: (
        Annotated[
            list[Id],
            Meta(min_length=1, max_length=MAX_SIMILAR, description="Only neighbours of these items, and not these."),
        ]
        | Left
    ) = UNSET
    fallback: Annotated[
        bool | Left,
        Meta(
            description="Whether a user without a known item in the history gets popular items (or, with "
            "`similar_to`, the most similar ones) in that order, if the bundle knows them. Left out: true where the "
            "whole catalogue is ranked."
        ),
    ] = UNSET
    order: Annotated[
        Literal["rank", "request"] | Left,
        Meta(
            description="Of the answer: best first, or as in the request (of the whole catalogue: as in the "
            "catalogue). Left out: `rank` where the whole catalogue is ranked, `request` where candidates are given."
        ),
    ] = UNSET
    weights: Annotated[
        Weights | Attribute | Left,
        Meta(
            description="A number of at least 0 for each candidate, in their order, such as a margin: ranks, and so "
            "the `top_k`, are by weight · probability + bonus. Or the name of an attribute that holds such numbers; "
            "an item without it has 0. Left out: 1 each."
        ),
    ] = UNSET
    bonuses: Annotated[
        Bonuses | Attribute | Left,
        Meta(description="A number for each candidate, such as for being new; or an attribute. Left out: 0 each."),
    ] = UNSET


EVERYTHING = Selection()
LISTS = ("available", "exclude", "similar_to")


def with_text_ids(chosen: dict[str, object]) -> Selection:
    """The selection with such fields, ids as texts. Raises InputError for an id that is too large."""
    for name in LISTS:
        found = chosen.get(name)
        if isinstance(found, list):
            chosen[name] = [an_id(value, f"{name}[{i}]") for i, value in enumerate(found)]
    return Selection(**chosen)  # type: ignore[arg-type]


def listed(ids: object) -> list[str] | None:
    """The ids of a field, which are texts after `with_text_ids`; None where it holds no list."""
    return ids if isinstance(ids, list) else None


@dataclass(frozen=True, slots=True)
class Stock:
    """Which items can be had now, whatever bundle is served.

    Attributes:
        items: ids. only: whether these alone are available, or all but these.
    """

    only: bool = False
    items: frozenset[str] = field(default_factory=frozenset)

    def has(self, item: str) -> bool:
        return (item in self.items) == self.only

    def changed(self, available: frozenset[str], unavailable: frozenset[str]) -> Stock:
        """With these ids available and those not."""
        added, removed = (available, unavailable) if self.only else (unavailable, available)
        return Stock(self.only, (self.items - removed) | added)
