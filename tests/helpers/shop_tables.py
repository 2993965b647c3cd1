"""Small tables as people have them, made by hand: events and items in any dialect, with any trap put in."""

from __future__ import annotations

import csv
import io
import random
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START = 1_600_000_000
_NOUNS = ("tea", "lamp", "chair", "clock", "kettle", "basket", "candle", "mirror", "blanket", "spoon")
_KINDS = ("green", "small", "old", "round", "heavy", "cheap")
Row = dict[str, Any]


def items(count: int = 30) -> list[Row]:
    """Items with titles and attributes."""
    chance = random.Random(1)
    return [
        {"item_id": f"p{i}", "title": f"{chance.choice(_KINDS)} {chance.choice(_NOUNS)} number {i}",
         "kind": chance.choice(("home", "garden", "kitchen")), "tags": "|".join(chance.sample(("a", "bb", "ccc"), 2)),
         "price": round(chance.uniform(1, 99), 2)}
        for i in range(count)
    ]  # fmt: skip


def events(count: int = 400, users: int = 25, of: int = 30, seed: int = 2) -> list[Row]:
    """Ratings from 1 to 5 at different times, in the order of time."""
    chance, moment, rows = random.Random(seed), START, []
    for _ in range(count):
        moment += chance.randint(60, 90_000)
        rows.append({"user_id": f"c{chance.randrange(users)}", "item_id": f"p{chance.randrange(of)}",
                     "rating": chance.choices((1, 2, 3, 4, 5), (1, 1, 2, 4, 5))[0], "timestamp": moment})  # fmt: skip
    return rows


def without(rows: Sequence[Row], *names: str) -> list[Row]:
    """The rows without some columns."""
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


def changed(rows: Sequence[Row], **columns: Callable[[int, Row], Any]) -> list[Row]:
    """The rows with columns computed of number and row; new ones stand last."""
    return [{**row, **{name: make(number, row) for name, make in columns.items()}} for number, row in enumerate(rows)]


def as_csv(
    rows: Sequence[Row],
    separator: str = ",",
    header: bool = True,
    line_end: str = "\n",
    quoting: int = csv.QUOTE_MINIMAL,
) -> str:
    """The rows as text; a separator of several signs is not quoted for."""
    out = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    single = separator if len(separator) == 1 else "\x1f"
    writer = csv.writer(out, delimiter=single, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    if header:
        writer.writerow(names)
    writer.writerows(["" if row.get(name) is None else row.get(name) for name in names] for row in rows)
    return out.getvalue().replace("\x1f", separator) if single != separator else out.getvalue()


def put(folder: Path, name: str, text: str | bytes) -> Path:
    """A file with these contents."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def parsed(text: str) -> dict[str, Any]:
    """A data.toml as TOML."""
    return tomllib.loads(text)
