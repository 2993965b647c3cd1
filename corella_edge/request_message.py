"""Requests as JSON has them: what is accepted, once for parser, checks and schema; and the `Request` that a text is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import astuple

from corella_edge.adapters import AdapterWeights, OneAdapter, asked_for
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
    check_names,
    given,
    named,
    read_once,
)
from corella_edge.request import NOBODY, Candidate, Candidates, Features, History, Request, User
from corella_edge.routing.forms import ENTROPY, HELP, PATTERN
from corella_edge.selection import EVERYTHING, Left, Selection, with_text_ids

MAX_CANDIDATES = 10_000
MAX_HISTORY = 100_000
MAX_TIMEOUT_MS = 86_400_000  # a day
MAX_RATING = 10**6
_MISSING = {type(None), UnsetType}
_chosen = attrgetter(*Selection.__struct_fields__)
_NOT_CHOSEN = (UNSET,) * len(Selection.__struct_fields__)

Nats = Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": ENTROPY.most})]
WrittenThreshold = Annotated[str, Meta(extra_json_schema={"pattern": PATTERN})]
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
                description="Oldest first. Where all events have a time, another order is put right, with a note.",
            ),
        ]
        | Left
    ) = UNSET


class Options(Selection, forbid_unknown_fields=True, kw_only=True):
    """What a request may say beside who asks."""

    id: Annotated[OptionalId, Meta(description="Repeated in the answer.")] = UNSET
    candidates: (
        Annotated[
            list[CandidateMessage],
            # That it is not empty is checked by `_candidates`, whose error says what to do instead.
            Meta(
                max_length=MAX_CANDIDATES,
                description="Left out: the whole catalogue.",
                extra_json_schema={"minItems": 1},
            ),
        ]
        | Left
    ) = UNSET
    threshold: Annotated[Nats | WrittenThreshold | Left, Meta(description=f"{HELP} Left out: the server's own.")] = (
        UNSET
    )
    top_k: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=2**31,
                description="Answer with this many of the best only. Where the whole catalogue is ranked, the LLM is "
                "asked about those near the top alone.",
            ),
        ]
        | Left
    ) = UNSET
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
            "no model reads or anything else that `notes` would mention, except an order that is put right (422)."
        ),
    ] = UNSET
    adapter: OneAdapter = UNSET
    adapters: AdapterWeights = UNSET


class UserRequest(Options):
    """Candidates to rank for a user whose profile and history are in the request."""

    user: UserMessage


class UserIdRequest(Options):
    """The same as `user` with only an id: a server with a store fills in profile and history."""

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
    message = read_once(raw, RequestMessage, "request")
    # A whole number so large is refused, but read as a float it looks like any other.
    if type(message.threshold) is float and abs(message.threshold) >= MAX_WHOLE:
        message = check(decode(raw), RequestMessage, "request")
    try:
        request, names = _request(message)
    except InputError:
        check(decode(raw), RequestMessage, "request")  # where the text is not strict JSON, or a number, that is it
        raise
    if request.selection is not EVERYTHING:
        decode(raw)  # its names and colons are not counted
        return request
    check_names(raw, names + _in((request.threshold,)), lambda: _colons(request))
    return request


def parse_request(value: object) -> Request:
    """`read_request` of a JSON value that is decoded already."""
    return _request(check(value, RequestMessage, "request"))[0]


def _request(message: RequestMessage) -> tuple[Request, int]:
    """And how many names the message has, as those below."""
    strict = message.strict is True
    user, notes, users = _who(message, strict)
    candidates, slates = _candidates(message.candidates)
    request = Request(
        user,
        candidates,
        an_optional_id(message.id, "id"),
        _or_none(message.threshold),
        _or_none(message.top_k),
        _or_none(message.timeout_ms),
        message.explain is True,
        strict,
        notes,
        _selection(message),
        adapters=asked_for(message.adapter, message.adapters),
    )
    return request, _set(message) + users + slates + len(message.adapters or ())


def _selection(message: RequestMessage) -> Selection:
    values = _chosen(message)
    if values == _NOT_CHOSEN:
        return EVERYTHING
    pairs = zip(Selection.__struct_fields__, values, strict=True)
    return with_text_ids({name: value for name, value in pairs if value is not UNSET and value is not None})


def _or_none(value: Any) -> Any:
    return None if value is UNSET else value


def _set(message: Struct) -> int:
    """Fields that are there."""
    return len(message.__struct_fields__) - astuple(message).count(UNSET)


def _who(message: RequestMessage, strict: bool) -> tuple[User, tuple[str, ...], int]:
    """`user`, or `user_id` alone; and what is odd about the history."""
    user, user_id = message.user, message.user_id
    if (user is UNSET) == (user_id is UNSET):
        raise InputError("request: exactly one of the fields 'user' and 'user_id' is needed")
    if user is UNSET:
        return User(an_id(user_id, "user_id")), (), 0  # type: ignore[arg-type]
    features = given(user.features, {})
    check_features(features, "user.features")
    history, names = columns_of(given(user.history, []), "user.history")
    history, notes = ordered(history, "user.history", strict)
    names += _set(user) + len(features)
    return User(an_optional_id(user.id, "user.id"), features, history), notes, names


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


def columns_of(events: Sequence[EventMessage], path: str) -> tuple[History, int]:
    """Events of a message, at `path`, as columns; and how many names they have."""
    if not events:
        return NOBODY, 0
    ratings, rated = _column([event.rating for event in events])
    times, timed = _column([event.time for event in events], int)
    return History(_ids([event.item for event in events], path), ratings, times), len(events) + rated + timed


def _column(values: list[Any], kind: type[Any] = float) -> tuple[list[Any] | None, int]:
    """Values of a `kind`, None where one is missing; and how many were given, null among them."""
    kinds = {*map(type, values)}
    if kinds == {kind}:
        return values, len(values)
    names = len(values) - values.count(UNSET)
    if kinds <= _MISSING:
        return None, names
    return [None if value is UNSET or value is None else kind(value) for value in values], names


def _candidates(messages: list[CandidateMessage] | Left) -> tuple[Candidates | None, int]:
    if messages is None or messages is UNSET:
        return None, 0
    if not messages:
        raise InputError("candidates: the list is empty; leave the field out to rank the whole catalogue")
    items = _ids([message.item for message in messages], "candidates")
    features = [message.features for message in messages]
    without = features.count(UNSET)
    names, own = 2 * len(items) - without, dict[int, Features]()
    if without < len(items):
        own = {i: found for i, found in enumerate(features) if found is not None and found is not UNSET}
    for i, found in own.items():
        check_features(found, f"candidates[{i}].features")
        names += len(found)
    return Candidates(items, own), names


def _ids(ids: list[Any], path: str) -> list[str]:
    """Ids as texts; those of messages at `path`."""
    try:
        "".join(ids)
    except TypeError:  # integers are among them
        return [an_id(value, f"{path}[{i}].item") for i, value in enumerate(ids)]
    return ids


def _colons(request: Request) -> int:
    """Those inside the texts of a request without escapes, but for its threshold's."""
    user, candidates = request.user, request.candidates or Candidates(())
    texts = (request.id, user.id, "".join(user.history.items), "".join(candidates.items))
    return _in(texts) + sum(_in(found) + _in(found.values()) for found in (user.features, *candidates.own.values()))


def _in(values: Iterable[Any]) -> int:
    """Colons in the texts among the values."""
    count = 0
    for value in values:
        if type(value) is str:
            count += value.count(":")
        elif type(value) is list:
            count += _in(value)
    return count


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
