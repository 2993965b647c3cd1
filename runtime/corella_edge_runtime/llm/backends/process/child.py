"""The LLM's own process: `python -m corella_edge_runtime.llm.backends.process.child FD SETUP`, started by `backend`.

FD is one end of a pair of sockets (`wire.py` says what passes), SETUP the JSON of a `ModelSpec`. The main thread reads
and writes; the backend's thread decodes and llama.cpp holds no lock of Python meanwhile, so a PING is answered at once
unless the whole process stands still.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from corella_edge.errors import ComputeError, CorellaError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.process import wire
from corella_edge_runtime.llm.backends.process.link import Link
from corella_edge_runtime.llm.backends.thread import bind, thread_side
from corella_edge_runtime.llm.contract.backend import LlmBackend, ModelSpec
from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts

NAME = b"corella-llm"
_PR_SET_NAME = 15
_THE_PARENTS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_LOG = logging.getLogger("corella_edge.llm")


class Child:
    """Answers one link's questions with one backend."""

    def __init__(self, link: Link, backend: LlmBackend) -> None:
        self._link, self._backend = link, backend
        self._asked: dict[int, Future[Answers]] = {}
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def serve(self) -> bool:
        """Until the other side says good-bye (True) or is gone (False)."""
        self._link.send(wire.Ready(self._backend.stats()))
        while True:
            messages = self._link.receive(3600.0)
            if messages is None:
                return False
            if any(self._heard(message) for message in messages):
                return True
            self._deliver()

    def finish(self) -> None:
        """Close the backend, answering on while it ends, and see the last bytes off."""
        closing = threading.Thread(target=self._close, name="corella-close", daemon=True)
        closing.start()
        while closing.is_alive() or self._link.pending:
            messages = self._link.receive(1.0)
            if messages is None:
                return
            for message in messages:
                # A question that crossed our good-bye: the other side ends it when we are gone.
                if not isinstance(message, wire.Ask):
                    self._heard(message)
            self._deliver()
        self._deliver()

    def _close(self) -> None:
        self._backend.close()
        self._link.wake()

    def _heard(self, message: wire.Message) -> bool:
        """Act on a message; True for the last one."""
        match message:
            case wire.Ask(id, deadline, prompts):
                self._ask(id, deadline, prompts)
            case wire.Cancel(id) if id in self._asked:
                self._asked[id].cancel()
            case wire.Ping():
                self._link.send(wire.Ready(self._backend.stats()))
            case wire.Forget():
                self._backend.forget()
        return isinstance(message, wire.Bye)

    def _ask(self, id: int, deadline: float | None, prompts: Prompts) -> None:
        self._asked[id] = self._backend.submit(prompts, deadline)
        self._asked[id].add_done_callback(lambda _: self._ended(id))

    def _ended(self, id: int) -> None:
        """In whichever thread ended it, maybe inside the backend's locks: only note it, the main thread answers."""
        self._done.put(id)
        self._link.wake()

    def _deliver(self) -> None:
        while not self._done.empty():
            id = self._done.get()
            job = self._asked.pop(id)
            if not job.cancelled():
                self._link.send(self._outcome(id, job))

    def _outcome(self, id: int, job: Future[Answers]) -> wire.Message:
        error = job.exception()
        if error is None:
            return wire.Answered(id, job.result(), self._backend.stats())
        # The kind alone: a message may quote what a user wrote.
        return wire.Failed(id, type(error).__name__)


def main(arguments: Sequence[str]) -> int:
    """Load the model, compute an answer, serve, end.

    The status: 0, or 3 for a model that cannot be loaded or gives no answer, 4 for a damaged frame, 5 for a context
    that stays broken.
    """
    _behave()
    link = Link(socket.socket(fileno=int(arguments[0])))
    try:
        setup = ModelSpec.from_json(arguments[1])
        bind(setup.settings.cores)
        backend = thread_side(setup, _give_way)
        _prove(backend, setup.tokens)
    except (CorellaError, OSError) as error:
        link.send(wire.Fatal(type(error).__name__, str(error)))
        return 3
    child = Child(link, backend)
    try:
        if child.serve():
            child.finish()
    except wire.WireError as error:
        _LOG.error("%s", error)
        return 4
    return 0


def _prove(backend: LlmBackend, tokens: Tokens) -> None:
    """Raises ComputeError if the simplest prompt gets no number: a model may load and still not answer."""
    (answer,) = backend.submit([Prompt((), (tokens.yes, tokens.no))]).result()
    if answer.reason:
        raise ComputeError(f"the LLM gives no answer to its first prompt ({answer.reason})")


def _behave() -> None:
    """Be seen under a name of our own, and leave the decision when to end to the parent.

    A terminal's signals and a service manager's reach every process of the service at once; the parent then finishes
    its requests, for which it needs this one, and says good-bye. Without a parent the link ends, and so does this
    process.
    """
    for number in _THE_PARENTS:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME, 0, 0, 0)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


def _give_way() -> None:
    """To a new process, in whichever thread the scorer is found broken."""
    logging.shutdown()
    os._exit(5)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # A parent that is gone waits for nothing, and a decode in a thread could hold up the interpreter's own end.
    os._exit(status)
