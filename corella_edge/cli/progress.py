"""Progress on stderr: one line that is rewritten on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """Shows a text at most twice a second; `done` clears the line."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._next = time.monotonic() + 0.5
        self._shown = False

    def show(self, text: str) -> None:
        if self._tty and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.5
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def done(self) -> None:
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
