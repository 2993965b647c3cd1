"""What a user did since: the body of `POST /v1/events`, checked as requests are."""

from __future__ import annotations

from dataclasses import dataclass

from corella_edge.errors import InputError
from corella_edge.request import (
    Event,
    Features,
    a_list,
    an_id,
    an_object,
    an_optional_id,
    events_of,
    features_of,
    ordered,
)

MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events to add to a user's history, and a profile in place of the stored one; None leaves that as it is.

    Appends of one user with the same `key` are one append: the others are its retries. `notes`: what was odd and put
    right, a sentence each.
    """

    user_id: str
    events: tuple[Event, ...]
    features: Features | None = None
    key: str | None = None
    notes: tuple[str, ...] = ()


def new_events(
    user_id: str, events: tuple[Event, ...], features: Features | None = None, key: str | None = None
) -> NewEvents:
    """Events whose times mean what they should, in the order of these where all have one.

    Raises:
        InputError: a time in other units than seconds; the message names it.
    """
    events, notes = ordered(events, "events", arriving=True)
    return NewEvents(user_id, events, features, key, notes)


def parse_events(value: object) -> NewEvents:
    """Check and convert one decoded JSON body.

    Raises:
        InputError: a field is missing, unknown, of the wrong type, or out of range; the message names it.
    """
    data = an_object(value, "body", {"user_id", "events", "features", "key"})
    for name in ("user_id", "events"):
        if name not in data:
            raise InputError(f"body: the field '{name}' is missing")
    return new_events(
        user_id=an_id(data["user_id"], "user_id"),
        events=events_of(a_list(data["events"], "events", MAX_EVENTS), "events"),
        features=features_of(data.get("features"), "features"),
        key=an_optional_id(data.get("key"), "key"),
    )


def parse_user_id(value: object) -> str:
    """A user's id as it stands in a path.

    Raises:
        InputError: empty or too long.
    """
    return an_id(value, "user id")
