"""Labelled rows: both models' scores of candidates whose outcome is known, as columns.

Every part of routing that learns from a log (calibration, gate, certificate, replay) takes this one form.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError, meant
from corella_edge.history import MAX_TIME, not_seconds

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]
Mask = npt.NDArray[np.bool_]

INPUT = "input."  # before the name of a gate's input
TEXTS = ("request", "user", "item")
NUMBERS = ("time", "label", "crm", "llm")
OPTIONAL = ("propensity",)
COLUMNS = (*TEXTS, *NUMBERS, *OPTIONAL)
CLIP = 100.0  # rows that one stands for, at most
_NAN = math.nan


@dataclass(frozen=True)
class LabelledRows:
    """A row a candidate; every column is [n].

    Attributes:
        request, user, item: ids, object of str; rows of one request are of one user.
        time: Unix time of the request in seconds, float64.
        label: the outcome, 0 or 1, float64.
        crm: the base model's probability, float64.
        llm: the language model's probability, float64; nan = not asked, or no answer.
        propensity: the chance with which the LLM's answer was taken down, in (0, 1], float64; 1 where nothing was
            left to chance.
        inputs: what a gate reads, float64 by name; nan = unknown.
    """

    request: Texts
    user: Texts
    item: Texts
    time: Floats
    label: Floats
    crm: Floats
    llm: Floats
    propensity: Floats
    inputs: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for columns of different lengths."""
        shapes = {np.shape(column) for column in self.columns().values()}
        if shapes != {(len(self.label),)}:
            raise ValueError(f"columns must be [n] with one n, not {sorted(shapes)}")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def known(self) -> Mask:
        """Where the LLM's score is known, bool [n]."""
        return ~np.isnan(self.llm)

    @property
    def weight(self) -> Floats:
        """float64 [n]: how many rows like it a row with the LLM's score stands for, the inverse of its propensity."""
        return np.minimum(1.0 / self.propensity, CLIP)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All columns by the names that they have in a file."""
        own = {column.name: getattr(self, column.name) for column in fields(self) if column.name != "inputs"}
        return {**own, **{INPUT + name: values for name, values in self.inputs.items()}}

    def take(self, rows: npt.NDArray[np.int64] | Mask) -> LabelledRows:
        """The rows at these places int64 [m], or where bool [n] is true."""
        own = {column.name: getattr(self, column.name)[rows] for column in fields(self) if column.name != "inputs"}
        return replace(self, **own, inputs={name: values[rows] for name, values in self.inputs.items()})

    def inputs_for(self, needs: Sequence[str]) -> Mapping[str, Floats]:
        """float64 [n] by name: what a measure with such needs looks at. Kept answers are ranked within their request,
        so with them comes `request`, a number for each.

        Raises:
            InputError: the rows have no such input.
        """
        missing = [name for name in needs if name not in self.inputs]
        if missing:
            raise InputError(f"the policy's measure looks at the input {missing[0]!r}, which the log does not have")
        if "kept" not in needs:
            return self.inputs
        number = np.unique(self.request.astype(str), return_inverse=True)[1]
        return {**self.inputs, "request": number.astype(np.float64)}

    def sha256(self) -> str:
        """Lower-case hexadecimal hash of the rows as `lines` writes them: the same rows have it in any file format."""
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line.encode())
        return digest.hexdigest()

    def lines(self) -> Iterator[str]:
        """The rows as JSON lines, which `labelled_files.read_json_lines` reads; null stands for an unknown number."""
        columns = self.columns()
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            row = {name: None if value != value else value for name, value in zip(columns, values, strict=True)}
            yield json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def gather(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> LabelledRows:
    """Columns of (where, column → value), one a row; `where` is what errors call the row.

    Columns that no part of routing reads are left out. An input that only some rows have is nan in the others.

    Raises:
        InputError: names row and field.
    """
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    numbers: dict[str, list[float]] = {name: [] for name in (*NUMBERS, *OPTIONAL)}
    inputs: dict[str, list[float]] = {}
    owners, known, count = dict[str, str](), set[tuple[str, str]](), 0
    for where, row in rows:
        try:
            _append(row, texts, numbers, inputs, count)
            _check_owner(owners, texts["request"][-1], texts["user"][-1])
            _check_new(known, texts["request"][-1], texts["item"][-1])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        count += 1
    for values in inputs.values():
        values += [_NAN] * (count - len(values))
    columns: dict[str, Any] = {name: np.array(values, dtype=np.object_) for name, values in texts.items()}
    columns |= {name: np.array(values, dtype=np.float64) for name, values in numbers.items()}
    return LabelledRows(**columns, inputs={name: np.array(values) for name, values in inputs.items()})


def _append(
    row: Mapping[str, Any],
    texts: Mapping[str, list[str]],
    numbers: Mapping[str, list[float]],
    inputs: dict[str, list[float]],
    count: int,
) -> None:
    """One more row, which is the `count`-th from 0."""
    for name in (*TEXTS, *NUMBERS):
        if name not in row:
            raise InputError(f"{name} is missing{meant(name, row)}; needed are {', '.join((*TEXTS, *NUMBERS))}")
    for name, ids in texts.items():
        ids.append(_id(row[name], name))
    for name, values in numbers.items():
        values.append(_CHECKS[name](row.get(name, 1.0), name))
    for name, value in row.items():
        if name.startswith(INPUT):
            known = inputs.setdefault(name.removeprefix(INPUT), [])
            known += [_NAN] * (count - len(known))
            known.append(_number_or_nan(value, name))


def _check_owner(owners: dict[str, str], request: str, user: str) -> None:
    if owners.setdefault(request, user) != user:
        raise InputError(f"request: {request[:40]!r} is of user {owners[request][:40]!r} in an earlier row and of "
                         f"{user[:40]!r} here; a request has one user")  # fmt: skip


def _check_new(known: set[tuple[str, str]], request: str, item: str) -> None:
    """A row that is there twice would count as two that agree: intervals too narrow, promises too easily kept."""
    if (request, item) in known:
        raise InputError(f"item: {item[:40]!r} has a row of request {request[:40]!r} already; leave the second one "
                         "out, or give what was another request another id")  # fmt: skip
    known.add((request, item))


def _id(value: Any, name: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{name}: expected text or a whole number, not {_shown(value)}")


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value):  # true and false are 1 and 0
        return float(value)
    raise InputError(f"{name}: expected a number, not {_shown(value)}")


def _number_or_nan(value: Any, name: str) -> float:
    unknown = value is None or (isinstance(value, float) and math.isnan(value))
    return _NAN if unknown else _number(value, name)


def _time(value: Any, name: str) -> float:
    if isinstance(value, str):
        raise InputError(f"{name}: expected Unix seconds, a number, not {_shown(value)}")
    found = _number(value, name)
    if abs(found) > MAX_TIME:
        raise InputError(f"{name}: {not_seconds(found)}")
    return found


def _label(value: Any, name: str) -> float:
    found = _NAN if isinstance(value, str) else _number(value, name)
    if found not in (0.0, 1.0):
        raise InputError(f"{name}: {_shown(value)} is neither 0 nor 1")
    return found


def _probability(value: Any, name: str) -> float:
    found = _number(value, name)
    if not 0.0 <= found <= 1.0:
        raise InputError(f"{name}: {_shown(value)} is not a probability (0 to 1)")
    return found


def _maybe_probability(value: Any, name: str) -> float:
    found = _number_or_nan(value, name)
    return found if math.isnan(found) else _probability(found, name)


def _chance(value: Any, name: str) -> float:
    found = _probability(1.0 if value is None else value, name)
    if found == 0.0:
        raise InputError(f"{name}: 0 is the chance of what cannot have happened; leave such rows out")
    return found


_CHECKS: Mapping[str, Callable[[Any, str], float]] = {
    "time": _time, "label": _label, "crm": _probability, "llm": _maybe_probability, "propensity": _chance,
}  # fmt: skip


def _shown(value: Any) -> str:
    return "nothing" if value is None or value == "" else repr(value)[:60]


def filled(rows: LabelledRows, name: str) -> LabelledRows:
    """The rows, if there are any. Raises InputError, which names the file."""
    if not len(rows):
        raise InputError(f"{name}: holds no row")
    return rows


def unread(names: Sequence[str]) -> list[str]:
    """Of the columns of a file those that no part of routing reads."""
    return [name for name in names if name not in COLUMNS and not name.startswith(INPUT)]
