"""The two logs: decisions as `serve --log` writes them, and clicks as a shop has them."""

from __future__ import annotations

import csv
import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.history import MAX_TIME, not_seconds
from corella_edge.json_lines import read_lines
from corella_edge.messages import Id, an_id, check

Rank = Annotated[int, Meta(ge=1)]
CSV_COLUMNS = ("request", "item", "time")


class Shown(Struct):
    """An item of a decision. `propensity`: the probability that it was shown at this rank, where something draws it."""

    item: Id
    rank: Rank
    propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0


class LoggedDecision(Struct):
    """A line of the log of decisions, or of the answers of `score`; what else it holds is not looked at."""

    candidates: list[Shown]
    id: Id | None = None
    time: float | None = None
    user: Id | None = None
    bundle: str = ""


class Click(Struct, forbid_unknown_fields=True):
    """What somebody did with an item that a decision showed."""

    request: Id
    item: Id
    time: Annotated[float, Meta(description="Unix time in seconds.")]
    event: Annotated[str, Meta(min_length=1, max_length=256)] = "click"
    quantity: Annotated[float, Meta(gt=0)] = 1.0


@dataclass(frozen=True, slots=True)
class Torn:
    """The last line of a file whose writer was ended in the middle of it."""


_DECISION = msgspec.json.Decoder(LoggedDecision)


def decision_files(place: Path) -> list[Path]:
    """The files of a log of decisions, in the order in which they were written; `place` itself where it is a file.

    Raises:
        InputError: there are none.
    """
    if place.is_file():
        return [place]
    found = sorted(place.glob("*.jsonl")) if place.is_dir() else []
    if not found:
        raise InputError(f"--decisions {place}: no such file, and no folder with *.jsonl in it")
    return found


def read_decisions(path: Path) -> Iterator[LoggedDecision | Torn]:
    """The decisions of one file.

    Raises:
        InputError: a line that is not a decision, by its number; the last line may be cut off.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    yield _last(line)
                elif line.strip():
                    yield _decision(line, f"{path} line {number}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _last(line: bytes) -> LoggedDecision | Torn:
    """What stands behind the last line feed: a whole decision of a file that lacks one, or the beginning of one."""
    try:
        return _DECISION.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Torn()


def _decision(line: bytes, where: str) -> LoggedDecision:
    try:
        found = _DECISION.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not a decision ({error})") from None
    if found.time is not None:
        _check_time(found.time, where)
    return found


def read_clicks(path: Path) -> Iterator[Click]:
    """Of a CSV file with the header `request,item,time` (and `event`, `quantity`), or of JSON lines.

    Raises:
        InputError: a line that is not a click; names it.
    """
    source = TextFile(path)
    _, first = next(source.lines(), (0, b""))
    if first.removeprefix(BOM_UTF8).lstrip().startswith((b"{", b"[")):
        for place, click in enumerate(read_lines(source, _click), 1):
            _check_time(click.time, f"{path} click {place}")
            yield click
    elif first.strip():
        yield from _csv_clicks(path, source)


def _csv_clicks(path: Path, source: TextFile) -> Iterator[Click]:
    rows = csv.reader(_texts(path, source), strict=True)
    header = [name.strip() for name in next(rows, [])]
    missing = [name for name in CSV_COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path} line 1: no column {missing[0]!r}; the header is request,item,time[,event,quantity]")
    known = [(place, name) for place, name in enumerate(header) if name in Click.__struct_fields__]
    try:
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{where}: {len(row)} fields, the header has {len(header)}")
            yield _csv_click({name: row[place] for place, name in known if row[place] != ""}, where)
    except csv.Error as error:
        raise InputError(f"{path} line {rows.line_num}: {error}") from None


def _texts(path: Path, source: TextFile) -> Iterator[str]:
    for number, line in source.lines():
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path} line {number}: not UTF-8") from None


def _csv_click(values: dict[str, Any], where: str) -> Click:
    for name in ("time", "quantity"):
        if name in values:
            values[name] = _number(values[name], f"{where}: {name}")
    try:
        click = check(values, Click, "click")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    _check_time(click.time, where)
    return click


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {text[:40]!r} is not a number")
    return number


def _click(value: object) -> Click:
    return check(value, Click, "click")


def _check_time(value: float, where: str) -> None:
    if abs(value) > MAX_TIME:
        raise InputError(f"{where}: time: {not_seconds(value)}")


def key(request: Id, item: Id) -> tuple[str, str]:
    """What a click and the item that it is on have in common."""
    return an_id(request, "request"), an_id(item, "item")
