"""How a process ended, in words."""

from __future__ import annotations

import signal

EXITS = "exits:"  # before a cause, among the names that backends count by
# A library that computes wrongly ends its process by one of these.
CRASHES = frozenset({signal.SIGILL, signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS})


def cause(status: int) -> str:
    """`SIGILL` or `status 3`, of an exit status as `subprocess` gives it."""
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}" if status < 0 else f"status {status}"


def words(status: int) -> str:
    """`ended by SIGILL (illegal instruction)`, or `ended with exit status 3`."""
    if status >= 0:
        return f"ended with exit {cause(status)}"
    text = signal.strsignal(-status) or ""
    return f"ended by {cause(status)}" + (f" ({text.lower()})" if text else "")


def crashed(status: int) -> bool:
    return -status in CRASHES
