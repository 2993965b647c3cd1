"""Deadlines, and every margin that is kept of them.

A deadline is a time of `time.monotonic()`, which all processes of a machine share; None = no end. It is made once,
where a request comes in (`of`), and travels as it is. When it comes, a caller takes what is there. Around it:

    promised   admission lets through what should be done by then: estimates are wrong at times
    nearer     a process of its own stops by then: what it has must still come back
    overdue    until then its answers are waited for
"""

from __future__ import annotations

import threading
import time

# Seconds that answers need to come back from another process or thread.
WAY_BACK = 0.003
# Of the time that is left: what estimates may be too low by, and at most so many seconds.
MARGIN, ENOUGH = 0.1, 1.0


def of(milliseconds: float | None, since: float) -> float | None:
    """The deadline of a request that came at `since` and has so much time."""
    return None if milliseconds is None else since + milliseconds / 1000.0


def seconds_to(deadline: float | None) -> float | None:
    """Time left, as a timeout that threads accept; None = no end."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def promised(deadline: float, now: float) -> float:
    """When work that is let through has to be done."""
    return deadline - min(ENOUGH, max(WAY_BACK, MARGIN * (deadline - now)))


def nearer(deadline: float | None, now: float) -> float | None:
    """What a process of its own is told: of a short time, no more than a tenth is kept."""
    return None if deadline is None else deadline - min(WAY_BACK, MARGIN * max(0.0, deadline - now))


def overdue(deadline: float) -> float:
    """When a process of its own has kept somebody waiting for too long."""
    return deadline + WAY_BACK
