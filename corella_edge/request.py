"""Requests: the one form shared by `score`, the server and decision logs.

A request names a user (profile, history) and candidate items. Histories and candidates are held as columns: what is the
same of all of them in one list, so that none costs an object of its own. `read_request` takes JSON; in Python the
columns are built of `Event`s and `Candidate`s, and are sequences of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Annotated, Any, overload

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import astuple

from corella_edge.errors import InputError
from corella_edge.formats.strict_json import decode
from corella_edge.history import MAX_TIME, column, is_plain, sensible
from corella_edge.messages import (
    MAX_WHOLE,
    FeatureValues,
    Id,
    OptionalFeatures,
    OptionalId,
    an_id,
    an_optional_id,
    check,
    check_features,
    given,
    named,
    read,
)
from corella_edge.routing.policy import LN2

MAX_CANDIDATES = 10_000
MAX_HISTORY = 100_000
MAX_TIMEOUT_MS = 86_400_000  # a day
MAX_RATING = 10**6

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

    def within(self, timeout_ms: float) -> Request:
        """The same with another time for the LLM."""
        return Request(
            self.user, self.candidates, self.id, self.threshold, self.top_k, timeout_ms, self.explain, self.strict,
            self.notes,
        )  # fmt: skip


def _unless_none(values: list[Any]) -> list[Any] | None:
    return None if values.count(None) == len(values) else values


Nats = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": LN2})]
Ratio = Annotated[str, Meta(extra_json_schema={"pattern": r"^ratio:(0|1|0\.[0-9]{1,9})$"})]
Left = None | UnsetType  # null, and a field that is left out, are the same
Rating = Annotated[float, Meta(ge=-MAX_RATING, le=MAX_RATING)]
# What is beyond it counts other units: `history.sensible` refuses it in such words.
_IN_TIME = Meta(extra_json_schema={"minimum": -MAX_TIME, "maximum": MAX_TIME})
Seconds = Annotated[
    Annotated[int, _IN_TIME] | Annotated[float, _IN_TIME],
    Meta(description="Unix time in seconds, before the year 2100; other units are refused."),
]


class EventMessage(Struct, forbid_unknown_fields=True, gc=False):
    """An event as JSON has it."""

    item: Id
    rating: Rating | Left = UNSET
    time: Seconds | Left = UNSET


class CandidateMessage(Struct, forbid_unknown_fields=True, gc=False):
    """Features (title, attributes) override the catalogue's; a new item needs them to be put to the LLM."""

    item: Id
    features: OptionalFeatures = UNSET


class UserMessage(Struct, forbid_unknown_fields=True):
    """Unknown users and items are scored too, and flagged in the answer."""

    id: OptionalId = UNSET
    features: OptionalFeatures = UNSET
    history: (
        Annotated[
            list[EventMessage],
            Meta(
                max_length=MAX_HISTORY,
                description="Oldest first. Where all have a time, another order is put right, and told.",
            ),
        ]
        | Left
    ) = UNSET


class Options(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a request may say beside who asks."""

    id: Annotated[OptionalId, Meta(description="Repeated in the answer.")] = UNSET
    candidates: (
        Annotated[
            list[CandidateMessage],
            Meta(min_length=1, max_length=MAX_CANDIDATES, description="Left out: the whole catalogue."),
        ]
        | Left
    ) = UNSET
    threshold: Annotated[
        Nats | Ratio | Left,
        Meta(
            description="Ask the LLM from this entropy (nats) on, or about this share: `ratio:0.05`. "
            "Left out: the server's own."
        ),
    ] = UNSET
    top_k: Annotated[int, Meta(ge=1, le=2**31, description="Answer with this many of the best only.")] | Left = UNSET
    timeout_ms: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=MAX_TIMEOUT_MS,
                description="Time for the LLM, from the arrival of the whole body; candidates without an answer "
                "by then keep the CRM's score and have the reason `deadline`.",
            ),
        ]
        | Left
    ) = UNSET
    explain: Annotated[
        bool | Left, Meta(description="Answer with more: threshold, the CRM's own rank, tokens, milliseconds.")
    ] = UNSET
    strict: Annotated[
        bool | Left,
        Meta(
            description="Fail where the LLM does not answer all it is asked in time (503, 504), and on features that "
            "no model reads or what would be told in `notes`, but for an order that is put right (422)."
        ),
    ] = UNSET


class UserRequest(Options):
    """Candidates to rank for a user who is told in full."""

    user: UserMessage


class UserIdRequest(Options):
    """The same as `user` with an id alone: a server with a store fills in profile and history."""

    user_id: Id


class RequestMessage(Options):
    """A request as it is read: exactly one of `user` and `user_id` is there."""

    user: UserMessage | UnsetType = UNSET
    user_id: Id | UnsetType = UNSET


def read_request(raw: bytes) -> Request:
    """The request in a JSON text.

    Raises:
        JsonError: not strict JSON.
        InputError: a field is missing, unknown, of the wrong type, or out of range; the message names it.
    """
    message = read(raw, RequestMessage, "request", _colons)
    # A whole number so large is refused, and read as a float it could not be told.
    if type(message.threshold) is float and abs(message.threshold) >= MAX_WHOLE:
        message = check(decode(raw), RequestMessage, "request")
    return _request(message)


def parse_request(value: object) -> Request:
    """`read_request` of a JSON value that is decoded already."""
    return _request(check(value, RequestMessage, "request"))


def _request(message: RequestMessage) -> Request:
    candidates, strict = message.candidates, message.strict is True
    user, notes = _who(message, strict)
    return Request(
        user,
        None if candidates is None or candidates is UNSET else _candidates(candidates),
        an_optional_id(message.id, "id"),
        _or_none(message.threshold),
        _or_none(message.top_k),
        _or_none(message.timeout_ms),
        message.explain is True,
        strict,
        notes,
    )


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _who(message: RequestMessage, strict: bool) -> tuple[User, tuple[str, ...]]:
    """`user`, or `user_id` alone; and what is odd about the history."""
    user, user_id = message.user, message.user_id
    if (user is UNSET) == (user_id is UNSET):
        raise InputError("request: exactly one of the fields 'user' and 'user_id' is needed")
    if user is UNSET:
        return User(an_id(user_id, "user_id")), ()  # type: ignore[arg-type]
    features = given(user.features, {})
    check_features(features, "user.features")
    events = given(user.history, [])
    history, notes = ordered(history_of(events, "user.history"), "user.history", strict) if events else (NOBODY, ())
    return User(an_optional_id(user.id, "user.id"), features, history), notes


def ordered(
    history: History, path: str, strict: bool = False, arriving: bool = False
) -> tuple[History, tuple[str, ...]]:
    """A history at `path` in the order of its times, and what to tell; `history.sensible` has the rule."""
    times, ratings = history.times, history.ratings
    if times is None or is_plain(times):
        return history, ()
    unrated = [None] * len(times)
    order, notes = sensible(column(times), column(ratings or unrated), None, path, strict, arriving)
    return history if order is None else history.at(order.tolist()), tuple(notes)


def history_of(events: list[EventMessage], path: str) -> History:
    """Events of a message, at `path`, as columns."""
    ratings: list[Any] = [event.rating for event in events]
    times: list[Any] = [event.time for event in events]
    return History(_ids([event.item for event in events], path), _column(ratings), _column(times, int))


def _column(values: list[Any], kind: type[Any] | None = None) -> list[Any] | None:
    missing = values.count(UNSET) + values.count(None)
    if missing == len(values):
        return None
    if missing:
        return [None if v is UNSET or v is None else kind(v) if kind else v for v in values]
    return list(map(kind, values)) if kind else values


def _candidates(messages: list[CandidateMessage]) -> Candidates:
    features = [message.features for message in messages]
    own = {}
    if features.count(UNSET) != len(features):
        own = {i: found for i, found in enumerate(features) if found is not None and found is not UNSET}
        for i, found in own.items():
            check_features(found, f"candidates[{i}].features")
    return Candidates(_ids([message.item for message in messages], "candidates"), own)


def _ids(ids: list[Any], path: str) -> list[str]:
    """Ids as texts; those of messages at `path`."""
    try:
        "".join(ids)
    except TypeError:  # integers are among them
        return [an_id(value, f"{path}[{i}].item") for i, value in enumerate(ids)]
    return ids


def _colons(message: RequestMessage) -> int:
    """See `read`: the colons of a request without escapes that names nothing twice."""
    user, count = message.user, _set(message) + _in((message.id, message.user_id, message.threshold))
    if user is not UNSET:
        events = given(user.history, [])
        count += _set(user) + _in((user.id,)) + _of(user.features) + _in_ids([event.item for event in events])
        count += 3 * len(events) - [event.rating for event in events].count(UNSET)
        count -= [event.time for event in events].count(UNSET)
    candidates = given(message.candidates, [])
    count += len(candidates) + _in_ids([candidate.item for candidate in candidates])
    features = [candidate.features for candidate in candidates]
    if features.count(UNSET) != len(features):
        count += sum(1 + _of(found) for found in features if found is not UNSET)
    return count


def _set(message: Struct) -> int:
    """Fields that are there."""
    return len(message.__struct_fields__) - astuple(message).count(UNSET)


def _of(features: Any) -> int:
    """Colons of an object of features."""
    return len(features) + _in(features) + _in(features.values()) if features else 0


def _in(values: Iterable[Any]) -> int:
    """Colons in the texts among the values."""
    count = 0
    for value in values:
        if type(value) is str:
            count += value.count(":")
        elif type(value) is list:
            count += _in(value)
    return count


def _in_ids(ids: list[Any]) -> int:
    try:
        return "".join(ids).count(":")
    except TypeError:  # integers are among them
        return _in(ids)


class ItemMessage(Struct):
    """An item of a catalogue: its id; the other fields are attributes."""

    item: Id


def parse_item(value: object) -> Candidate:
    """`{"item": id, attribute: value, …}`, a line of a catalogue, as a candidate that brings the attributes."""
    item = check(value, ItemMessage, "line").item
    attributes = {name: found for name, found in value.items() if name != "item"}  # type: ignore[attr-defined]
    return Candidate(an_id(item, "item"), check_attributes(attributes))


def check_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of an item, of any number. Raises InputError for one that is not of a feature's form."""
    for name, found in attributes.items():
        check({name: found}, FeatureValues, named(str(name)))
    return attributes
