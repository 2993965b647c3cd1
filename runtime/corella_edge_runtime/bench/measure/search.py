"""The largest rate that keeps an objective: searched for once, and then looked at again in every round.

One search in a few seconds knows only how the machine was then. What it found is therefore tried again whenever the
point is measured, with the rates beside it, and the spread of the answers is the figure's interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from corella_edge.routing.reasons import NoAnswer
from corella_edge_runtime.bench.load.rates import MOST_RATE, holds, largest_step, moved_step, nearest, on_grid
from corella_edge_runtime.bench.results.histogram import at_rank
from corella_edge_runtime.bench.results.points import Rates, Try
from corella_edge_runtime.bench.results.seen import Seen

LEFT_OUT = 0.01  # a rate at which more of the routed candidates go without the LLM is not held: it is not asked for
WHATEVER_THE_LOAD = (NoAnswer.NO_LLM, NoAnswer.NO_TEXT, NoAnswer.TOO_LONG)


@dataclass
class Search:
    """Rates that are tried one after the other.

    Attributes:
        send: sends requests at so many a second; the number is that of the try.
        end: of `time.monotonic()`, after which a rate that is not yet tried counts as too high.
        cut: whether there was such a rate.
    """

    send: Callable[[float, int], Sequence[Seen]]
    quantile: float
    limit: float
    end: float = float("inf")
    cut: bool = False
    tries: list[Try] = field(default_factory=list)

    def first(self, per_second: float) -> Rates:
        """From a rate at which nothing is known yet."""
        return self._found(largest_step(self._held, nearest(per_second))[0], True)

    def again(self, last: float, seen: Sequence[Seen]) -> Rates:
        """From a rate that was sent now, as it was the `last` found, and what became of these requests.

        Where no rate is found that holds, or none that does not, the search counts as cut: neither was measured.
        """
        low, high = moved_step(self._held, nearest(last), self._told(last, seen))
        return self._found(low, low is not None and (high is not None or on_grid(low) >= MOST_RATE))

    def _found(self, low: int | None, ended: bool) -> Rates:
        """What a search came to: the step that held, and the lowest rate above it that was sent and did not."""
        largest = 0.0 if low is None else on_grid(low)
        failed = [one.rate for one in self.tries if not one.held and one.rate > largest]
        return Rates(largest=largest, first_failed=min(failed, default=None), tries=tuple(self.tries),
                     cut=self.cut or not ended)  # fmt: skip

    def _held(self, per_second: float) -> bool:
        if self.tries and time.monotonic() >= self.end:
            self.cut = True
            return False
        return self._told(per_second, self.send(per_second, len(self.tries)))

    def _told(self, per_second: float, seen: Sequence[Seen]) -> bool:
        """Whether requests kept the objective, which is written down."""
        latency = np.array([np.inf if one.seconds is None else one.seconds for one in seen])
        kept = holds(latency, self.quantile, self.limit) and left_out(seen) <= LEFT_OUT
        reached = at_rank(latency, self.quantile)
        told = 1000.0 * reached if np.isfinite(reached) else None
        self.tries.append(Try(rate=per_second, p99=told, held=kept, requests=len(seen)))
        return kept


def left_out(seen: Sequence[Seen]) -> float:
    """The share of the routed candidates that have no answer of the LLM because there was too much to do."""
    missing = sum(count for one in seen for reason, count in one.degraded.items() if reason not in WHATEVER_THE_LOAD)
    return missing / max(1, missing + sum(one.routed for one in seen))
