"""What a user did since: the body of `POST /v1/events`, checked as requests are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from corella_edge.messages import (
    Id,
    OptionalFeatures,
    OptionalId,
    Text,
    an_id,
    an_optional_id,
    check,
    check_features,
    given,
)
from corella_edge.request import NOBODY, Event, Features, History, unless_none
from corella_edge.request_message import MAX_RATING, EventMessage, columns_of, ordered

MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events to add to a user's history, and a profile in place of the stored one; None leaves that as it is.

    Appends of one user with the same `key` are one append: the others are its retries. `notes`: what was odd and put
    right, a sentence each.
    """

    user_id: str
    events: History
    features: Features | None = None
    key: str | None = None
    notes: tuple[str, ...] = ()


def new_events(
    user_id: str, events: Iterable[Event], features: Features | None = None, key: str | None = None
) -> NewEvents:
    """Events whose times mean what they should, in the order of these where all have one.

    Raises:
        InputError: a time in other units than seconds; the message names it.
    """
    history, notes = ordered(History.of(events), "events", arriving=True)
    return NewEvents(user_id, history, features, key, notes)


class NewEventMessage(EventMessage, forbid_unknown_fields=True, gc=False):
    """An event that happens now. An event without a rating is what a purchase or a click is."""

    type: Annotated[
        Text | UnsetType | None,
        Meta(
            description="`view`, `cart`, `purchase`, or any other word. Which types form the history that a model "
            "reads is the bundle's rule (events.json); an event without a type always does."
        ),
    ] = UNSET
    quantity: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_RATING)] | UnsetType | None,
        Meta(description="How many. It is kept and exported; no model reads it."),
    ] = UNSET


class NewEventsMessage(Struct, forbid_unknown_fields=True):
    """Events as JSON has them."""

    user_id: Id
    events: Annotated[list[NewEventMessage], Meta(max_length=MAX_EVENTS)] | None
    features: OptionalFeatures = UNSET
    key: Annotated[
        OptionalId,
        Meta(description="Chosen by the client; a user's appends with one key are one append and its retries."),
    ] = UNSET


def parse_events(value: object) -> NewEvents:
    """Check and convert one decoded JSON body.

    Raises:
        InputError: a field is missing, unknown, of the wrong type, or out of range; the message names it.
    """
    message = check(value, NewEventsMessage, "body")
    features = None if message.features is UNSET else message.features
    check_features(features or {}, "features")
    return new_events(
        an_id(message.user_id, "user_id"),
        _history(given(message.events, [])),
        features,
        an_optional_id(message.key, "key"),
    )


def _history(events: list[NewEventMessage]) -> History:
    if not events:
        return NOBODY
    found, _ = columns_of(events, "events")
    types = [given(event.type, None) for event in events]
    quantities = [given(event.quantity, None) for event in events]
    return History(found.items, found.ratings, found.times, unless_none(types), unless_none(quantities))


def parse_user_id(value: object) -> str:
    """A user's id as it stands in a path.

    Raises:
        InputError: empty or too long.
    """
    return check(value, Text, "user id")
