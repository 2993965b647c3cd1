"""Requests: the one form shared by `score`, the server and decision logs.

A request names a user (profile, history) and candidate items. Histories and candidates are held as columns: what is the
same of all of them in one list, so that none costs an object of its own. They are built of `Event`s and `Candidate`s,
and are sequences of them; `request_message` makes them of JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from corella_edge.messages import given
from corella_edge.selection import EVERYTHING, Selection, Stock

T = TypeVar("T")
Features = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user's past: item id, rating (None = unknown), Unix time in seconds.

    `type` ("view", "purchase") and `quantity` are what a store keeps of it; None = not told. No model reads them.
    """

    item: str
    rating: float | None = None
    time: int | None = None
    type: str | None = None
    quantity: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item to score; `features` (title, attributes) override or replace the catalogue's."""

    item: str
    features: Features | None = None


class History(Sequence[Event]):
    """Events of a user, oldest first, as columns.

    Attributes:
        items: n item ids.
        ratings: n ratings, None = unknown; None as a whole where no event has one.
        times: n Unix times in seconds, likewise.
        types, quantities: n kinds of events and counts, likewise.
    """

    __slots__ = ("items", "memo", "quantities", "ratings", "times", "types")

    def __init__(
        self,
        items: Sequence[str] = (),
        ratings: Sequence[float | None] | None = None,
        times: Sequence[int | None] | None = None,
        types: Sequence[str | None] | None = None,
        quantities: Sequence[float | None] | None = None,
    ) -> None:
        self.items, self.ratings, self.times, self.types, self.quantities = items, ratings, times, types, quantities
        self.memo: tuple[object, object] = (None, None)  # the encoder that has seen it, and what it made of it

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        if isinstance(events, History):
            return events
        listed = list(events)
        columns = ([getattr(e, name) for e in listed] for name in ("rating", "time", "type", "quantity"))
        return cls([e.item for e in listed], *map(unless_none, columns))

    def rows(self) -> Iterator[tuple[str, float | None, int | None]]:
        """Item, rating and time of each."""
        return zip(self.items, self.ratings or repeat(None), self.times or repeat(None), strict=False)

    @property
    def _columns(self) -> tuple[Any, ...]:
        """Beside the items, in the order of an event's fields."""
        return self.ratings, self.times, self.types, self.quantities

    def at(self, places: Sequence[int]) -> History:
        """Those at the places, in that order."""
        columns = (column and [column[i] for i in places] for column in self._columns)
        return History([self.items[i] for i in places], *columns)

    def last(self, count: int) -> History:
        """The latest `count` of them."""
        return self if count >= len(self.items) else self[len(self.items) - count :]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Event]:
        return map(Event, self.items, *(column or repeat(None) for column in self._columns))

    @overload
    def __getitem__(self, place: int) -> Event: ...
    @overload
    def __getitem__(self, place: slice) -> History: ...
    def __getitem__(self, place: int | slice) -> Event | History:
        columns = [column and column[place] for column in self._columns]
        return (History if isinstance(place, slice) else Event)(self.items[place], *columns)  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self.items))

    def __repr__(self) -> str:
        return f"History.of({list(self)!r})"


class Candidates(Sequence[Candidate]):
    """Items to score, as columns.

    Attributes:
        items: n item ids.
        own: features by place, of those that bring some.
        rows: int64 [n], their catalogue rows where whoever made them knows them.
    """

    __slots__ = ("items", "own", "rows")

    def __init__(
        self,
        items: Sequence[str],
        own: Mapping[int, Features] | None = None,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.items, self.rows = items, rows
        self.own: Mapping[int, Features] = own or {}

    @classmethod
    def of(cls, candidates: Iterable[Candidate]) -> Candidates:
        if isinstance(candidates, Candidates):
            return candidates
        listed = list(candidates)
        own = {i: c.features for i, c in enumerate(listed) if c.features is not None}
        return cls([c.item for c in listed], own)

    def at(self, places: Sequence[int]) -> Candidates:
        """Those at the places, in that order."""
        items, own = self.items, self.own
        return Candidates(
            [items[i] for i in places], {k: own[i] for k, i in enumerate(places) if i in own} if own else {}
        )

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Candidate]:
        return map(Candidate, self.items, map(self.own.get, range(len(self.items))))

    @overload
    def __getitem__(self, place: int) -> Candidate: ...
    @overload
    def __getitem__(self, place: slice) -> Candidates: ...
    def __getitem__(self, place: int | slice) -> Candidate | Candidates:
        if isinstance(place, slice):
            return self.at(range(*place.indices(len(self.items))))
        return Candidate(self.items[place], self.own.get(place % len(self.items)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self.items))

    def __repr__(self) -> str:
        return f"Candidates.of({list(self)!r})"


NOBODY = History()


@dataclass(frozen=True, slots=True, init=False)
class User:
    """Who asks: an id (may be unknown), profile features by name, and the history, oldest first."""

    id: str | None
    features: Features
    history: History

    def __init__(self, id: str | None = None, features: Features | None = None, history: Iterable[Event] = ()) -> None:
        put = object.__setattr__
        put(self, "id", id)
        put(self, "features", {} if features is None else features)
        put(self, "history", history if type(history) is History else History.of(history))

    @property
    def bare(self) -> bool:
        """Whether the id is all there is: a server that remembers users fills in the rest."""
        return self.id is not None and not self.features and not self.history.items


@dataclass(frozen=True, slots=True, init=False)
class Request:
    """One user and the candidates to score; `candidates` None means the whole catalogue.

    Attributes:
        explain: the answer says more: the threshold, the CRM's own rank, tokens, milliseconds.
        strict: a feature that no model reads is an error; and (of a server) a candidate that the LLM was wanted for and
            did not answer in time.
        notes: what was odd about it and put right, a sentence each.
        selection: which items are ranked, and in what order they are answered.
        seen: items of the user beside those of the history; a server's store knows them.
        stock: what the server holds as available; None = it holds nothing of the kind.
        adapters: name → weight of the LLM's adapters that it is answered by; None = as the bundle says.
    """

    user: User
    candidates: Candidates | None
    id: str | None = None
    threshold: float | str | None = None
    top_k: int | None = None
    timeout_ms: float | None = None
    explain: bool = False
    strict: bool = False
    notes: tuple[str, ...] = ()
    selection: Selection = EVERYTHING
    seen: Collection[str] = ()
    stock: Stock | None = None
    adapters: Mapping[str, float] | None = None

    def __init__(
        self,
        user: User,
        candidates: Iterable[Candidate] | None = None,
        id: str | None = None,
        threshold: float | str | None = None,
        top_k: int | None = None,
        timeout_ms: float | None = None,
        explain: bool = False,
        strict: bool = False,
        notes: tuple[str, ...] = (),
        selection: Selection = EVERYTHING,
        seen: Collection[str] = (),
        stock: Stock | None = None,
        adapters: Mapping[str, float] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "user", user)
        put(self, "candidates", None if candidates is None else Candidates.of(candidates))
        put(self, "id", id)
        put(self, "threshold", threshold)
        put(self, "top_k", top_k)
        put(self, "timeout_ms", timeout_ms)
        put(self, "explain", explain)
        put(self, "strict", strict)
        put(self, "notes", notes)
        put(self, "selection", selection)
        put(self, "seen", seen)
        put(self, "stock", stock)
        put(self, "adapters", adapters)

    @property
    def excludes_seen(self) -> bool:
        """Whether items of the user's history are left out; by itself where the whole catalogue is ranked."""
        return given(self.selection.exclude_seen, self.candidates is None)

    @property
    def in_stock(self) -> bool:
        """Whether only what the server holds as available is ranked; by itself as above."""
        return given(self.selection.available, self.candidates is None) is True

    @property
    def best_first(self) -> bool:
        """Whether the answer is in the order of the ranks; by itself as above."""
        return given(self.selection.order, "request" if self.candidates is not None else "rank") == "rank"


def unless_none(values: list[T | None]) -> list[T | None] | None:
    """A column, or None where no event has a value."""
    return None if values.count(None) == len(values) else values
