"""RecBole's atomic files: `*.inter`, and `*.item` and `*.user` where they are there; or LLMRank's cut of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from corella_edge.errors import InputError
from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import first_line, pick, pick_all, quoted, rows_of, write_json_lines

# RecBole's types of fields → kinds of attributes.
_KINDS = {"token": "categorical", "token_seq": "multi: ", "float": "numeric"}
_FORM = 'separator = "\\t"\nquote = ""\n'


class AtomicColumn(NamedTuple):
    """A column's full name in the header ("item_id:token"), its name, and RecBole's type of it."""

    full: str
    name: str
    kind: str


def describe(source: Path, work: Work) -> str:
    """Raises InputError for a header that is not RecBole's, or files that are missing."""
    if sequences := pick_all(source, "*.test.inter"):
        return _sequences(source, sequences[0], work)
    inter = pick(source, "interactions", "*.inter")
    columns = {column.name: column for column in _header(inter)}
    for name in ("user_id", "item_id"):
        if name not in columns:
            raise InputError(f"{inter} line 1: there is no column {name}:token; this is no atomic file of RecBole")
    return "\n".join(
        [
            f"name = {quoted(inter.stem)}",
            *_events(inter, columns),
            *_label(columns),
            *_entities("items", source, "*.item", "item_id", columns["item_id"]),
            *_entities("users", source, "*.user", "user_id", columns["user_id"]),
            *_split("timestamp" in columns),
        ]
    )


def _header(path: Path) -> list[AtomicColumn]:
    columns = []
    for full in first_line(path).split("\t"):
        name, _, kind = full.partition(":")
        if kind not in (*_KINDS, "float_seq"):
            raise InputError(f"{path} line 1: {full!r} is not NAME:TYPE with a type of {', '.join(_KINDS)}, float_seq")
        columns.append(AtomicColumn(full, name, kind))
    return columns


def _events(inter: Path, columns: Mapping[str, AtomicColumn]) -> Iterable[str]:
    yield f'\n[events]\nfiles = [{quoted(str(inter))}]\nformat = "csv"\n{_FORM}'
    yield f"user = {quoted(columns['user_id'].full)}\nitem = {quoted(columns['item_id'].full)}"
    if time := columns.get("timestamp"):
        yield f'time = {quoted(time.full)}\ntime_unit = "s"'
    else:
        yield 'time_unit = "none"'


def _label(columns: Mapping[str, AtomicColumn]) -> Iterable[str]:
    yield "\n[label]"
    if rating := columns.get("rating"):
        yield f"rating = {quoted(rating.full)}\nlike_above = 3"
    elif label := columns.get("label"):
        yield f"column = {quoted(label.full)}"
    else:
        yield "positives_only = true\n\n[negatives]\nper_positive = 4"


def _entities(table: str, source: Path, pattern: str, id_: str, event: AtomicColumn) -> Iterable[str]:
    """[items] or [users], if its file is there."""
    if not pick_all(source, pattern):
        if table == "items":
            yield '\n[items]\nmissing_title = "id"'
        return
    path = pick(source, table, pattern)
    columns = {column.name: column for column in _header(path)}
    if id_ not in columns:
        raise InputError(f"{path} line 1: there is no column {id_}:token; this is no atomic file of RecBole")
    title = next((column for name, column in columns.items() if table == "items" and "title" in name), None)
    yield f'\n[{table}]\nfiles = [{quoted(str(path))}]\nformat = "csv"\n{_FORM}id = {quoted(columns[id_].full)}'
    if table == "items":
        yield 'missing_title = "id"' + (f"\ntitle = {quoted(title.full)}" if title else "")
    for column in columns.values():
        if column.kind in _KINDS and column.name != id_ and column is not title:
            yield f"attributes.{quoted(column.name)} = {_attribute(column)}"


def _attribute(column: AtomicColumn) -> str:
    kind, _, separator = _KINDS[column.kind].partition(":")
    more = f", separator = {quoted(separator)}" if separator else ""
    return f"{{ column = {quoted(column.full)}, kind = {quoted(kind)}{more} }}"


def _split(timed: bool) -> Iterable[str]:
    yield f"\n[split]\nrule = {quoted('time' if timed else 'leave-one-out')}\nmin_history = 1"


def _sequences(source: Path, test: Path, work: Work) -> str:
    """One line a user: earlier items, and the item to be found. The order is real, times are not there."""
    events = write_json_lines(test, work, _walk(test))
    return "\n".join(
        [
            f"name = {quoted(test.name.partition('.')[0])}",
            f'\n[events]\nfiles = [{quoted(str(events))}]\nuser = "user"\nitem = "item"\ntime_unit = "none"',
            *_label({}),
            *_entities("items", source, "*.item", "item_id", AtomicColumn("item", "item", "token")),
            *_split(timed=False),
        ]
    )


def _walk(path: Path) -> Iterable[dict[str, str]]:
    header = _header(path)
    if [column.name for column in header] != ["user_id", "item_id_list", "item_id"]:
        raise InputError(f"{path} line 1: the columns are not user_id, item_id_list, item_id")
    for number, (user, earlier, item) in rows_of(path, width=3):
        if number > 1:
            for place in (*earlier.split(), item):
                yield {"user": user, "item": place}


READERS = {"recbole": Reader(None, "RecBole's atomic files: *.inter, *.item, *.user", describe=describe)}
