"""A request between the base model's scores and the LLM's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from corella_edge.routing.policy import Policy
from corella_edge.scores import FloatArray, Trace
from corella_edge_runtime.llm.asking import Asking
from corella_edge_runtime.router import Routed
from corella_edge_runtime.slate.choose import Slate


@dataclass(slots=True)
class Draft:
    """A request whose candidates the CRM has scored and whose hard ones the LLM is being asked about.

    Attributes:
        slate: what is ranked.
        routed: which of the candidates the LLM is wanted for.
        asking: what the LLM was asked about them; None where it was not asked.
        refusal: the reason why it was not.
        notes: what is odd about the request.
        adapters: name → weight of the LLM's adapters by which it answers; None: the bundle has none.
    """

    slate: Slate
    crm: FloatArray
    routed: Routed
    unknown: tuple[tuple[str, ...], ...]
    asking: Asking | None
    refusal: str
    trace: Trace
    notes: tuple[str, ...] = ()
    adapters: Mapping[str, float] | None = None

    def cancel(self) -> None:
        """Nobody waits for the LLM any more; what it has answered stays."""
        if self.asking is not None and self.asking.future is not None:
            self.asking.future.cancel()


def begun(seconds: dict[str, float], policy: Policy, n: int) -> Trace:
    """The beginnings of what n candidates cost."""
    return Trace(seconds, threshold=policy.least(n), measure=policy.measure.name)
