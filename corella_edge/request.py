"""Requests and answers: the one form shared by `score`, the server and decision logs.

A request names a user (profile, history) and candidate items; `parse_request` turns decoded JSON into
frozen dataclasses or raises one `InputError` that names the field and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corella_edge.errors import InputError
from corella_edge.history import MAX_TIME, column, not_seconds, sensible

MAX_ID_CHARS = 256
MAX_CANDIDATES = 10_000
MAX_HISTORY = 100_000
MAX_TIMEOUT_MS = 86_400_000  # a day
MAX_FEATURES = 256  # of one user or candidate
MAX_VALUES = 1024  # of one feature
MAX_TEXT_CHARS = 16_384  # of one value

Features = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction of a user's past: item id, rating (None = unknown), Unix time in seconds."""

    item: str
    rating: float | None = None
    time: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: an id (may be unknown), profile features by name, and the history, oldest first."""

    id: str | None = None
    features: Features = field(default_factory=dict)
    history: tuple[Event, ...] = ()

    @property
    def bare(self) -> bool:
        """Whether the id is all there is: a server that remembers users fills in the rest."""
        return self.id is not None and not self.features and not self.history


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item to score; `features` (title, attributes) override or replace the catalogue's."""

    item: str
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One user and the candidates to score; `candidates` None means the whole catalogue.

    Attributes:
        explain: the answer says more: the threshold, the CRM's own rank, tokens, milliseconds.
        strict: a feature that no model reads is an error; and (of a server) a candidate that the LLM was wanted for and
            did not answer in time.
        notes: what was odd about it and put right, a sentence each.
    """

    user: User
    candidates: tuple[Candidate, ...] | None = None
    id: str | None = None
    threshold: float | str | None = None
    top_k: int | None = None
    timeout_ms: float | None = None
    explain: bool = False
    strict: bool = False
    notes: tuple[str, ...] = ()


_FIELDS = {"id", "user", "user_id", "candidates", "threshold", "top_k", "timeout_ms", "explain", "strict"}


def parse_request(value: object) -> Request:
    """Check and convert one decoded JSON request.

    Raises:
        InputError: a field is missing, unknown, of the wrong type, or out of range; the message names it.
    """
    data = an_object(value, "request", _FIELDS)
    candidates, strict = data.get("candidates"), _flag(data.get("strict"), "strict")
    user, notes = _who(data, strict)
    return Request(
        user=user,
        candidates=None if candidates is None else _candidates(candidates),
        id=an_optional_id(data.get("id"), "id"),
        threshold=_threshold(data.get("threshold")),
        top_k=_positive_int(data.get("top_k"), "top_k"),
        timeout_ms=_number(data.get("timeout_ms"), "timeout_ms", low=0.0, high=MAX_TIMEOUT_MS),
        explain=_flag(data.get("explain"), "explain"),
        strict=strict,
        notes=notes,
    )


def _who(data: Mapping[str, Any], strict: bool) -> tuple[User, tuple[str, ...]]:
    """`user`, or `user_id` alone; and what is odd about the history."""
    if ("user" in data) == ("user_id" in data):
        raise InputError("request: exactly one of the fields 'user' and 'user_id' is needed")
    return _user(data["user"], strict) if "user" in data else (User(an_id(data["user_id"], "user_id")), ())


def _user(value: object, strict: bool) -> tuple[User, tuple[str, ...]]:
    data = an_object(value, "user", {"id", "features", "history"})
    id, features = an_optional_id(data.get("id"), "user.id"), features_of(data.get("features"), "user.features") or {}
    events = events_of(a_list(data.get("history"), "user.history", MAX_HISTORY), "user.history")
    history, notes = ordered(events, "user.history", strict)
    return User(id, features, history), notes


def events_of(values: list[Any], path: str) -> tuple[Event, ...]:
    """Events of a list at `path`. InputError names the one that is wrong."""
    return tuple([_event(value, path, i) for i, value in enumerate(values)])


def ordered(
    events: tuple[Event, ...], path: str, strict: bool = False, arriving: bool = False
) -> tuple[tuple[Event, ...], tuple[str, ...]]:
    """Events of a list at `path` in the order of their times, and what to tell; `history.sensible` has the rule."""
    if not events:
        return events, ()
    times, ratings = column([event.time for event in events]), column([event.rating for event in events])
    order, notes = sensible(times, ratings, None, path, strict, arriving)
    return events if order is None else tuple([events[i] for i in order.tolist()]), tuple(notes)


def _event(value: object, within: str, i: int) -> Event:
    if isinstance(value, dict) and value.keys() <= {"item", "rating", "time"}:
        item: Any = value.get("item")
        rating: Any = value.get("rating")
        time: Any = value.get("time")
        # The common case, kept free of formatted paths: histories are long.
        plain = type(item) is str and type(rating) is int and type(time) is int
        if plain and 0 < len(item) <= MAX_ID_CHARS and abs(rating) <= 1e6 and abs(time) <= MAX_TIME:
            return Event(item, float(rating), time)
    path = f"{within}[{i}]"
    data = an_object(value, path, {"item", "rating", "time"})
    seconds = _number(data.get("time"), f"{path}.time")
    if seconds is not None and abs(seconds) > MAX_TIME:
        raise InputError(f"{path}.time: {not_seconds(seconds)}")
    return Event(
        item=an_id(data.get("item"), f"{path}.item"),
        rating=_number(data.get("rating"), f"{path}.rating", low=-1e6, high=1e6),
        time=None if seconds is None else int(seconds),
    )


def _candidates(value: object) -> tuple[Candidate, ...]:
    items = a_list(value, "candidates", MAX_CANDIDATES)
    if not items:
        raise InputError("candidates: the list is empty; leave the field out to rank the whole catalogue")
    return tuple([_candidate(item, i) for i, item in enumerate(items)])


def _candidate(value: object, i: int) -> Candidate:
    if isinstance(value, dict) and len(value) == 1:
        item: Any = value.get("item")
        # The common case, kept free of formatted paths: there are many candidates.
        if type(item) is str and 0 < len(item) <= MAX_ID_CHARS:
            return Candidate(item)
    data = an_object(value, f"candidates[{i}]", {"item", "features"})
    return Candidate(
        item=an_id(data.get("item"), f"candidates[{i}].item"),
        features=features_of(data.get("features"), f"candidates[{i}].features"),
    )


def parse_item(value: object) -> Candidate:
    """`{"item": id, attribute: value, …}`, a line of a catalogue, as a candidate that brings the attributes."""
    if not isinstance(value, dict):
        raise InputError(f"expected an object, got {_kind(value)}")
    attributes = {name: given for name, given in value.items() if name != "item"}
    for name, given in attributes.items():
        _check_feature(given, str(name)[:40])
    return Candidate(an_id(value.get("item"), "item"), attributes)


def an_object(value: object, path: str, known: set[str]) -> dict[str, Any]:
    """The object, with no other fields than `known`. InputError otherwise, as of all these checks."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object, got {_kind(value)}")
    unknown = value.keys() - known
    if unknown:
        names = ", ".join(sorted(known))
        first = _shown(min(map(str, unknown)))
        raise InputError(f"{path}: unknown field {first}; known fields: {names}")
    return value


def a_list(value: object, path: str, limit: int) -> list[Any]:
    """The list, of at most `limit` entries; null is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list, got {_kind(value)}")
    if len(value) > limit:
        raise InputError(f"{path}: {len(value)} entries, at most {limit} are accepted")
    return value


def an_id(value: object, path: str) -> str:
    """Text of bounded length; integers are written in decimal."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{path}: expected a string or an integer id, got {_kind(value)}")
    if not 0 < len(value) <= MAX_ID_CHARS:
        raise InputError(f"{path}: an id has 1 to {MAX_ID_CHARS} characters, this one has {len(value)}")
    return value


def an_optional_id(value: object, path: str) -> str | None:
    """An id, or None for null."""
    return None if value is None else an_id(value, path)


def features_of(value: object, path: str) -> dict[str, Any] | None:
    """Values by name, of bounded number and size; None for null."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object, got {_kind(value)}")
    if len(value) > MAX_FEATURES:
        raise InputError(f"{path}: {len(value)} features, at most {MAX_FEATURES} are accepted")
    for name, feature in value.items():
        _check_feature(feature, f"{path}.{str(name)[:40]}")
    return value


def _check_feature(value: object, path: str) -> None:
    entries = value if isinstance(value, list) else [value]
    if len(entries) > MAX_VALUES:
        raise InputError(f"{path}: {len(entries)} values, at most {MAX_VALUES} are accepted")
    for entry in entries:
        if isinstance(entry, str) and len(entry) > MAX_TEXT_CHARS:
            raise InputError(f"{path}: a text of {len(entry)} characters, at most {MAX_TEXT_CHARS} are accepted")
        if not isinstance(entry, (str, int, float, bool, type(None))):
            raise InputError(f"{path}: expected text, a number, or a list of those, got {_kind(entry)}")
        if isinstance(entry, float) and not math.isfinite(entry):
            raise InputError(f"{path}: the number is not finite")
        if isinstance(entry, int) and abs(entry) > 2**64:
            raise InputError(f"{path}: the number is too large")


def _threshold(value: object) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    return _number(value, "threshold")


def _flag(value: object, path: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{path}: expected true or false, got {_kind(value)}")
    return bool(value)


def _positive_int(value: object, path: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**31:
        raise InputError(f"{path}: expected a positive integer, got {_shown(value)}")
    return value


def _number(value: object, path: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{path}: expected a number, got {_kind(value)}")
    if isinstance(value, int) and abs(value) > 2**64:
        raise InputError(f"{path}: the number is too large")
    if not math.isfinite(value):
        raise InputError(f"{path}: {value} is not a finite number")
    if not low <= value <= high:
        raise InputError(f"{path}: {value} is out of range ({low:g} to {high:g})")
    return float(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > 2**64:
        return "a number too large"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
