"""Samples of whole users, candidates of a held-out request, and the JSON form of a request."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corella_edge.request import Event, Request
from corella_edge_export.data.prepared import Split

CANDIDATES = 20


def draw_users(split: Split, rows: int, seed: int) -> NDArray[np.int64]:
    """A seeded sample of whole users with about `rows` rows (0 = all users), ascending."""
    users, counts = np.unique(split.users, return_counts=True)
    if rows <= 0 or rows >= len(split.users):
        return users.astype(np.int64)
    order = np.random.default_rng([seed, 11]).permutation(len(users))
    needed = int(np.searchsorted(np.cumsum(counts[order]), rows)) + 1
    return np.sort(users[order[:needed]]).astype(np.int64)


def candidates(item: int, own: NDArray[np.int32], position: int, n_items: int, rng: np.random.Generator) -> list[int]:
    """Up to CANDIDATES items for a row: its own, then its user's later ones, then drawn ones that are not his.

    Args:
        own: the items of all the user's events; the first `position` of them came before the row.
    """
    # In data whose histories hold liked items only, a disliked item is not among the user's events.
    following = {item: None}
    for later in own[position:]:
        if len(following) == CANDIDATES:
            break
        following[int(later)] = None
    taken = {item, *np.unique(own).tolist()}
    missing = CANDIDATES - len(following)
    # So many distinct draws hold at least `missing` items that are not taken, if there are any.
    drawn = rng.choice(n_items, size=min(n_items, len(taken) + missing), replace=False).tolist()
    return [*following, *[item for item in drawn if item not in taken][:missing]]


def request_json(request: Request) -> dict[str, Any]:
    """The JSON form of a request: only what is set, whole numbers as integers."""
    user: dict[str, Any] = {"id": request.user.id} if request.user.id is not None else {}
    user["features"] = {name: _plain(value) for name, value in request.user.features.items()}
    user["history"] = [_event(event) for event in request.user.history]
    answer: dict[str, Any] = {"id": request.id} if request.id is not None else {}
    answer["user"] = user
    if request.candidates is not None:
        answer["candidates"] = [
            {"item": candidate.item}
            if candidate.features is None
            else {"item": candidate.item, "features": dict(candidate.features)}
            for candidate in request.candidates
        ]
    rest = {"threshold": request.threshold, "top_k": request.top_k, "timeout_ms": request.timeout_ms}
    return answer | {name: _plain(value) for name, value in rest.items() if value is not None}


def request_line(request: Request) -> str:
    """One line of a JSON-lines file, line feed included."""
    return json.dumps(request_json(request), ensure_ascii=False, separators=(",", ":")) + "\n"


def _event(event: Event) -> dict[str, Any]:
    pairs = {"item": event.item, "rating": _plain(event.rating), "time": event.time}
    return {name: value for name, value in pairs.items() if value is not None}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
