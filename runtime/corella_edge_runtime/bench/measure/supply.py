"""Which requests a benchmark sends: new users, each time somebody else, and returning ones. Never ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import Traffic
from corella_edge.request import Request
from corella_edge.request_json import request_body
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.bench.results.circumstances import Data

MADE_UP = 1000  # users, where there is no sample


@dataclass(frozen=True, slots=True)
class Source:
    """Where requests come from.

    Attributes:
        told: in words.
        rows: with labels, where they have some.
        base: one request for each user, candidates and all.
        candidates: of each that is made; None = the requests are as somebody gave them.
    """

    told: str
    rows: Sequence[Traffic]
    base: Sequence[Request]
    candidates: int | None


def source(bundle: Bundle, catalog: Catalog, file: TextFile | None, made: bool, candidates: int, seed: int) -> Source:
    """The requests of a file, of the bundle's sample, or made-up ones: where `made`, or where there is no sample.

    Raises:
        InputError, BundleError: they cannot be used.
    """
    if file is not None:
        rows = traffic.read(bundle, file)
        return Source(file.name, rows, [row.request for row in rows], None)
    sample = bundle.has(traffic.SAMPLE)
    rows = traffic.read(bundle, None) if sample else []
    rng = np.random.default_rng([seed, 0])
    chosen = [rows[i].request for i in traffic.one_per_user(rows, len(rows), seed)] if rows else []
    told = "the bundle's sample: one request a user, filled up with random catalogue items"
    if made or not rows:
        if not len(catalog):
            raise InputError("the bundle's catalogue has no items, so no requests can be made of it; give --requests")
        chosen = traffic.strangers([one.user for one in chosen], catalog, MADE_UP, rng)
        told = "made-up users with random histories, and random catalogue items"
    full = [traffic.fill(one, catalog, candidates, rng) for one in chosen]
    return Source(told, rows, full, candidates)


class Supply:
    """Requests without end, for one target that keeps something of users.

    Attributes:
        varied: how many requests had their history put in another order, because their user had come before.
    """

    def __init__(self, source: Source, catalog: Catalog, seed: int) -> None:
        self._base, self._candidates, self._catalog = source.base, source.candidates, catalog
        self._rng = np.random.default_rng([seed, 8])
        self._next = self._known = 0  # requests so far, and those before everybody was forgotten
        self.varied = 0

    def forgotten(self) -> None:
        """The target knows nobody any more: all users are new."""
        self._known = self._next

    def new(self, count: int) -> list[Request]:
        """The next users. Who has come since everybody was forgotten comes with another history."""
        found = []
        for _ in range(count):
            request, again = self._base[self._next % len(self._base)], self._next - self._known >= len(self._base)
            self.varied += again
            found.append(traffic.as_new(request, self._rng) if again else request)
            self._next += 1
        return found

    def again(self, request: Request) -> Request:
        """Another request of the same user."""
        if self._candidates is None:
            return request
        return traffic.fill(Request(request.user), self._catalog, self._candidates, self._rng)


def bodies(requests: Sequence[Request], threshold: str | None) -> list[bytes]:
    """As they are sent: at a threshold (None = the target's own), without a limit of time of their own."""
    return [request_body(replace(request, threshold=threshold, timeout_ms=None)) for request in requests]


def told(source: Source, labelled: int) -> Data:
    """Provenance of the requests."""
    digest = hashlib.sha256()
    for request in source.base:
        digest.update(request_body(request) + b"\n")
    sizes = [len(request.candidates or ()) for request in source.base]
    return Data(source=source.told, sha256=digest.hexdigest(), requests=len(source.base),
                users=len({one.user.id or i for i, one in enumerate(source.base)}),
                candidates=float(np.mean(sizes)), labelled_rows=labelled)  # fmt: skip
