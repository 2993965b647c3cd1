"""What one server takes on; anything beyond is refused at once, or scored by the CRM alone, rather than queued."""

from __future__ import annotations

from dataclasses import dataclass

# Work up to these sizes takes a millisecond or two: less than a worker thread would cost, which would fight with the
# event loop for the interpreter's lock.
INLINE_BYTES = 65_536
INLINE_CANDIDATES = 500
INLINE_TOKENS = 8192
INLINE_VALUES = 200  # of the candidates' own features


ARRIVED = "arrived"  # in a request's state: when its whole body was there, a time of `time.monotonic()`


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one server.

    Attributes:
        requests: in flight at once; beyond them: 503. From half of them on the LLM is not asked.
        worker_threads: for requests that are too large for the event loop.
        timeout_ms: for the LLM, of a request that says nothing; None = no end.
        body_bytes, body_seconds: of one body, and for it to arrive.
        held_bytes: of the bodies of all requests that arrive or are worked on; beyond them: 503.
    """

    requests: int = 1024
    worker_threads: int = 2
    timeout_ms: float | None = 1000.0
    body_bytes: int = 8 * 2**20
    body_seconds: float = 30.0
    held_bytes: int = 128 * 2**20


class Intake:
    """How many bytes of bodies are held at the moment: what is made of a body takes about as much again."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0


class IntakeShare:
    """What one request holds, until it is answered."""

    def __init__(self, intake: Intake) -> None:
        self._intake, self.size = intake, 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` more bytes; a request that is alone always has it."""
        others = self._intake.held - self.size
        if others and self._intake.held + size > self._intake.most:
            return False
        self._intake.held += size
        self.size += size
        return True

    def give_back(self) -> None:
        self._intake.held -= self.size
        self.size = 0
