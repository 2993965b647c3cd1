"""What the server needs of an engine, so that the engine knows no HTTP and tests need no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from corella_edge.request import Request
from corella_edge.scores import Scores


class Showcase(Protocol):
    """What a bundle has to show people: `corella_edge_runtime.showcase.Showcase`. JSON-ready values; may block."""

    def items(self, query: str, count: int, seed: int) -> dict[str, Any]:
        """Items found by id or title, or a seeded sample."""
        ...

    def users(self, query: str, count: int) -> dict[str, Any]:
        """Users of the bundle's sample whose id contains `query`."""
        ...

    def user(self, name: str) -> dict[str, Any] | None:
        """One of them with the latest events; None for anybody else."""
        ...

    def curve(self) -> dict[str, Any]:
        """Threshold ↔ share ↔ quality."""
        ...


class Ranker(Protocol):
    """A loaded bundle: `corella_edge_runtime.engine.Engine`, or anything that ranks."""

    @property
    def name(self) -> str:
        """`name@version` of what is served; part of every answer."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What is missing or degraded, one sentence each."""
        ...

    @property
    def showcase(self) -> Showcase:
        """What the page at `/` shows of it."""
        ...

    def rank(self, request: Request) -> Scores:
        """Score one request; blocks, and is called from several threads at once.

        Raises:
            InputError: the request does not fit the bundle; the message is shown to the client.
        """
        ...

    def warm_up(self) -> None:
        """Pay the first request's costs before the first request."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Running totals since start; see `metrics.LLM_TOTALS` for the names the server shows."""
        ...

    def close(self) -> None:
        """Release models and threads; no `rank` runs or follows."""
        ...
