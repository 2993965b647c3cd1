"""How long before a request's time is up the LLM's part must end, so that the answer leaves in time. Pure."""

from __future__ import annotations

FIRST = 0.010  # seconds, until answers were seen
LEAST = 0.0001
MOST = 0.5  # of a request's time
# A way out that is longer than expected counts at once, a shorter one bit by bit: 99 in 100 are shorter.
UP, DOWN = 0.25, 0.0025
STRAY = 4.0  # times what is expected; a longer one counts as so long, so that a single stall is soon forgotten


class WayOut:
    """Learns from the answers themselves: from the moment that no more was waited for to the written answer.

    In it are the event loop's lateness, what else the loop had to do first, and the answer's own writing, as they are
    on this machine under this load.
    """

    def __init__(self, first: float = FIRST) -> None:
        self.seconds = first

    def seen(self, took: float) -> None:
        """An answer was written `took` seconds after the LLM had answered, or after its time was up."""
        off = min(max(0.0, took), STRAY * self.seconds) - self.seconds
        self.seconds = max(LEAST, self.seconds + off * (UP if off > 0.0 else DOWN))

    def of(self, limit: float) -> float:
        """Seconds of a request's `limit` that the LLM does not get."""
        return min(self.seconds, MOST * max(0.0, limit))
