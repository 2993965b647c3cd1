"""Requests over HTTP to a server that runs already, on this machine or another one. Standard library only."""

from __future__ import annotations

import http.client
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import InputError
from corella_edge.json_lines import Reference
from corella_edge.request import Request
from corella_edge.request_json import request_body
from corella_edge.routing.gate import NEW_ITEM, new_items
from corella_edge.routing.reasons import KEPT
from corella_edge.scores import Scores
from corella_edge.stopping import never
from corella_edge_runtime import reference
from corella_edge_runtime.bench.load.http import HttpReply, ReplyError, post
from corella_edge_runtime.bench.load.outcome import Outcome, put
from corella_edge_runtime.bench.load.plan import MOST_CONNECTIONS, LoadPlan, address_of
from corella_edge_runtime.bench.load.timing import spans
from corella_edge_runtime.bench.results.seen import Seen

KEY_VARIABLE = "CORELLA_EDGE_KEY"
RANK, READY = "/v1/rank", "/v2/health/ready"
FULL = (429, 503)  # too many requests; the server is not ready for more
PATIENCE = 60.0  # seconds that an answer may take
READ = 262144
# A server's own words for the stages: what it does beside them is HTTP's, and the way there and back.
_OWN = ("turn", "parse", "wait", "store", "encode", "crm", "policy", "prompt", "queue", "prefill", "serialise")
_TOKENS = re.compile(r'prefill;[^,]*desc="evaluated=(\d+),reused=(\d+)"')
_BUSY = re.compile(r"^corella_edge_llm_busy_seconds(?:_total)?(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)
_MEMORY = re.compile(r"^process_resident_memory_bytes ([0-9.eE+-]+)$", re.MULTILINE)


class _Candidate(msgspec.Struct):
    item: str
    routed: bool
    reason: str
    crm: float | None = None
    llm: float | None = None
    unknown: tuple[str, ...] = ()


class _Answer(msgspec.Struct):
    bundle: str
    candidates: list[_Candidate]


class OverHttp:
    """A server at `http://HOST:PORT`; its API key is in the environment variable `KEY_VARIABLE`, if it wants one."""

    controls = False

    def __init__(self, url: str) -> None:
        """Raises InputError: no such address, or nobody answers there."""
        self.host, self.port = address_of(url)
        self.measured = f"over HTTP at {url}, from the moment of a request to the last byte of its answer"
        key = os.environ.get(KEY_VARIABLE, "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._socket: socket.socket | None = None
        if not self.get(READY):
            raise InputError(f"--url {url}: the server is not ready")

    @property
    def local(self) -> bool:
        """Whether it runs on this machine, as far as its address tells."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def ask(self, body: bytes) -> Seen:
        began = time.monotonic()
        try:
            reply = self._over(self._connected(), self._post(body))
        except (OSError, ReplyError):
            self.close()
            return Seen(0.0, None)
        took = time.monotonic() - began
        if not reply.reusable:
            self.close()
        return seen(0.0, took, reply.status, reply.body, reply.timing)

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        plan = LoadPlan(self.port, list(moments), list(range(len(bodies))), connections=most or MOST_CONNECTIONS,
                    patience=PATIENCE, keep="all", host=self.host)  # fmt: skip
        return told(put(plan, [self._post(body) for body in bodies], stop))

    def at_random(self, share: float | None) -> None:
        """A server's routing is its own."""

    def forget(self) -> bool:
        return False

    def llm_seconds(self) -> float | None:
        return _sum(_BUSY, self.get("/metrics"))

    def memory(self) -> int | None:
        found = _sum(_MEMORY, self.get("/metrics"))
        return None if found is None else int(found)

    def answer(self, request: Request) -> _Answer:
        """An answer, decoded. Raises InputError: there is none."""
        reply = self._over(self._connected(), self._post(request_body(request)))
        if reply.status != 200:
            raise InputError(f"--url: {RANK} answers with status {reply.status}: {reply.body[:200]!r}")
        return msgspec.json.decode(reply.body, type=_Answer)

    def scores(self, request: Request) -> Scores:
        """Both models' scores, and which items are new. Raises InputError: there are none."""
        found = self.answer(request).candidates
        crm, llm = (np.array([getattr(one, name) for one in found], np.float64) for name in ("crm", "llm"))
        unknown = tuple(one.unknown for one in found)
        return Scores(tuple(one.item for one in found), crm, llm, np.array([one.routed for one in found]),
                      tuple(one.reason for one in found), unknown, inputs={NEW_ITEM: new_items(unknown)})  # fmt: skip

    def get(self, path: str) -> str:
        """The body of a GET; "" where the server knows no such path. Raises InputError: nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=self._headers)
            reply = connection.getresponse()
            body = reply.read().decode("utf-8", "replace")
            return body if reply.status == 200 else ""
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"--url http://{self.host}:{self.port}: no answer from {path}: {error}") from None
        finally:
            connection.close()

    def close(self) -> None:
        """End the connection that `ask` keeps."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _over(self, connection: socket.socket, request: bytes) -> HttpReply:
        connection.sendall(request)
        reply = HttpReply()
        while not reply.complete:
            data = connection.recv(READ)
            if not data:
                reply.ended()
                break
            reply.feed(data)
        return reply

    def _post(self, body: bytes) -> bytes:
        return post(RANK, body, self._headers, host=f"{self.host}:{self.port}")


def told(done: Outcome) -> list[Seen]:
    """Of each request of a plan."""
    happened, moments, latency = done.happened, done.moments.tolist(), done.latency.tolist()
    return [
        seen(at, took, status, body, timing)
        for at, took, status, body, timing in zip(
            moments, latency, happened.status, happened.body, happened.timing, strict=True
        )
    ]


def seen(at: float, took: float, status: int, body: bytes, timing: str) -> Seen:
    """From a reply: what came of the candidates, and where the time went by the server's own account."""
    if status != 200:
        return Seen(at, None, rejected=status in FULL)
    found = msgspec.json.decode(body, type=_Answer).candidates
    own = {name: ms / 1000.0 for name, ms in spans(timing).items() if name in _OWN}
    stages = {**own, "http": max(0.0, took - sum(own.values()))}
    tokens = _TOKENS.search(timing)
    evaluated, reused = map(int, tokens.groups()) if tokens else (0, 0)
    degraded = dict(Counter(one.reason for one in found if one.reason and not one.routed))
    kept = sum(one.reason == KEPT for one in found)
    return Seen(at, took, len(found), sum(one.routed for one in found), kept, evaluated, reused, degraded, stages)


def _sum(metric: re.Pattern[str], text: str) -> float | None:
    values = [float(value) for value in metric.findall(text)]
    return sum(values) if values else None


def check(target: OverHttp, bundle: Bundle, llm: bool) -> tuple[int, list[str]]:
    """Rows of the bundle's reference that the server was asked, and what it gives otherwise, a line each.

    Raises:
        InputError: it does not answer. BundleError: the bundle has no reference.
    """
    allowed, rows, problems = reference.tolerance(bundle), reference.read(bundle), list[str]()
    for number, row in enumerate(rows, 1):
        request = replace(row.request, threshold="ratio:1" if llm else "ratio:0", timeout_ms=None, top_k=None)
        found = target.answer(request)
        if found.bundle != bundle.label:
            return number, [f"the server serves {found.bundle}, and the bundle given is {bundle.label}"]
        problems += _apart(number, found.candidates[0], row, allowed)
    return len(rows), problems


def _apart(number: int, found: _Candidate, row: Reference, allowed: reference.Tolerance) -> list[str]:
    pairs = (("CRM", found.crm, row.crm, allowed.crm), ("LLM", found.llm, row.llm, allowed.llm))
    return [
        f"row {number}: the {name} gives {value:.6f}, trained {trained:.6f} (at most {most:g} apart)"
        for name, value, trained, most in pairs
        if value is not None and trained is not None and not abs(value - trained) <= most
    ]
