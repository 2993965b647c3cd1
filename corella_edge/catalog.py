"""The items a bundle knows: id, title and attributes, one JSON object a line.

Where they are many, a bundle also has `catalog.safetensors`: the ids as a table, where each line of catalog.jsonl ends,
and what the encoder computes of the items. Then nothing is parsed at the start, and a line when something asks for it.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.formats.arrays import Array, map_arrays
from corella_edge.formats.text_table import TextTable

Attributes = Mapping[str, Any]
LINES, TABLES = "catalog.jsonl", "catalog.safetensors"
LAYOUT = "corella-edge catalog 1"
CODE = "code"  # of an item, in the LLM's question: what the base model knows of it
# What an export adds of training rows: nobody filters by it, and no next training reads it.
FITTED = ("mean_rating", "quality", "likeness", CODE)


class Catalog:
    """Items in a fixed order; a *row* is an item's place in it, `len(catalog)` the row of unknown items.

    Attributes:
        tables: what the encoder has computed of the items, mapped, by its names; empty where it has to compute it.
        vectors: float16 [items, width], the items' text vectors; None where there are none.
    """

    ids: Sequence[str]
    attributes: Sequence[Attributes]
    row_of: Mapping[str, int]
    vectors: Array | None = None

    def __init__(self, ids: Iterable[str], attributes: Iterable[Attributes]) -> None:
        self.tables: Mapping[str, Array] = {}
        self.ids = list(ids)
        self.attributes = list(attributes)
        self.row_of = {item: row for row, item in enumerate(self.ids)}
        if len(self.ids) != len(self.attributes):
            raise ValueError("catalog: as many attribute records as ids are needed")
        if len(self.row_of) != len(self.ids):
            raise BundleError("catalog.jsonl: an item id occurs twice")

    @classmethod
    def map(cls, folder: Path) -> Catalog:
        """A catalogue whose lines are read one by one, when something asks for them.

        Raises:
            BundleError: the two files are damaged or do not fit each other.
        """
        arrays = map_arrays(folder / TABLES, LAYOUT)
        ids = TextTable({name.partition(".")[2]: a for name, a in arrays.items() if name.startswith("ids.")}, TABLES)
        self = cls.__new__(cls)
        self.ids, self.row_of, self.attributes = ids, ids.places_of, _Lines(folder / LINES, arrays, len(ids))
        self.tables = {name: array for name, array in arrays.items() if not name.startswith("ids.") and name != "lines"}
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, item: str) -> Attributes:
        """An item's attributes; none of an unknown one."""
        row = self.row_of.get(item)
        return {} if row is None else self.attributes[row]

    def lines(self) -> Iterator[str]:
        """The file form: `{"item": id, "title": …, attribute: value, …}` a line."""
        for item, attributes in zip(self.ids, self.attributes, strict=True):
            yield json.dumps({"item": item, **attributes}, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> Catalog:
        """Read what `lines` wrote; a malformed line is a `BundleError` naming it."""
        ids: list[str] = []
        attributes: list[Attributes] = []
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    record = _record(line, path.name, number)
                    ids.append(record.pop("item"))
                    attributes.append(record)
        except OSError as error:
            raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from None
        return cls(ids, attributes)


class _Lines(Sequence[Attributes]):
    """The items' attributes in a mapped file; each is parsed when it is asked for."""

    def __init__(self, path: Path, arrays: Mapping[str, Array], count: int) -> None:
        self._name, self._count = path.name, count
        ends = arrays.get("lines")
        if ends is None or ends.dtype != np.dtype("<u8") or ends.shape != (count,):
            raise BundleError(f"{TABLES}: lacks the ends of the {count} lines of {path.name}")
        try:
            with path.open("rb") as file:
                self._raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if count else b""
        except (OSError, ValueError) as error:
            raise BundleError(f"{path.name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if bool((ends[1:] <= ends[:-1]).any()) or (count and int(ends[-1]) != len(self._raw)):
            raise BundleError(f"{TABLES}: does not fit {path.name}; one of the two was changed")
        self._ends = ends

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> Attributes: ...
    @overload
    def __getitem__(self, row: slice) -> list[Attributes]: ...
    def __getitem__(self, row: int | slice) -> Attributes | list[Attributes]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(self._count))]
        i = row + self._count if row < 0 else row
        if not 0 <= i < self._count:
            raise IndexError(row)
        start = int(self._ends[i - 1]) if i else 0
        record = _record(self._raw[start : int(self._ends[i])], self._name, i + 1)
        del record["item"]
        return record


def _record(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} line {number}: not JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("item"), str):
        raise BundleError(f"{name} line {number}: expected an object with a text field 'item'")
    return record
