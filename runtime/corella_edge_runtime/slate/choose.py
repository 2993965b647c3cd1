"""A request → the items that are ranked for it, and what ranks them where no model does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import numpy as np
import numpy.typing as npt

from corella_edge.bundle.artefact import POPULAR, Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.messages import given, named
from corella_edge.request import Candidates, History, Request
from corella_edge.routing.decision import Weighting
from corella_edge.selection import EVERYTHING, MAX_VALUE, Selection, Stock, listed
from corella_edge_runtime.slate.filters import Filters, Mask, passes
from corella_edge_runtime.slate.popular import Popular

Floats = npt.NDArray[np.float64]
Fallback = Literal["", "popular", "similar"]


@dataclass(frozen=True, slots=True)
class Slate:
    """What is ranked for one request.

    Attributes:
        candidates: the items, in the request's order or the catalogue's.
        fallback: "popular" or "similar" where that ranks them, else "".
        strength: float64 [n], the higher the better, where a fallback ranks.
        notes: what is odd about the selection, a sentence each.
        value: by which the models' probabilities rank; None = by themselves.
    """

    candidates: Candidates
    fallback: Fallback = ""
    strength: Floats | None = None
    notes: tuple[str, ...] = ()
    value: Weighting | None = None


class Slates:
    """Slates of one bundle. Threads may share one."""

    def __init__(self, bundle: Bundle, catalog: Catalog, answered: Mask | None = None) -> None:
        """`answered`: bool [n], the items that may be ranked; None = all."""
        self.bundle, self.catalog, self._answered = bundle, catalog, answered
        self.filters = Filters(catalog)
        n, ids = len(catalog), catalog.ids
        # numpy takes many of a list's texts in half the time; a mapped table makes none that nobody asks for.
        self._texts = np.array(ids, np.object_) if isinstance(ids, list) else None
        rows = np.arange(n, dtype=np.int64) if answered is None else np.flatnonzero(answered)
        self.everything = Candidates(catalog.ids if answered is None else self._ids(rows), None, rows)
        self._stock: tuple[Stock, Mask] = (Stock(), np.ones(n, np.bool_))

    def _ids(self, rows: npt.NDArray[np.int64]) -> list[str]:
        if self._texts is not None:
            found: list[str] = self._texts.take(rows).tolist()
            return found
        ids = self.catalog.ids
        return [ids[row] for row in rows.tolist()]

    @cached_property
    def popular(self) -> Popular | None:
        """What the training rows say of items; None for a bundle without it. Raises BundleError."""
        return Popular.read(self.bundle.path(POPULAR), self.catalog) if self.bundle.has(POPULAR) else None

    def open(self) -> None:
        """Read now what a request may need. Raises BundleError."""
        _ = self.popular

    def of(self, request: Request) -> Slate:
        """The items to rank.

        Raises:
            InputError: a filter by what no item has; neighbours of a bundle that knows none; weights that are no
                numbers for each candidate; and in a strict request whatever would be a note.
        """
        if request.candidates is None:
            slate = self._of_catalogue(request)
        elif request.selection is EVERYTHING:
            return Slate(request.candidates)
        else:
            slate = self._of_given(request, request.candidates)
        if slate.notes and request.strict:
            raise InputError(f"{slate.notes[0]}, and the request is strict")
        return slate

    def _of_catalogue(self, request: Request) -> Slate:
        mask, strength, notes = self._mask(request)
        fallback = self._fallback(request)
        rows = np.flatnonzero(mask) if mask is not None else self.everything.rows
        assert rows is not None
        if fallback == "popular" and self.popular is not None:
            strength = self.popular.counts.astype(np.float64)
        ranks = None
        if fallback and strength is not None:
            rows = _best(rows, strength, request.top_k)
            ranks = strength[rows]
        value, whole = self._value(request.selection, None, rows), len(rows) == len(self.everything)
        found = self.everything if whole else Candidates(self._ids(rows), None, rows)
        return Slate(found, fallback, ranks, notes, None if fallback else value)

    def _mask(self, request: Request) -> tuple[Mask | None, Floats | None, tuple[str, ...]]:
        """Which items of the catalogue are ranked, None = all; how similar they are to what was named; notes."""
        selection, masks, notes = request.selection, list[Mask](), tuple[str, ...]()
        if request.in_stock and request.stock is not None:
            masks.append(self._in_stock(request.stock))
        if selection.filter:
            conditions = self.filters.checked(selection.filter)
            masks.append(self.filters.passing(conditions))
            notes = tuple(self.filters.notes(conditions))
        if (only := listed(selection.available)) is not None:
            masks.append(~self._without(only))
        gone = _gone(request)
        if any(gone):
            masks.append(self._without(item for items in gone for item in items))
        strength = self._similar(selection)
        if strength is not None:
            masks.append(strength > 0.0)
        if masks and self._answered is not None:
            masks.append(self._answered)
        return reduce(np.logical_and, masks) if masks else None, strength, notes

    def _without(self, items: Iterable[str]) -> Mask:
        """bool [n]: all but these."""
        mask, get = np.ones(len(self.catalog), np.bool_), self.catalog.row_of.get
        mask[[row for item in items if (row := get(item)) is not None]] = False
        return mask

    def _in_stock(self, stock: Stock) -> Mask:
        known, mask = self._stock
        if known is not stock:
            mask = self._without(stock.items)
            if stock.only:
                mask = ~mask
            self._stock = stock, mask
        return mask

    def _similar(self, selection: Selection) -> Floats | None:
        """float64 [n], 0 for the items named and for those that are similar to none."""
        items = listed(selection.similar_to)
        if items is None:
            return None
        if self.popular is None:
            raise InputError(f"similar_to: this bundle holds no neighbours ({POPULAR}); export it anew")
        rows = self.rows_of(items, "similar_to")
        found = self.popular.similar(rows)
        found[rows] = 0.0
        return found

    def rows_of(self, items: Sequence[str], path: str) -> list[int]:
        """Catalogue rows. Raises InputError for an item that is not in it."""
        for item in items:
            if item not in self.catalog.row_of:
                raise InputError(f"{path}: the catalogue has no item {named(item)!r}")
        return [self.catalog.row_of[item] for item in items]

    def _fallback(self, request: Request) -> Fallback:
        """What ranks in place of the models: they have learned nothing of a user without a known event."""
        if not given(request.selection.fallback, True) or self._knows(request.user.history):
            return ""
        if listed(request.selection.similar_to) is not None:
            return "similar"
        return "" if self.popular is None else "popular"

    def _knows(self, history: History) -> bool:
        return any(item in self.catalog.row_of for item in history.items)

    def _of_given(self, request: Request, candidates: Candidates) -> Slate:
        """Of the candidates that the request brings, whose own attributes win over the catalogue's."""
        selection, items, keep = request.selection, candidates.items, np.ones(len(candidates), np.bool_)
        notes: tuple[str, ...] = ()
        gone = set[str]().union(*_gone(request))
        stock = request.stock if request.in_stock else None
        chosen_ids = listed(selection.available)
        only = None if chosen_ids is None else set(chosen_ids)
        if gone or stock is not None or only is not None:
            keep &= [
                item not in gone and (stock is None or stock.has(item)) and (only is None or item in only)
                for item in items
            ]
        rows = np.array([self.catalog.row_of.get(item, len(self.catalog)) for item in items], np.int64)
        value = self._value(selection, candidates, rows)
        if selection.filter:
            mask, notes = self._filtered(candidates, rows, selection)
            keep &= mask
        strength = self._similar(selection)
        if strength is not None:
            keep &= np.append(strength, 0.0)[rows] > 0.0
        places = np.flatnonzero(keep)
        chosen = candidates if len(places) == len(items) else candidates.at(places.tolist())
        if not given(selection.fallback, False) or not (fallback := self._fallback(request)):
            return Slate(chosen, notes=notes, value=None if value is None else value.at(places))
        if strength is None and self.popular is not None:
            strength = self.popular.counts.astype(np.float64)
        assert strength is not None
        return Slate(chosen, fallback, np.append(strength, 0.0)[rows[places]], notes)

    def _value(
        self, selection: Selection, candidates: Candidates | None, rows: npt.NDArray[np.int64]
    ) -> Weighting | None:
        """By what the items at these rows of the catalogue rank, where not by their probability.

        Args:
            candidates: those of the request, whose own attributes win; None = they are the catalogue's.

        Raises:
            InputError: weights are not one for each candidate, not of at least 0, or an attribute holds no numbers, or
                larger ones than a list may.
        """
        given_ = (selection.weights, selection.bonuses)
        if not any(isinstance(one, (list, str)) for one in given_):
            return None
        weight, bonus = (
            self._numbers(name, found, fill, candidates, rows)
            for name, found, fill in zip(("weights", "bonuses"), given_, (1.0, 0.0), strict=True)
        )
        if weight.min(initial=0.0) < 0.0:
            raise InputError(f"weights: {named(str(selection.weights))} of an item is below 0; a weight is at least 0")
        return Weighting(weight, bonus)

    def _numbers(
        self, name: str, found: object, fill: float, candidates: Candidates | None, rows: npt.NDArray[np.int64]
    ) -> Floats:
        """float64 [n]: the numbers of a field, of an attribute, or the fill."""
        if isinstance(found, list):
            return _one_each(name, found, None if candidates is None else len(candidates))
        if not isinstance(found, str):
            return np.full(len(rows), fill)
        own = {} if candidates is None else candidates.own
        brought = {place: features[found] for place, features in own.items() if found in features}
        numbers = np.append(self.filters.numbers(found, name, bool(brought)), 0.0)[rows]
        for place, value in brought.items():
            numbers[place] = value if type(value) in (int, float) else 0.0
        if np.abs(numbers).max(initial=0.0) > MAX_VALUE:
            raise InputError(
                f"{name}: {named(found)} of an item is beyond {MAX_VALUE} in size; the limit is that of a list"
            )
        return numbers

    def _filtered(
        self, candidates: Candidates, rows: npt.NDArray[np.int64], selection: Selection
    ) -> tuple[Mask, tuple[str, ...]]:
        """bool [n]: the candidates, at `rows` of the catalogue, that pass; and notes."""
        own = candidates.own
        brought = {name for features in own.values() for name in features}
        conditions = self.filters.checked(selection.filter or {}, brought)
        mask = np.ones(len(candidates), np.bool_)
        for name, condition in conditions.items():
            of_nothing = passes(None, condition)
            passing = np.append(self.filters.column(name).passes(condition), of_nothing)[rows]
            for place, features in own.items():
                if name in features:
                    passing[place] = passes(features[name], condition)
            mask &= passing
        return mask, tuple(self.filters.notes({k: v for k, v in conditions.items() if k not in brought}))


def _one_each(name: str, numbers: list[float], candidates: int | None) -> Floats:
    """float64 [n]. Raises InputError unless there is one for each of so many candidates; None = whole catalogue."""
    if candidates is None:
        raise InputError(f"{name}: there is one for each candidate; name the candidates, or an attribute of the items")
    if len(numbers) != candidates:
        raise InputError(f"{name}: expected {candidates} numbers, one for each candidate, got {len(numbers)}")
    return np.array(numbers, np.float64)


def _gone(request: Request) -> list[Collection[str]]:
    """The ids that are not ranked."""
    excluded = listed(request.selection.exclude)
    gone: list[Collection[str]] = [excluded] if excluded else []
    if request.excludes_seen:
        gone += [found for found in (request.user.history.items, request.seen) if found]
    return gone


def _best(rows: npt.NDArray[np.int64], strength: Floats, most: int | None) -> npt.NDArray[np.int64]:
    """At most so many of the rows, the strongest, in the catalogue's order; of equal ones the first."""
    if most is None or most >= len(rows):
        return rows
    order = np.argsort(-strength[rows], kind="stable")[:most]
    return rows[np.sort(order)]
