"""A prepared folder as people read it: what became of every row, the splits, and what figures must be read with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corella_edge.cli.common import columns, figure
from corella_edge.errors import InputError

INFO = "dataset.json"
SPLITS = ("train", "valid", "test")
EARLIEST = 788_918_400  # 1995: an earlier time is a place in an order
Info = dict[str, Any]


def read(folder: Path) -> Info:
    """dataset.json of a prepared folder, decoded. Raises InputError."""
    try:
        info = json.loads((folder / INFO).read_bytes())
        if isinstance(info, dict) and isinstance(info["counts"], dict) and isinstance(info["files"], dict):
            return info
    except (OSError, ValueError, KeyError, RecursionError):
        pass  # told below, whatever it was
    raise InputError(f"{folder / INFO}: is no description of prepared data; run prepare again")


def damage(folder: Path, info: Info) -> Iterator[str]:
    """What is not as `prepare` wrote it."""
    for name, recorded in info["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif _sha256(path) != recorded.get("sha256"):
            yield f"{name} differs from what {INFO} records"


def page(info: Info) -> Iterator[str]:
    """The ledger, the splits, attributes and notes; `info` is dataset.json, or what `prepare` returns of it."""
    if "ledger" in info:
        yield from [*_ledger(info["ledger"]), ""]
    counts = info["counts"]
    yield (
        f"{info['name']}: {counts['interactions']:,} interactions of {counts['users']:,} users "
        f"with {counts['items']:,} items; {counts['dropped']:,} rows only serve as history"
    )
    yield from ["", *columns([*_splits(info)]), ""]
    if "like" in info:
        yield from [f"liked: {info['like']['rule']}", f"split: {info['split']['rule']}", *_attributes(info)]
    for kind, rate in (info.get("joined") or {}).items():
        yield f"{rate:.1%} of the events' {kind} are in the table of {kind}"
    yield from (f"note: {note}" for note in info["notes"])


def _ledger(ledger: Info) -> Iterator[str]:
    """What became of every row that was read."""
    width = len(f"{ledger['read']:,}")
    yield f"{ledger['read']:,} rows read"
    yield from (f"{rows:>{width},} dropped: {why}" for why, rows in ledger["dropped"].items())
    yield f"{ledger['kept']:>{width},} kept"


def _splits(info: Info) -> Iterator[list[str]]:
    """The table of the splits."""
    yield ["split", "rows", "liked", "users", "items", "from", "to", "rows of users / items absent from train"]
    for name in SPLITS:
        told, unseen = info["splits"][name], info["unseen"].get(name)
        absent = f"{unseen['user_rows']:.1%} / {unseen['item_rows']:.1%}" if unseen else ""
        yield [name, f"{told['rows']:,}", f"{told['like_share']:.1%}", f"{told['users']:,}", f"{told['items']:,}",
               _day(told["first_time"]), _day(told["last_time"]), absent]  # fmt: skip


def _attributes(info: Info) -> Iterator[str]:
    """Names and kinds, with the AUC by which an attribute alone orders the training rows, where it was looked at."""
    aucs = info.get("attribute_auc") or {}
    for side, names in info["attributes"].items():
        known = aucs.get(side, {})
        told = [f"{name} ({kind}{f', AUC {figure(known[name])}' if name in known else ''})"
                for name, kind in names.items()]  # fmt: skip
        yield f"attributes of {side}: {', '.join(told) or 'none'}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat() if seconds >= EARLIEST else "-"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
