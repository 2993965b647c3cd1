"""What a user did since: the body of `POST /v1/events`, checked as requests are."""

from __future__ import annotations

from dataclasses import dataclass

from corella_edge.errors import InputError
from corella_edge.request import Event, Features, _events, _features, _id, _list, _object, _optional_id

MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events to add to a user's history, and a profile in place of the stored one; None leaves that as it is.

    Appends of one user with the same `key` are one append: the others are its retries.
    """

    user_id: str
    events: tuple[Event, ...]
    features: Features | None = None
    key: str | None = None


def parse_events(value: object) -> NewEvents:
    """Check and convert one decoded JSON body.

    Raises:
        InputError: a field is missing, unknown, of the wrong type, or out of range; the message names it.
    """
    data = _object(value, "body", {"user_id", "events", "features", "key"})
    for name in ("user_id", "events"):
        if name not in data:
            raise InputError(f"body: the field '{name}' is missing")
    return NewEvents(
        user_id=_id(data["user_id"], "user_id"),
        events=_events(_list(data["events"], "events", MAX_EVENTS), "events"),
        features=_features(data.get("features"), "features"),
        key=_optional_id(data.get("key"), "key"),
    )


def parse_user_id(value: object) -> str:
    """A user's id as it stands in a path.

    Raises:
        InputError: empty or too long.
    """
    return _id(value, "user id")
