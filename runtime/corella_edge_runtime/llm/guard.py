"""A backend around a backend that is not asked while it fails: nothing waits for an LLM that will not answer.

closed ──▶ open: after some failures in a row, or silence although something was asked. What is in flight, and
  ▲          │   whatever is asked from then on, has the reason "llm_error" at once; but what is in flight without a
  │          │   deadline waits through a silence until the LLM is given up: it may be at work on a long decode.
  │          ▼ after a pause
  └────── probing: one tiny prompt; answered, the breaker closes, else it is open for twice the pause.

An LLM is silent when questions wait and no counter moves. When the silence goes on, it is given up: a backend that can
start again what computes (a process) is told to, and nobody waits any more.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.backend import Liveness, LlmBackend
from corella_edge_runtime.llm.contract.in_flight import InFlight
from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts

_LOG = logging.getLogger("corella_edge.llm")
# Counters that grow only when work is done or something comes back.
_LIFE = ("prompts", "busy_seconds", "responses")
# A decode that takes this many times as long as usual is silence, not work.
_FAR = 10.0
_SLACK = 64.0  # times the patience at most, after silence again and again


class Breaker:
    """The states, without the backend; times are passed in."""

    def __init__(self, limits: Liveness) -> None:
        self._limits = limits
        self.closed, self.probing, self.opened = True, False, 0
        self.probe_at = math.inf
        self._failures, self._pause = 0, limits.first_pause
        self._silent, self._slack = 0.0, 1.0

    def succeeded(self) -> None:
        """A question was answered."""
        self._failures, self._silent, self._slack = 0, 0.0, 1.0

    def failed(self, now: float) -> bool:
        """A question ended in an error; True if that opens the breaker."""
        self._failures += 1
        return self.closed and self._failures >= self._limits.failures and self._open(now)

    def look(self, now: float, waiting: bool, alive: bool, patience: float) -> bool:
        """One more look: add up silence while something waits; True if that opens the breaker.

        One that comes late counts no more: a process that was stopped itself has heard nothing either. `patience` is an
        estimate, and a decode that was given up teaches nothing: after each silence, the next may last twice as long,
        until a question is answered.
        """
        self._silent = 0.0 if alive else self._silent + self._limits.look * waiting
        opens = self.closed and self._silent >= self._slack * patience
        if opens:
            self._slack = min(2.0 * self._slack, _SLACK)
        return opens and self._open(now)

    def dead(self, now: float, patience: float) -> bool:
        """Has it been silent for so long that it is to be started again? Then silence and pauses begin once more."""
        found = self._silent >= self._limits.renewal * patience
        if found:
            self._silent, self._pause = 0.0, self._limits.first_pause
            self.probe_at = min(self.probe_at, now + self._pause)
        return found

    def probe(self, now: float) -> bool:
        """Is it time to send one? Then it is at work."""
        due = not self.closed and not self.probing and now >= self.probe_at
        self.probing = self.probing or due
        return due

    def probed(self, answered: bool, now: float) -> None:
        """How the probe ended."""
        self.probing = False
        if answered:
            self.closed, self.probe_at, self._pause = True, math.inf, self._limits.first_pause
            self._failures, self._silent = 0, 0.0  # so small a prompt says nothing of a long decode
        else:
            self._pause = min(2.0 * self._pause, self._limits.longest_pause)
            self.probe_at = now + self._pause

    def _open(self, now: float) -> bool:
        self.closed, self.opened = False, self.opened + 1
        self.probe_at = now + self._pause
        return True


def patience(stats: Mapping[str, float], batch: int, limits: Liveness) -> float:
    """Seconds of silence that are no fault: much more than the longest decode, as far as one knows."""
    rate = stats.get("tokens_per_second")
    if rate is None:
        return limits.silence
    return max(limits.silence, _FAR * batch / rate) if rate else max(limits.silence, limits.start)


def _gone(questions: InFlight, id: int, future: Future[Answers], inner: Future[Answers]) -> None:
    inner.cancel()
    if future.cancelled() and questions.drop(id):
        future.set_running_or_notify_cancel()  # wakes those who wait for it


def outcome(answers: Answers) -> bool | None:
    """Did a question succeed (True) or fail? None: neither, such as one that was too late."""
    if answers.has(""):
        return True
    return False if answers.has("llm_error") else None


class GuardedBackend:
    """See the module. `inner` is what it guards; closing this closes it."""

    def __init__(self, inner: LlmBackend, tokens: Tokens, batch: int, limits: Liveness | None = None) -> None:
        self.inner = inner
        self._limits, self._batch = limits or Liveness(), batch
        simplest = (tokens.yes,) if tokens.bos is None else (tokens.bos, tokens.yes)
        self._probe = Prompts.of([Prompt((), simplest)])
        self._breaker = Breaker(self._limits)
        self._in_flight, self._undated = InFlight(), InFlight()  # questions with a deadline, and without one
        self._changed = threading.Condition()
        self._fresh = self._idle = self._closing = False
        self._life = -1.0
        self._watch = threading.Thread(target=self._live, name="corella-llm-guard", daemon=True)
        self._watch.start()

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        with self._changed:
            if self._closing:
                raise RuntimeError("the LLM backend is closed")
            closed = self._breaker.closed
            questions = self._undated if deadline is None else self._in_flight
            id, future = questions.add(len(prompts), None)
            self._fresh = True
            self._rouse()
        if closed:
            self._pass_on(questions, id, future, prompts, deadline)
        else:
            questions.fail(id, "llm_error")
        return future

    def forget(self) -> None:
        self.inner.forget()

    def renew(self) -> None:
        self.inner.renew()

    def stats(self) -> dict[str, float]:
        """The guarded backend's counters; `breaker_open` (0 or 1) and `breaker_opened` (how often)."""
        own = {"breaker_open": not self._breaker.closed, "breaker_opened": self._breaker.opened}
        return {**self.inner.stats(), **{name: float(value) for name, value in own.items()}}

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._watch.join()
        self.inner.close()

    def _pass_on(
        self, questions: InFlight, id: int, future: Future[Answers], prompts: Sequence[Prompt], deadline: float | None
    ) -> None:
        try:
            inner = self.inner.submit(prompts, deadline)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told
            questions.refuse(id, error)
            self._count(False)
            return
        inner.add_done_callback(lambda ended: self._ended(questions, id, ended))
        # If the caller cancels, or the breaker opens, first: what has not been computed yet never is.
        future.add_done_callback(lambda ended: _gone(questions, id, ended, inner))

    def _ended(self, questions: InFlight, id: int, inner: Future[Answers]) -> None:
        if inner.cancelled():
            return
        error = inner.exception()
        if error is None:
            questions.answer(id, inner.result())
            self._count(outcome(inner.result()))
        else:
            questions.refuse(id, error)
            self._count(False)

    def _count(self, succeeded: bool | None) -> None:
        opens = False
        with self._changed:
            if succeeded:
                self._breaker.succeeded()
            elif succeeded is not None:
                opens = self._breaker.failed(time.monotonic())
            if opens:
                self._rouse()
        if opens:
            self._opened("it fails")
            self._undated.fail_all()

    def _opened(self, why: str) -> None:
        _LOG.error("the LLM is not asked for now, the CRM decides: %s", why)
        self._in_flight.fail_all()

    def _waits(self) -> bool:
        return len(self._in_flight) + len(self._undated) > 0

    def _live(self) -> None:
        while self._sleep():
            try:
                self._look(time.monotonic())
            except Exception:  # noqa: BLE001 - without this thread an open breaker would never close again
                _LOG.exception("the LLM's guard could not look at it")

    def _rouse(self) -> None:
        if self._idle:
            self._idle = False
            self._changed.notify()

    def _sleep(self) -> bool:
        """Until the next look, and as long as there is nothing to look at; False when it is time to go."""
        with self._changed:
            self._idle = self._breaker.closed and not self._fresh and not self._waits()
            self._changed.wait_for(lambda: self._closing or not self._idle)
            return not self._changed.wait_for(lambda: self._closing, self._limits.look)

    def _look(self, now: float) -> None:
        stats = self.inner.stats()
        life = sum(stats.get(name, 0.0) for name in _LIFE)
        alive, self._life = life != self._life, life
        with self._changed:
            waiting = self._fresh or self._breaker.probing or self._waits()
            self._fresh, most = False, patience(stats, self._batch, self._limits)
            opens = self._breaker.look(now, waiting, alive, most)
            dead = self._breaker.dead(now, most)
            probe = self._breaker.probe(now)
        if opens:
            self._opened("it is silent")
        if dead:
            self._undated.fail_all()
            self.inner.renew()
        if probe:
            self._send_probe(now)

    def _send_probe(self, now: float) -> None:
        try:
            self.inner.submit(self._probe, now + self._limits.probe).add_done_callback(self._probed)
        except Exception:  # noqa: BLE001 - a probe that cannot be sent has failed
            self._breaker_probed(False)

    def _probed(self, probe: Future[Answers]) -> None:
        answered = not probe.cancelled() and probe.exception() is None and outcome(probe.result()) is True
        self._breaker_probed(answered)

    def _breaker_probed(self, answered: bool) -> None:
        with self._changed:
            self._breaker.probed(answered, time.monotonic())
        if answered:
            _LOG.warning("the LLM answers again")
