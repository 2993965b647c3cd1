"""Requests: the one form shared by `score`, the server and decision logs.

A request names a user (profile, history) and candidate items. Histories and candidates are held as columns: what is the
same of all of them in one list, so that none costs an object of its own. They are built of `Event`s and `Candidate`s,
and are sequences of them; `request_message` makes them of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, overload

Features = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user's past: item id, rating (None = unknown), Unix time in seconds."""

    item: str
    rating: float | None = None
    time: int | None = None


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
    """

    __slots__ = ("items", "memo", "ratings", "times")

    def __init__(
        self,
        items: Sequence[str] = (),
        ratings: Sequence[float | None] | None = None,
        times: Sequence[int | None] | None = None,
    ) -> None:
        self.items, self.ratings, self.times = items, ratings, times
        self.memo: tuple[object, object] = (None, None)  # the encoder that has seen it, and what it made of it

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        if isinstance(events, History):
            return events
        listed = list(events)
        ratings, times = [e.rating for e in listed], [e.time for e in listed]
        return cls([e.item for e in listed], _unless_none(ratings), _unless_none(times))

    def rows(self) -> Iterator[tuple[str, float | None, int | None]]:
        """Item, rating and time of each."""
        return zip(self.items, self.ratings or repeat(None), self.times or repeat(None), strict=False)

    def at(self, places: Sequence[int]) -> History:
        """Those at the places, in that order."""
        items, ratings, times = self.items, self.ratings, self.times
        return History(
            [items[i] for i in places], ratings and [ratings[i] for i in places], times and [times[i] for i in places]
        )

    def last(self, count: int) -> History:
        """The latest `count` of them."""
        return self if count >= len(self.items) else self[len(self.items) - count :]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Event]:
        return (Event(*row) for row in self.rows())

    @overload
    def __getitem__(self, place: int) -> Event: ...
    @overload
    def __getitem__(self, place: slice) -> History: ...
    def __getitem__(self, place: int | slice) -> Event | History:
        ratings, times = self.ratings and self.ratings[place], self.times and self.times[place]
        if isinstance(place, slice):
            return History(self.items[place], ratings, times)  # type: ignore[arg-type]
        return Event(self.items[place], ratings, times)  # type: ignore[arg-type]

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
    """

    __slots__ = ("items", "own")

    def __init__(self, items: Sequence[str], own: Mapping[int, Features] | None = None) -> None:
        self.items = items
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


def _unless_none(values: list[Any]) -> list[Any] | None:
    return None if values.count(None) == len(values) else values
