"""What a user did since: the body of `POST /v1/events`, checked as requests are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from msgspec import UNSET, Meta, Struct

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
from corella_edge.request import Event, Features, History
from corella_edge.request_message import EventMessage, columns_of, ordered

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


class NewEventsMessage(Struct, forbid_unknown_fields=True):
    """Events as JSON has them."""

    user_id: Id
    events: Annotated[list[EventMessage], Meta(max_length=MAX_EVENTS)] | None
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
        columns_of(given(message.events, []), "events")[0],
        features,
        an_optional_id(message.key, "key"),
    )


def parse_user_id(value: object) -> str:
    """A user's id as it stands in a path.

    Raises:
        InputError: empty or too long.
    """
    return check(value, Text, "user id")
