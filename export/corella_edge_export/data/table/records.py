"""The records of a CSV file or of JSON lines, one by one, with their lines: what is in a file, and what is wrong in it.

DuckDB reads tables; this reads those that it cannot, and finds the line of a row. Both must find the same rows.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from corella_edge.formats.strict_json import JsonError, decode
from corella_edge_export.data.table.description import Files

LONGEST = 2_000_000  # letters of a value: more is a quotation mark that is not closed
_ONE_A_LINE = "write one object a line, as `jq -c` does (`jq -c '.[]'` of an array)"
_STAND_IN = "\ufdd0"  # for a separator of several letters; Unicode keeps it free for such uses


class Record(NamedTuple):
    """One record: the line where it begins, and its values, or what is wrong with it."""

    line: int
    values: list[str]
    problem: str = ""


class _CleanLines(Iterator[str]):
    """Lines that can be put back. `number`: of the line last taken; `taken`: those since it was cleared."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._back = iter(lines), deque[str]()
        self.number, self.taken = 0, list[str]()

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def put_back(self) -> None:
        """All taken lines but the first."""
        again = self.taken[1:]
        self._back.extendleft(reversed(again))
        self.number -= len(again)

    def at_end(self) -> bool:
        if not self._back:
            line = next(self._lines, None)
            if line is None:
                return True
            self._back.append(line)
        return False


def csv_records(text: Iterable[str], files: Files, width: int | None) -> Iterator[Record]:
    """Every record of a CSV file, its header too; empty lines are none.

    Args:
        text: the lines, with their ends.
        width: how many values a record must have, None = any number. Empty ones beyond it, from separators at the
            end of the line, are left out.
    """
    csv.field_size_limit(LONGEST)  # one for the whole process, and `init` sets another
    lines = _CleanLines(_split_on(text, files.separator))
    reader = csv.reader(lines, strict=True, **_dialect(files))
    while True:
        lines.taken.clear()
        first = lines.number + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(first, [], _told(str(error), _restored(lines.taken, files.separator), files))
            lines.put_back()
            continue
        if values:
            yield _counted(Record(first, _restored(values, files.separator)), width, lines, files.separator)


def _dialect(files: Files) -> dict[str, Any]:
    many = len(files.separator) > 1
    return {
        "delimiter": _STAND_IN if many else files.separator,
        "quotechar": files.quote or None,
        "quoting": csv.QUOTE_MINIMAL if files.quote else csv.QUOTE_NONE,
        "escapechar": files.escape or None,
    }


def _split_on(text: Iterable[str], separator: str) -> Iterable[str]:
    """Lines with a single sign for a separator of several letters, which the csv module does not know."""
    return text if len(separator) == 1 else (line.replace(separator, _STAND_IN) for line in text)


def _restored(values: Sequence[str], separator: str) -> list[str]:
    if len(separator) == 1:
        return list(values)
    return [value.replace(_STAND_IN, separator) for value in values]


def _counted(record: Record, width: int | None, lines: _CleanLines, separator: str) -> Record:
    line, values, _ = record
    if width is None or len(values) == width:
        return record
    if len(values) > width and not any(values[width:]):
        return Record(line, values[:width])
    if len(values) < width and not lines.taken[-1].endswith(("\n", "\r")) and lines.at_end():
        return Record(line, [], f"the last line is cut: {len(values)} of {width} values and no line end; get it again")
    number = f"{len(values)} value{'s' * (len(values) != 1)} instead of {width}"
    remedy = 'check separator and quote, or write bad_rows = "drop"'
    return Record(line, [], f"{number} ({_shown(_restored(lines.taken, separator))}); {remedy}")


def _told(error: str, taken: Sequence[str], files: Files) -> str:
    shown = _shown(taken)
    remedy = f'write quote = "" if {files.quote} is a plain sign here, or bad_rows = "drop"'
    if not files.escape and any(f"\\{files.quote}" in line for line in taken[:2]):
        remedy = 'write escape = "\\\\" if \\ stands before signs that mean themselves, or bad_rows = "drop"'
    if "expected after" in error:
        return f"a {files.quote} inside a quoted value is not doubled ({shown}); {remedy}"
    if "unexpected end of data" in error or "field larger" in error:
        return f"a {files.quote} opens a value and nothing closes it ({shown}); {remedy}"
    return f"cannot be read as CSV ({error}: {shown}); check separator, quote and escape"


def _shown(lines: Iterable[str], most: int = 60) -> str:
    text = repr("".join(islice(lines, 2)).rstrip("\r\n")[: 2 * most])
    return text if len(text) <= most else f"{text[: most - 3]}..."


class JsonRecord(NamedTuple):
    """One line of JSON lines: its object, or what is wrong with it."""

    line: int
    value: dict[str, Any]
    problem: str = ""


def json_records(text: Iterable[str]) -> Iterator[JsonRecord]:
    """Every line that is not empty."""
    for number, line in filled_lines(text):
        try:
            value = decode(line.encode("utf-8", "surrogatepass"), constant=float)
        except JsonError as error:
            cut = not line.endswith(("\n", "\r"))
            problem = f"the last line is cut ({error}); get the file again" if cut else f"{error}; {_json_remedy(line)}"
            yield JsonRecord(number, {}, problem)
            continue
        if isinstance(value, dict):
            yield JsonRecord(number, value)
        else:
            yield JsonRecord(number, {}, f"is no object but {_shown([line])}; {_ONE_A_LINE}")


def filled_lines(text: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number, line) of those that are not blank."""
    return ((number, line) for number, line in enumerate(text, 1) if line.strip())


def _json_remedy(line: str) -> str:
    if line.lstrip().startswith("[") or line.strip() == "{":
        return _ONE_A_LINE
    if line.lstrip().startswith("{'"):
        return "these are Python's dicts, not JSON"
    return 'mend the line, or write bad_rows = "drop"'
