"""What the encoder computes once of a catalogue: every item's values as indices, numbers and facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import TABLES, Catalog
from corella_edge.errors import BundleError
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
MOST_ADDED = 8192  # numbers of a `MatchTable`, which is to stay in a core's cache


class Made:
    """Arrays of all items by name: those that the bundle holds, mapped, else computed once and kept in `arrays`."""

    def __init__(self, stored: Mapping[str, npt.NDArray[Any]]) -> None:
        self._stored = stored
        self.arrays: dict[str, npt.NDArray[Any]] = {}

    def of(
        self, name: str, make: Callable[[], npt.NDArray[Any]], shape: tuple[int | None, ...], holds: int | npt.DTypeLike
    ) -> npt.NDArray[Any]:
        """The array, with int32 for int64 where it is mapped.

        Args:
            shape: what it must be; None = any length.
            holds: indices from 0 to below this number, or else the kind of its numbers.

        Raises:
            BundleError: the bundle lacks it, or its form or an index is wrong.
        """
        if not self._stored:
            self.arrays[name] = made = make()
            return made
        found = self._stored.get(name)
        kind = np.dtype("<i4" if isinstance(holds, int) else holds)
        if found is None or found.dtype != kind or not _fits(found.shape, shape):
            raise BundleError(f"{TABLES}: lacks the array {name!r}, or it is of another form than schema.json asks for")
        if isinstance(holds, int) and found.size and not 0 <= int(found.min()) <= int(found.max()) < holds:
            raise BundleError(f"{TABLES}: its array {name!r} holds an index outside its table")
        return found


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))


def stored_form(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of `Made` as a bundle holds them: int32 for int64."""
    return {name: a.astype(np.int32) if a.dtype == np.int64 else a for name, a in arrays.items()}


def field_table(item: Field, vocab: Vocabulary | None, catalog: Catalog, made: Made) -> npt.NDArray[Any]:
    """`attribute_table`, as the bundle holds it if it does."""
    holds = np.float32 if vocab is None else len(vocab)
    return made.of(
        f"field.{item.name}", lambda: attribute_table(item, vocab, catalog), (len(catalog) + 1, *item.shape), holds
    )


def attribute_table(item: Field, vocab: Vocabulary | None, catalog: Catalog) -> npt.NDArray[Any]:
    """One encoded value a catalogue row, and a last row for items outside the catalogue.

    int64 [items + 1] (categorical) or [items + 1, length] (several values), float32 [items + 1, width] (numeric).
    """
    if item.source == "id" and item.kind == "categorical" and vocab is not None:
        return np.append(vocab.indices(catalog.ids), OOV)
    cells = catalog.ids if item.source == "id" else [record.get(item.source) for record in catalog.attributes]
    rows = [encode_value(item, vocab, cell) for cell in [*cells, None]]
    table = np.asarray(rows, dtype=np.float32 if item.kind == "numeric" else np.int64)
    return table.reshape(-1, item.width) if item.kind == "numeric" else table


def item_index(schema: Schema, catalog: Catalog) -> Ints:
    """int64 [items + 1]: catalogue row → index in the vocabulary the history's items use."""
    fields = [f for f in schema.of("sequence") if f.source == "item"]
    if not fields:
        return np.full(len(catalog) + 1, OOV, dtype=np.int64)
    return np.append(schema.vocabularies[fields[0].vocab].indices(catalog.ids), OOV)


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
    known = [index - FIRST for index in map(vocab.index, entries) if FIRST <= index < vocab.first_bucket]
    return bits_fact(known, vocab.first_bucket - FIRST)


class FactTable:
    """What a derived field looks at of every item, and of one outside the catalogue.

    rows [items + 1, width]; kinds [k, width], the rows without repeats; kind_of int64 [items + 1]; `few` where k is
    small.
    """

    def __init__(self, item: Field, schema: Schema, catalog: Catalog, made: Made) -> None:
        name, n = f"fact.{item.name}", len(catalog) + 1
        nothing = fact(item, schema, None)
        shape, dtype = (n, len(nothing)), nothing.dtype
        self.rows: Facts = made.of(f"{name}.rows", lambda: _facts(item, schema, catalog), shape, dtype)
        if item.source == "history_similarity":  # vectors hardly repeat
            self.kinds, self.kind_of = self.rows, np.arange(n, dtype=np.int64)
        else:
            self.kinds, self.kind_of = distinct(made, name, lambda: self.rows, shape, dtype)
        self.few = len(self.kinds) <= MOST_KINDS


def _facts(item: Field, schema: Schema, catalog: Catalog) -> Facts:
    values = [*(record.get(item.args["attribute"]) for record in catalog.attributes), None]
    return np.stack([fact(item, schema, value) for value in values])


def distinct(
    made: Made, name: str, rows: Callable[[], npt.NDArray[Any]], shape: tuple[int, int], dtype: npt.DTypeLike
) -> tuple[npt.NDArray[Any], Ints]:
    """Rows of `shape` without repeats [k, width], and which of them each is, int64 (mapped: int32) [n]."""

    @cache
    def found() -> tuple[npt.NDArray[Any], Ints]:
        kinds, kind_of = np.unique(rows(), axis=0, return_inverse=True)
        return kinds, kind_of.reshape(-1).astype(np.int64)

    kinds = made.of(f"{name}.kinds", lambda: found()[0], (None, shape[1]), dtype)
    return kinds, made.of(f"{name}.kind_of", lambda: found()[1], shape[:1], len(kinds))


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


class MatchTable:
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
