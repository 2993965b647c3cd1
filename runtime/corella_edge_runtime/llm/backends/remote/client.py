"""The backend whose answers a server computes. One thread runs an event loop; a user's prompts stay in order.

A deadline ends the request itself: its connection is closed, by which all three servers stop computing. A server that
cannot be reached is not asked for a moment, in which every question has "llm_error" at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn

from corella_edge.adapters import ALONE, Weights
from corella_edge.errors import InputError, MissingExtraError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.remote.flavours import (
    FAR_AWAY,
    KEY_VARIABLE,
    Address,
    adapter_ids,
    parse_address,
    too_long,
)
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt, Prompts, TokenIds, unpack_ids
from corella_edge_runtime.llm.contract.settings import LlmSettings

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("an LLM on another server", "remote") from error

_LOG = logging.getLogger("corella_edge.llm")
_DEADLINE = LlmAnswer(math.nan, "deadline")
_ERROR = LlmAnswer(math.nan, "llm_error")
_TOO_LONG = LlmAnswer(math.nan, "too_long")


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Of one client.

    Attributes:
        connections: requests at a time.
        connect, request: seconds until a connection is there, and until an answer is, where no deadline is nearer.
        pause: seconds for which a server that could not be reached is not asked.
        close: seconds for the work in hand when the backend is closed.
    """

    connections: int = 8
    connect: float = 2.0
    request: float = 30.0
    pause: float = 1.0
    close: float = 5.0


# Since the start. `prompts` got a probability; `requests` were sent, `responses` came; `errors` of them failed.
_COUNTERS = ("prompts", "requests", "responses", "errors", "late", "seconds")


class _RefusedError(Exception):
    """The server answered, but not with what was asked for."""


# Out of reach, late, refusing, or answering in another form.
_FAILURES = (httpx.HTTPError, _RefusedError, ValueError, LookupError, TypeError)


class RemoteBackend:
    """Answers of one server. It is first spoken to by `check` or the first question: a box may start without it."""

    def __init__(
        self, address: Address, tokens: Tokens, settings: LlmSettings, limits: ClientLimits = ClientLimits(),
        adapters: Collection[str] = (),
    ) -> None:  # fmt: skip
        """`adapters`: those that the server must have loaded, and that questions choose among."""
        self._flavour, self._tokens, self._limits = address.flavour, tokens, limits
        self._adapters, self._adapter_ids = adapters, dict[str, int]()
        self._name = f"the {address.flavour.name} at {address.base}"
        self._room = settings.queue_tokens
        self._waiting = 0
        self._closed = False
        self._lock = threading.Lock()
        self._counters = dict.fromkeys(_COUNTERS, 0.0)
        self._tasks: set[asyncio.Task[Answers]] = set()
        self._client = _client(address, limits)
        self._context: int | None = None
        self._asking = asyncio.Lock()
        self._connections = asyncio.Semaphore(limits.connections)
        self._unreachable_until = 0.0
        self._failures: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="corella-llm-remote", daemon=True)
        self._thread.start()

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        """See `LlmBackend`. What waits is bounded by `LlmSettings.queue_tokens`, as it is in a thread."""
        future: Future[Answers] = Future()
        late = deadline is not None and deadline <= time.monotonic()
        prompts = Prompts.of(prompts)
        tokens = prompts.tokens
        with self._lock:
            if self._closed:
                raise RuntimeError("the LLM backend is closed")
            full = self._waiting + tokens > self._room
            if not (full or late):
                self._waiting += tokens
                self._loop.call_soon_threadsafe(self._begin, prompts, deadline, future, tokens)
        if full or late:
            _finish(future, Answers.none(len(prompts), "deadline" if late else "queue_full"))
        return future

    def check(self, seconds: float) -> None:
        """Ask something tiny now. Raises InputError, naming the address, unless it is answered within `seconds`."""
        try:
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(self._first(), seconds), self._loop).result()
        except TimeoutError:
            self._not_there(f"nothing within {seconds:g} s")
        except _FAILURES as error:
            self._not_there(str(error) if isinstance(error, _RefusedError) else type(error).__name__)

    def _not_there(self, why: str) -> NoReturn:
        raise InputError(
            f"llm: {self._name} does not answer ({why}); start it there, or leave out --require-llm: the CRM then "
            "decides until it answers"
        ) from None

    def forget(self) -> None:
        """Nothing: what a server keeps is its own."""

    def renew(self) -> None:
        """Nothing: the server is somebody else's to start."""

    def stats(self) -> dict[str, float]:
        """Counters since the start, and `waiting_tokens`."""
        return {**self._counters, "waiting_tokens": float(self._waiting)}

    def close(self) -> None:
        """Wait for the work in hand, for `ClientLimits.close` seconds; then the rest is "llm_error"."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._end()))
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _end(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._limits.close)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()

    def _begin(self, prompts: Prompts, deadline: float | None, future: Future[Answers], tokens: int) -> None:
        task = self._loop.create_task(self._answer(prompts, deadline))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, future, len(prompts), tokens))
        future.add_done_callback(lambda ended: self._stop(task) if ended.cancelled() else None)

    def _ended(self, task: asyncio.Task[Answers], future: Future[Answers], count: int, tokens: int) -> None:
        self._tasks.discard(task)
        with self._lock:
            self._waiting -= tokens
        found = Answers.none(count, "llm_error")
        if not task.cancelled():
            error = task.exception()
            if error is None:
                found = task.result()
            else:
                self._failed(error)
        _finish(future, found)

    def _stop(self, task: asyncio.Task[Answers]) -> None:
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(task.cancel)

    async def _answer(self, prompts: Prompts, deadline: float | None) -> Answers:
        """What was there in time. The loop's clock is `time.monotonic`."""
        started = time.monotonic()
        answers: list[LlmAnswer | None] = [None] * len(prompts)
        missing = _ERROR
        try:
            async with asyncio.timeout_at(deadline):
                await self._all(prompts, answers)
        except TimeoutError:
            missing = _DEADLINE
            self._counters["late"] += 1
        found = Answers.of(answer or missing for answer in answers)
        self._counters["prompts"] += int(found.answered.sum())
        self._counters["seconds"] += time.monotonic() - started
        return found

    async def _all(self, prompts: Prompts, answers: list[LlmAnswer | None]) -> None:
        """Groups of one prefix side by side."""
        groups: dict[int, list[int]] = {}
        for i, name in enumerate(prompts.prefix):
            groups.setdefault(name, []).append(i)
        async with asyncio.TaskGroup() as side_by_side:
            for members in groups.values():
                side_by_side.create_task(self._group(prompts, members, answers))

    async def _group(self, prompts: Prompts, members: list[int], answers: list[LlmAnswer | None]) -> None:
        """One user's prompts one request after the other: each finds the beginning in the server's cache."""
        async with self._connections:
            fitting = await self._fitting(prompts, members, answers)
            for part in _parts(fitting, self._flavour.items):
                suffixes = [unpack_ids(prompts.suffixes[i]) for i in part]
                found = await self._ask(prompts[part[0]].prefix, suffixes, prompts.adapters)
                for i, answer in zip(part, found, strict=True):
                    answers[i] = answer

    async def _fitting(self, prompts: Prompts, members: list[int], answers: list[LlmAnswer | None]) -> list[int]:
        """Members that the server's context holds; the others are answered. vLLM would cut them, silently."""
        try:
            context = await self._context_size()
        except _FAILURES as error:
            self._failed(error)
            return []
        prefix = len(prompts[members[0]].prefix)
        fits = {i: 0 < prefix + len(unpack_ids(prompts.suffixes[i])) < context for i in members}
        for i in members:
            answers[i] = None if fits[i] else _TOO_LONG
        return [i for i in members if fits[i]]

    async def _first(self) -> None:
        """A prompt of two tokens, all the way. Raises what goes wrong."""
        await self._context_size()
        tokens = self._tokens
        begin = tokens.yes if tokens.bos is None else tokens.bos
        await self._exactly((begin,), [(tokens.yes,)])

    async def _context_size(self) -> int:
        async with self._asking:
            if self._context is None:
                status, said = await self._exchange("GET", self._flavour.about, None)
                if status != 200:
                    raise _RefusedError(f"{self._flavour.about}: status {status}")
                if self._adapters:
                    self._adapter_ids = await self._loaded()
                self._context = self._flavour.context(said)
        return self._context

    async def _loaded(self) -> dict[str, int]:
        """The server's numbers of the adapters that are needed."""
        status, said = await self._exchange("GET", self._flavour.adapters, None)
        ids = adapter_ids(said) if status == 200 else {}
        for name in self._adapters:
            if name not in ids:
                raise _RefusedError(f"{self._flavour.adapters}: the adapter {name} is not there, start it with "
                                    f"--lora {name}.gguf")  # fmt: skip
        return {name: ids[name] for name in self._adapters}

    async def _ask(self, prefix: Sequence[int], suffixes: list[TokenIds], adapters: Weights) -> list[LlmAnswer]:
        """One request; the same reason for all its prompts if it fails."""
        try:
            return await self._exactly(prefix, suffixes, adapters)
        except _FAILURES as error:
            self._failed(error)
            return [_ERROR] * len(suffixes)

    async def _exactly(
        self, prefix: Sequence[int], suffixes: list[TokenIds], adapters: Weights = ALONE
    ) -> list[LlmAnswer]:
        """The same; raises what goes wrong."""
        body = self._flavour.body(prefix, suffixes, self._tokens)
        if self._adapters:  # all of them: without any, the server takes those that it was started with
            weights = dict(adapters)
            body["lora"] = [{"id": i, "scale": weights.get(name, 0.0)} for name, i in self._adapter_ids.items()]
            body["cache_prompt"] = False  # the server's cache forgets by which adapters a prefix was computed
        status, said = await self._exchange("POST", self._flavour.path, body)
        if too_long(status, said):
            return [_TOO_LONG] * len(suffixes)
        if status != 200:
            raise _RefusedError(f"{self._flavour.path}: status {status}")
        return [LlmAnswer(value) for value in self._flavour.read(said, len(suffixes), self._tokens)]

    async def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        """Status and JSON of an answer. A kept connection that the server has closed meanwhile is tried once more."""
        if time.monotonic() < self._unreachable_until:
            raise _RefusedError("the server could not be reached a moment ago")
        for last in (False, True):
            self._counters["requests"] += 1
            try:
                answer = await self._client.request(method, path, json=body)
                self._counters["responses"] += 1
                return answer.status_code, answer.json()
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self._unreachable_until = time.monotonic() + self._limits.pause
                self._context = None  # another server may come, with another context and other numbers of adapters
                raise
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if self._adapters:
                    self._context = None
                if last or (self._adapters and path == self._flavour.path):
                    raise
        raise AssertionError("the second try returns or raises")

    def _failed(self, error: BaseException) -> None:
        """Count; log once a kind, and of the message only what is ours: a server's may quote what a user wrote."""
        self._counters["errors"] += 1
        text = f"{type(error).__name__}: {error}" if isinstance(error, _RefusedError) else type(error).__name__
        if text not in self._failures and len(self._failures) < 20:
            self._failures.add(text)
            _LOG.error("the LLM server fails, the CRM decides: %s", text)


def open_backend(
    kind: str, model: ModelSpec, required: bool, warn: Callable[[str], None] | None = None
) -> RemoteBackend:
    """See `BackendModule`. Raises InputError: the server must answer now and does not, or is asked for adapters and
    lets no request choose any."""
    address = parse_address(kind)
    if model.adapters and not address.flavour.adapters:
        raise InputError(
            f"llm: the bundle's LLM has adapters ({', '.join(model.adapters)}), and {address.flavour.name} lets no "
            "request choose among them; take a llama-server, thread or process, or export with --adapter merged"
        )
    backend = RemoteBackend(address, model.tokens, model.settings, adapters=sorted(model.adapters))
    try:
        if required:
            backend.check(FAR_AWAY.probe)
    except BaseException:
        backend.close()
        raise
    return backend


def _client(address: Address, limits: ClientLimits) -> httpx.AsyncClient:
    key = os.environ.get(KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{KEY_VARIABLE}: a key has printable ASCII characters only")
    return httpx.AsyncClient(
        base_url=address.base,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(limits.request, connect=limits.connect),
        limits=httpx.Limits(max_connections=limits.connections, max_keepalive_connections=limits.connections),
        # The system's certificates (SSL_CERT_FILE names others); a site's servers often have an authority of its own.
        verify=ssl.create_default_context() if address.base.startswith("https:") else False,
        # A proxy of the environment is for the internet, not for a server of the site.
        trust_env=False,
    )


def _parts(members: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]


def _finish(future: Future[Answers], answers: Answers) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(answers)
