"""What the encoder computes once of a catalogue: every item's values as indices, numbers and facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.features.derived import (
    FEW,
    Facts,
    Floats,
    Histories,
    Ints,
    bits_fact,
    few_moments,
    moments,
    number,
    number_fact,
    shared,
    vector_fact,
)
from corella_edge.features.schema import FIRST, OOV, Field, Schema, Vocabulary, encode_value

MOST_KINDS = 64  # of items, whose values are computed together, once a history
MOST_ADDED = 8192  # numbers of a tally's table, which is to stay in a core's cache


def attribute_table(item: Field, vocab: Vocabulary | None, catalog: Catalog) -> npt.NDArray[Any]:
    """One encoded value a catalogue row, and a last row for items outside the catalogue.

    int64 [items + 1] (categorical) or [items + 1, length] (multi), float32 [items + 1, 1] (numeric).
    """
    cells = catalog.ids if item.source == "id" else [record.get(item.source) for record in catalog.attributes]
    rows = [encode_value(item, vocab, cell) for cell in [*cells, None]]
    table = np.asarray(rows, dtype=np.float32 if item.kind == "numeric" else np.int64)
    return table.reshape(-1, 1) if item.kind == "numeric" else table


def item_index(schema: Schema, catalog: Catalog) -> Ints:
    """int64 [items + 1]: catalogue row → index in the vocabulary the history's items use."""
    fields = [f for f in schema.of("sequence") if f.source == "item"]
    if not fields:
        return np.full(len(catalog) + 1, OOV, dtype=np.int64)
    vocab = schema.vocabularies[fields[0].vocab]
    return np.asarray([vocab.index(i) for i in catalog.ids] + [OOV], dtype=np.int64)


def centre_table(item: Field, catalog: Catalog) -> Floats:
    """float32 [items + 1]: how far an item's centre, a number of the catalogue, lies from the mean."""
    mean = float(item.args["mean"])
    numbers = [number(record.get(item.args["centre"]), mean) - mean for record in catalog.attributes]
    return np.asarray([*numbers, 0.0], dtype=np.float32)


def fact(item: Field, schema: Schema, value: Any) -> Facts:
    """[width]: an attribute's value as the derived field's function looks at it."""
    if item.source == "history_number":
        return number_fact(value, item.args)
    if item.source == "history_similarity":
        return vector_fact(value, item.args)
    vocab = schema.vocabularies[item.args["vocab"]]
    entries = value if isinstance(value, (list, tuple)) else [value]
    return bits_fact([index - FIRST for index in map(vocab.index, entries) if index >= FIRST], len(vocab) - FIRST)


class FactTable:
    """What a derived field looks at of every item, and of one outside the catalogue.

    rows [items + 1, width]; kinds [k, width], the rows without repeats; kind_of int64 [items + 1]; `few` where k is
    small.
    """

    def __init__(self, item: Field, schema: Schema, catalog: Catalog) -> None:
        name = item.args["attribute"]
        values = [*(record.get(name) for record in catalog.attributes), None]
        self.rows: Facts = np.stack([fact(item, schema, value) for value in values])
        if item.source == "history_similarity":  # vectors hardly repeat
            self.kinds, self.kind_of = self.rows, np.arange(len(values), dtype=np.int64)
        else:
            self.kinds, kind_of = np.unique(self.rows, axis=0, return_inverse=True)
            self.kind_of = kind_of.reshape(-1).astype(np.int64)
        self.few = len(self.kinds) <= MOST_KINDS


class RatingCodes:
    """Ratings → indices of a vocabulary of numbers; a rating that is no value of it, or nan, is OOV.

    `ratings` float32 [1, size]: the rating of each index, NaN where the index is not a rating.
    """

    def __init__(self, vocab: Vocabulary) -> None:
        self.ratings = np.array([[*[np.nan] * FIRST, *map(float, vocab.values)]], np.float32)
        places: dict[float | None, int] = {}
        for texts in (map(float, vocab.values), self.ratings[0, FIRST:].tolist()):
            places |= {value: place for place, value in reversed([*enumerate(texts, FIRST)])}
        self._place = {**places, None: OOV}.__getitem__
        known, first = np.unique(np.asarray([float(v) for v in vocab.values], dtype=np.float32), return_index=True)
        with np.errstate(over="ignore"):
            above = np.nextafter(known, np.float32(np.inf))
        # What is at or above an odd number of these bounds is a known value; nan is above all.
        self._bounds = np.stack([known, above]).T.reshape(-1)
        self._codes = np.full(len(self._bounds) + 1, OOV)
        self._codes[1::2] = first + FIRST

    def of(self, ratings: Floats) -> Ints:
        """int64, shape of `ratings`."""
        return self._codes.take(self._bounds.searchsorted(ratings, "right"))

    def if_known(self, ratings: Sequence[float | None]) -> Ints | None:
        """int64 [n] where each is a value of the vocabulary, or None (OOV); else None."""
        try:
            return np.fromiter(map(self._place, ratings), np.int64, len(ratings))
        except KeyError:
            return None


class Tally:
    """`history_match` of every kind of item, of a history whose ratings the vocabulary knows.

    What an event adds to the sums depends on its item's kind and on its rating alone, so a table holds it.
    """

    def __init__(self, item: Field, table: FactTable, codes: RatingCodes) -> None:
        """For a field without a centre, which would be another of each item."""
        each = Histories(np.zeros_like(codes.ratings, np.int64), codes.ratings)
        powers = each.powers(item.args["mean"], item.args["scale"])[0]
        shares = shared(table.kinds[None], table.kinds[None])[0]
        counted = np.append(shares, np.ones((len(shares), 1)), axis=1)
        self._row_of = table.kind_of * powers.shape[1]
        self._added = np.einsum("ij,kr->irjk", counted, powers).reshape(-1, 3 * counted.shape[1])
        self._ones = np.ones(item.length)
        self._length, self._strength = item.length, item.args["strength"]

    @staticmethod
    def fits(item: Field, table: FactTable, codes: RatingCodes) -> bool:
        """Whether there can be one, and its table is small enough to be worth it."""
        size = 3 * len(table.kinds) * (len(table.kinds) + 1) * codes.ratings.size
        return item.source == "history_match" and "centre" not in item.args and size <= MOST_ADDED

    def moments(self, rows: Ints, codes: Ints) -> Floats:
        """float32 [k + 1, 3] of events int64 [w], catalogue rows and indices of ratings; last, that of all events."""
        places = self._row_of.take(rows[-self._length :]) + codes[-self._length :]
        sums = self._ones[: len(places)].dot(self._added.take(places, 0)).reshape(-1, 3)
        if len(sums) <= FEW:
            return few_moments(sums, self._strength)
        return cast(Floats, moments(sums.T[None], self._strength)[0])
