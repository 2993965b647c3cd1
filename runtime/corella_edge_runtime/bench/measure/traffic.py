"""What is put to the engine: labelled rows for quality, requests of many candidates for latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import Traffic, parse_traffic, read_lines
from corella_edge.request import Candidate, Candidates, Event, Request, User

SAMPLE = "sample.jsonl"
HISTORY = 30  # events of a made-up user, where no sample shows how many there are


def read(bundle: Bundle, file: TextFile | None) -> list[Traffic]:
    """The rows of `file`, or of the bundle's own sample.

    Raises:
        InputError, BundleError: there are none, or a line is malformed.
    """
    if file is None and not bundle.has(SAMPLE):
        raise InputError(f"{bundle.root}: the bundle has no {SAMPLE}; give --requests FILE")
    path: Path | TextFile
    path, kind = (bundle.path(SAMPLE), BundleError) if file is None else (file, InputError)
    rows = list(read_lines(path, parse_traffic, kind))
    if not rows:
        raise kind(f"{path}: holds no requests")
    return [replace(row, request=replace(row.request, timeout_ms=None)) for row in rows]


def user_keys(rows: Sequence[Traffic]) -> list[str]:
    """Whose each row is; a row without a user id is a user of its own."""
    return [f"row {i}" if row.request.user.id is None else f"id {row.request.user.id}" for i, row in enumerate(rows)]


def grouped(rows: Sequence[Traffic], limit: int, seed: int) -> list[int]:
    """Rows of users in random order, each user's together and in the file's order: about `limit` of them."""
    keys = user_keys(rows)
    of_user: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        of_user.setdefault(key, []).append(i)
    order = np.random.default_rng([seed, 1]).permutation(len(of_user)).tolist()
    users = list(of_user.values())
    shuffled = [i for place in order for i in users[place]]
    return shuffled[:limit]


def one_per_user(rows: Sequence[Traffic], limit: int, seed: int) -> list[int]:
    """One random row of each user, users in random order, at most `limit`."""
    keys = user_keys(rows)
    order = np.random.default_rng([seed, 2]).permutation(len(rows)).tolist()
    first = {keys[i]: i for i in reversed(order)}
    return [i for i in order if first[keys[i]] == i][:limit]


def fill(request: Request, catalog: Catalog, n: int, rng: np.random.Generator) -> Request:
    """The request with random further catalogue items up to n candidates, new to the user where possible."""
    own = tuple(request.candidates or ())[:1]
    taken = {candidate.item for candidate in own}
    if n - len(own) > len(catalog) - len(taken & catalog.row_of.keys()):
        raise InputError(f"--candidates {n}: the catalogue has only {len(catalog)} items")
    seen = {event.item for event in request.user.history}
    size = min(len(catalog), n + len(seen) + len(taken))
    drawn = [catalog.ids[row] for row in rng.choice(len(catalog), size=size, replace=False).tolist()]
    drawn = [item for item in drawn if item not in taken]
    fresh = sorted(drawn, key=seen.__contains__)[: n - len(own)]
    return replace(request, candidates=Candidates.of([*own, *map(Candidate, fresh)]), top_k=None)


def resolve(request: Request, catalog: Catalog) -> Request:
    """The request with its candidates spelled out: none given means the whole catalogue."""
    found = request.candidates or Candidates(catalog.ids)
    return replace(request, candidates=found, top_k=None)


def strangers(like: Sequence[User], catalog: Catalog, count: int, rng: np.random.Generator) -> list[Request]:
    """Users nobody has seen, without candidates: each with a history drawn from the catalogue, as long as that of a
    user of `like`, and his features."""
    return [Request(_stranger(like, catalog, rng), ()) for _ in range(count)]


def _stranger(like: Sequence[User], catalog: Catalog, rng: np.random.Generator) -> User:
    model = like[int(rng.integers(len(like)))] if like else User()
    items = rng.choice(len(catalog), size=max(1, len(model.history)) if like else HISTORY, replace=True).tolist()
    events = tuple(Event(catalog.ids[row], float(rng.integers(1, 6)), 10**9 + place)
                   for place, row in enumerate(items))  # fmt: skip
    return User(f"s{rng.integers(2**62)}", model.features, events)


def as_new(request: Request, rng: np.random.Generator) -> Request:
    """The same with the history in random order, so that its prompt begins as no earlier one."""
    user, order = request.user, rng.permutation(len(request.user.history)).tolist()
    return replace(request, user=User(user.id, user.features, user.history.at(order)))
