"""Ctrl-C as a wish: for work that ends at a place of its own choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOOK = 0.1  # seconds after which who waits looks whether somebody wants the end


class Stopped(Exception):  # noqa: N818 - no error: somebody wishes it
    """The work is to end now; the step at work is not finished."""


def never() -> bool:
    """Nobody wants the end."""
    return False


@contextmanager
def stop_on_sigint() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of breaking a step in two; a background job's, which ignores it, goes on."""
    stop = threading.Event()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield stop
        return
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
