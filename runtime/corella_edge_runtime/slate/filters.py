"""Filters by attribute: arrays a value, made when an attribute is first asked for, and kept."""

from __future__ import annotations

import difflib
import math
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from corella_edge.catalog import FITTED, Catalog
from corella_edge.errors import InputError
from corella_edge.features.schema import value_key
from corella_edge.messages import named
from corella_edge.selection import Condition, Word

Mask = npt.NDArray[np.bool_]
Conditions = Mapping[str, Condition]
NEAREST = 5  # names or values in a message
COMPARED, LETTERS = 500, 40  # values that a misspelt one is compared with, and of how many letters: a page of titles
# would take seconds, and any client may ask


@dataclass(frozen=True, slots=True)
class FilterColumn:
    """One attribute of the n items of a catalogue.

    Attributes:
        rows_of: value, as `value_key` has it → int32, the rows of the items that have it.
        numbers: float64 [n], nan for an item whose value is no number.
    """

    rows_of: Mapping[str, npt.NDArray[np.int32]]
    numbers: npt.NDArray[np.float64]

    def passes(self, condition: Condition) -> Mask:
        """bool [n]."""
        mask = np.ones(len(self.numbers), np.bool_)
        if type(condition.any) is list:
            mask &= self._one_of(condition.any)
        if type(condition.without) is list:
            mask &= ~self._one_of(condition.without)
        least, most = _bounds(condition)
        if least > -math.inf or most < math.inf:
            mask &= (self.numbers >= least) & (self.numbers <= most)
        return mask

    def _one_of(self, words: Sequence[Word]) -> Mask:
        mask = np.zeros(len(self.numbers), np.bool_)
        for word in words:
            rows = self.rows_of.get(value_key(word))
            if rows is not None:
                mask[rows] = True
        return mask


class Filters:
    """The attributes of a catalogue as `FilterColumn`s. Threads may share one."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._columns: dict[str, FilterColumn] = {}
        self._lock = threading.Lock()

    @cached_property
    def names(self) -> list[str]:
        """The attributes that some item has, without those that the base model made of training rows."""
        return sorted({name for attributes in self.catalog.attributes for name in attributes} - set(FITTED))

    def passing(self, conditions: Conditions) -> Mask:
        """bool [n]: the items that pass all of them. Raises InputError as `checked`."""
        mask = np.ones(len(self.catalog), np.bool_)
        for name, condition in conditions.items():
            mask &= self.column(name).passes(condition)
        return mask

    def prepare(self, names: Iterable[str]) -> None:
        """Make the arrays of these attributes now."""
        for name in set(names) & set(self.names):
            self.column(name)

    def column(self, name: str) -> FilterColumn:
        with self._lock:
            found = self._columns.get(name)
            if found is None:
                found = self._columns[name] = _column([known.get(name) for known in self.catalog.attributes])
        return found

    def checked(self, given: Mapping[str, Any], own: Iterable[str] = ()) -> Conditions:
        """The conditions of a request's `filter`.

        Args:
            own: further names of attributes, those that the request's own items bring.

        Raises:
            InputError: an attribute that no item has, with the nearest ones; or bounds of what is no number.
        """
        brought = set(own)
        conditions = {name: _condition(value) for name, value in given.items()}
        for name, condition in conditions.items():
            if name in brought:
                continue
            if name not in self.names:
                raise InputError(f"filter: no item has an attribute {named(name)!r}; {_nearest(name, self.names)}")
            bounded = condition.min is not UNSET or condition.max is not UNSET
            if bounded and np.isnan(self.column(name).numbers).all():
                raise InputError(f"filter.{named(name)}: holds no numbers; ask for values, such as {self._some(name)}")
        return conditions

    def numbers(self, name: str, path: str, brought: bool = False) -> npt.NDArray[np.float64]:
        """float64 [n]: an attribute's numbers, 0 for an item without one.

        Args:
            path: the request's field that names it. brought: whether a candidate of the request brings it.

        Raises:
            InputError: no item has the attribute, or none has a number.
        """
        if name not in self.names:
            if brought:
                return np.zeros(len(self.catalog))
            raise InputError(f"{path}: no item has an attribute {named(name)!r}; {_nearest(name, self.names)}")
        found = self.column(name).numbers
        if np.isnan(found).all() and not brought:
            raise InputError(f"{path}: the attribute {named(name)!r} holds no numbers")
        return np.nan_to_num(found, nan=0.0)

    def _some(self, name: str) -> str:
        return ", ".join(map(repr, list(self.column(name).rows_of)[:NEAREST]))

    def notes(self, conditions: Conditions) -> Iterator[str]:
        """A sentence for each attribute of which some values are no item's: as a rule they are misspelt."""
        for name, condition in conditions.items():
            if name not in self.names:
                continue
            known = self.column(name).rows_of
            words = [w for found in (condition.any, condition.without) if type(found) is list for w in found]
            missing = [key for word in words if (key := value_key(word)) not in known]
            if missing:
                more = f" (nor {len(missing) - 1} others)" if len(missing) > 1 else ""
                near = _nearest(missing[0], list(known))
                yield f"filter.{named(name)}: no item has {named(missing[0])!r}{more}; {near}"


def _condition(value: Any) -> Condition:
    if isinstance(value, Condition):
        return value
    return Condition(any=value if isinstance(value, list) else [value])


def _column(values: Sequence[Any]) -> FilterColumn:
    """Of an attribute's values, one an item."""
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        kind = type(value)
        if kind is str:
            rows_of[value].append(row)
        elif kind is list or kind is tuple:
            for one in value:
                if one is not None:
                    rows_of[value_key(one)].append(row)
        elif value is not None:
            rows_of[value_key(value)].append(row)
            if kind is not bool:
                numbers[row] = value
    return FilterColumn({key: np.array(rows, np.int32) for key, rows in rows_of.items()}, numbers)


def passes(value: Any, condition: Condition) -> bool:
    """What `FilterColumn.passes` says of an item with such a value, None = without one."""
    return bool(_column([value]).passes(condition)[0])


def _bounds(condition: Condition) -> tuple[float, float]:
    least, most = condition.min, condition.max
    return (
        least if isinstance(least, float) else -math.inf,
        most if isinstance(most, float) else math.inf,
    )


def _alike(word: str, known: Sequence[str]) -> list[str]:
    """A few short ones of the known: those with the same first letter, then others."""
    first, short = word[:1].lower(), [text for text in known[:10_000] if len(text) <= LETTERS]
    return sorted(short, key=lambda text: text[:1].lower() != first)[:COMPARED]


def _nearest(word: str, known: Sequence[str]) -> str:
    """What might have been meant, in words."""
    near = difflib.get_close_matches(word[:LETTERS], _alike(word, known), NEAREST, 0.5)
    if near:
        return f"nearest: {', '.join(map(named, near))}"
    return (
        f"known: {', '.join(map(named, known[:NEAREST]))}{', …' if len(known) > NEAREST else ''}"
        if known
        else ("the catalogue's items have none")
    )
