"""Labelled rows from JSON lines or CSV: what `routing.labelled` checks, with file and row named in every error."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import read_lines
from corella_edge.routing.labelled import TEXTS, LabelledRows, filled, gather


def read_json_lines(source: Path | TextFile) -> LabelledRows:
    """A file of JSON lines, one object a row, with the names of `LabelledRows.columns`.

    Raises:
        InputError: names file, line and field, or says that there is no row.
    """
    file = TextFile.of(source)
    number = 0

    def named(value: Any) -> tuple[str, Mapping[str, Any]]:
        nonlocal number
        number += 1
        if not isinstance(value, dict):
            raise InputError("expected an object")
        return f"{file} row {number}", value

    return filled(gather(read_lines(file, named)), str(file))


def read_csv(source: Path | TextFile) -> LabelledRows:
    """A CSV file with a header of the same names; an empty cell is an unknown value.

    Raises:
        InputError: names file, line and field, or says that there is no row.
    """
    file = TextFile.of(source)
    return filled(gather(_csv_rows(file)), str(file))


def _csv_rows(file: TextFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.reader(file.read().split("\n"), strict=True)
    try:
        header = next(reader, [])
        if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), "")):
            raise InputError(f"{file} line 1: the columns are separated by {other!r}; separate them by commas")
        if len(set(header)) < len(header):
            raise InputError(f"{file} line 1: a column's name occurs twice")
        for cells in reader:
            where = f"{file} line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells, the header has {len(header)}")
            yield where, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise InputError(f"{file} line {reader.line_num}: not CSV ({error})") from None


def _cell(name: str, cell: str) -> Any:
    """A number where the column holds numbers; what is none stays text, which the checks refuse by name."""
    if name in TEXTS or not cell:
        return cell or None
    try:
        return float(cell)
    except ValueError:
        return cell
