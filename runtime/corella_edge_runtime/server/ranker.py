"""What the server needs of an engine, so that the engine knows no HTTP and tests need no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from corella_edge.request import Request
from corella_edge.scores import Scores

if TYPE_CHECKING:
    from corella_edge_runtime.llm.asking import Llm


class Asking(Protocol):
    """Questions put to the LLM."""

    @property
    def future(self) -> Future[Any] | None:
        """Done when all are answered; None when nothing was asked."""
        ...

    @property
    def deadline(self) -> float | None:
        """When to wait no longer, a time of `time.monotonic()`."""
        ...


class Draft(Protocol):
    """A request under way: `Engine.begin`."""

    @property
    def asking(self) -> Asking | None:
        """None where the LLM has no part in it."""
        ...

    def cancel(self) -> None:
        """Nobody waits for the LLM any more; what it has answered stays."""
        ...


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
    """A loaded bundle: `corella_edge_runtime.engine.Engine`, or anything that ranks. Called from several threads."""

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

    @property
    def memory(self) -> tuple[int, int]:
        """How much of a stored history counts: the latest events, at least so many, less a multiple of so many."""
        ...

    def begin(self, request: Request, refusal: str = "", deadline: float | None = None) -> Any:
        """Score by the CRM and ask the LLM, without waiting for it; a `Draft`.

        Args:
            refusal: a reason not to ask the LLM.
            deadline: a time of `time.monotonic()`, at which the LLM's answers are taken; None: none of the server's.

        Raises:
            InputError: the request does not fit the bundle; the message is shown to the client.
        """
        ...

    def before_llm(self, draft: Any) -> Scores:
        """The CRM's own ranking."""
        ...

    def finish(self, draft: Any) -> Scores:
        """The scores as far as the LLM has answered. Never waits."""
        ...

    def warm_up(self) -> None:
        """Pay the first request's costs before the first request."""
        ...

    def stats(self) -> Mapping[str, float]:
        """Running totals since start; see `metrics.LLM_TOTALS` for the names the server shows."""
        ...

    def forget(self) -> None:
        """Drop what is remembered of users."""
        ...

    def close(self) -> None:
        """Release models and threads; no request runs or follows."""
        ...


def llm_of(ranker: Ranker) -> Llm | None:
    """The LLM of a version, for those who ask it alone; None for one that has none."""
    return getattr(ranker, "llm", None)


def scale_of(ranker: Ranker | None) -> tuple[float, float] | None:
    """Lowest and highest rating that a version was trained on; None if that is not known."""
    return getattr(ranker, "rating_scale", None)
