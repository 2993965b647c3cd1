"""Requests for the server, from a bundle's own sample and catalogue, as bytes that are ready to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.request import Candidate, Candidates, Request, User
from corella_edge.request_json import request_body
from corella_edge_runtime.bench.load.http import post
from corella_edge_runtime.bench.measure import traffic

RANK = "/v1/rank"


@dataclass(frozen=True, slots=True)
class TrafficSource:
    """Where users and items come from."""

    catalog: Catalog
    users: list[User]

    @classmethod
    def open(cls, bundle: Path) -> TrafficSource:
        """The bundle's catalogue, and one row of each user of its sample."""
        opened = Bundle.open(bundle)
        rows = traffic.read(opened, None)
        users = [rows[i].request.user for i in traffic.one_per_user(rows, len(rows), seed=0)]
        return cls(opened.schema()[1], users)

    def users_again(
        self, count: int, candidates: int, seed: int, threshold: str | float | None = None
    ) -> list[Request]:
        """The sample's users in turn, each time with other candidates."""
        rng = np.random.default_rng([seed, 12])
        return [
            traffic.fill(Request(self.users[number % len(self.users)], threshold=threshold), self.catalog,
                         candidates, rng)
            for number in range(count)
        ]  # fmt: skip

    def strangers(self, count: int, candidates: int, seed: int, threshold: str | float | None = None) -> list[Request]:
        """Users nobody has seen, each with a history of its own that is drawn from the catalogue."""
        rng = np.random.default_rng([seed, 13])
        made = traffic.strangers(self.users, self.catalog, count, rng)
        return [traffic.fill(replace(one, threshold=threshold), self.catalog, candidates, rng) for one in made]


def unknown_items(request: Request, count: int, rng: np.random.Generator) -> Request:
    """The request with its last `count` candidates replaced by items that no catalogue has."""
    kept = tuple(request.candidates or ())
    new = tuple(Candidate(f"new-{rng.integers(2**62)}") for _ in range(min(count, len(kept))))
    return replace(request, candidates=Candidates.of(kept[: len(kept) - len(new)] + new))


def prepared(requests: Sequence[Request], path: str = RANK) -> list[bytes]:
    """Bytes of each as a POST."""
    return [post(path, request_body(request)) for request in requests]
