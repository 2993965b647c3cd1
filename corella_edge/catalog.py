"""The items a bundle knows: id, title and attributes, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge.errors import BundleError

Attributes = Mapping[str, Any]


class Catalog:
    """Items in a fixed order; a *row* is an item's place in it, `len(catalog)` the row of unknown items."""

    def __init__(self, ids: Iterable[str], attributes: Iterable[Attributes]) -> None:
        self.ids = list(ids)
        self.attributes = list(attributes)
        self.row_of = {item: row for row, item in enumerate(self.ids)}
        if len(self.ids) != len(self.attributes):
            raise ValueError("catalog: as many attribute records as ids are needed")
        if len(self.row_of) != len(self.ids):
            raise BundleError("catalog.jsonl: an item id occurs twice")

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
                    record = _record(line, path, number)
                    ids.append(record.pop("item"))
                    attributes.append(record)
        except OSError as error:
            raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from None
        return cls(ids, attributes)


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} line {number}: not JSON ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("item"), str):
        raise BundleError(f"{path.name} line {number}: expected an object with a text field 'item'")
    return record
