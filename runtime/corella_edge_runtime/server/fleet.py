"""The versions that are loaded, and which of them answers whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from corella_edge_runtime.server.ranker import Ranker


@dataclass(frozen=True, slots=True)
class Held:
    """A version that answers one request."""

    ranker: Ranker
    label: str


class Fleet:
    """One version, so far."""

    def __init__(self) -> None:
        self.live: Ranker | None = None

    def install(self, ranker: Ranker) -> None:
        """Answer with `ranker`, already warm, from now on."""
        self.live = ranker

    @contextmanager
    def hold(self, user_id: str | None) -> Iterator[Held]:
        assert self.live is not None
        yield Held(self.live, self.live.name)
