"""What the encoder computes once of a catalogue: every item's values as indices, numbers and facts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.features.derived import Facts, Floats, Ints, bits_fact, number, number_fact, vector_fact
from corella_edge.features.schema import FIRST, OOV, Field, Schema, Vocabulary, encode_value


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

    rows [items + 1, width]; kinds [k, width], the rows without repeats; kind_of int64 [items + 1].
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


class RatingCodes:
    """Ratings → indices of a vocabulary of numbers; a rating that is no value of it, or nan, is OOV."""

    def __init__(self, vocab: Vocabulary) -> None:
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
