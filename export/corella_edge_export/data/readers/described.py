"""Publishers' forms that a `data.toml` can describe: each reader writes one for the files that it finds.

What no description can express (Python's dictionaries, impressions with many items in a line) is rewritten as JSON
lines first, into a working folder that is removed afterwards.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge_export.data.contract import Work


def quoted(value: object) -> str:
    """A TOML value: JSON's texts, numbers, booleans and arrays are TOML's, too."""
    return json.dumps(value, ensure_ascii=False)


def pick(source: Path, what: str, *patterns: str) -> Path:
    """The one file that matches the first pattern which matches any. Raises InputError for none or several."""
    found = pick_all(source, *patterns)
    if len(found) == 1:
        return found[0]
    if not found:
        names = " or ".join(patterns)
        raise InputError(f"{source}: no file with the {what} is here ({names}); --source must hold the official files")
    names = ", ".join(path.name for path in found)
    raise InputError(f"{source}: several files may hold the {what} ({names}); leave one of them in a folder of its own")


def pick_all(source: Path, *patterns: str) -> list[Path]:
    """The files that match the first pattern which matches any, by name."""
    for pattern in patterns:
        if found := sorted(path for path in source.glob(pattern) if path.is_file()):
            return found
    return []


def first_line(path: Path) -> str:
    """The first line of a text file, without its end; empty for an empty file. Letters beyond ASCII may be replaced."""
    line = next((line for _, line in TextFile(path).lines()), b"")
    return line.decode("utf-8", errors="replace").rstrip("\n")


def as_json_lines(path: Path, work: Work, turn: Callable[[Any], Iterable[Mapping[str, Any]]]) -> Path:
    """A file of one value a line, as JSON or as Python's literals, rewritten as the JSON lines that `turn` makes.

    Raises:
        InputError: names the file and line that is neither.
    """
    values = (_literal(line, path, number) for number, line in TextFile(path).lines() if line.strip())
    return write_json_lines(path, work, (row for value in values for row in turn(value)))


def write_json_lines(path: Path, work: Work, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file's rows as one JSON object a line, compressed with gzip, in the working folder; returns the new file."""
    out = work.folder / f"{path.name.removesuffix('.gz').rpartition('.')[0] or path.name}.jsonl.gz"
    # Without name and time, so that the same rows are the same bytes.
    with out.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
        for row in rows:
            packed.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    work.notes.append(f"{path.name} (sha256 {TextFile(path).sha256()}) was read as {out.name}")
    return out


def _literal(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        pass  # the metadata of 2014 are written as Python prints dictionaries
    try:
        return ast.literal_eval(line.decode().strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise InputError(f"{path} line {number}: neither JSON nor a Python dictionary; get the file again") from None


def rows_of(path: Path, width: int, separator: str = "\t") -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line of a file without quotes. Raises InputError for another number of fields."""
    for number, line in TextFile(path).lines():
        fields = line.decode().rstrip("\n").split(separator)
        if len(fields) != width:
            raise InputError(f"{path} line {number}: {len(fields)} fields instead of {width}; get the file again")
        yield number, fields
