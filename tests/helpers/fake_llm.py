"""An LLM backend without an LLM, and a server that speaks as llama-server, SGLang and vLLM do."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt, Prompts

Score = Callable[[Sequence[int]], float]


class FakeBackend:
    """P(Yes) by a function of all token ids; the contract and nothing else."""

    def __init__(self, score: Score, limit: int, queue_tokens: int = 65536) -> None:
        self._score, self._limit, self._room = score, limit, queue_tokens
        self._pool = ThreadPoolExecutor(1)
        self._answered = 0

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        if Prompts.of(prompts).tokens > self._room:
            refused: Future[Answers] = Future()
            refused.set_result(Answers.none(len(prompts), "queue_full"))
            return refused
        try:
            return self._pool.submit(self._answers, prompts, math.inf if deadline is None else deadline)
        except RuntimeError:
            raise RuntimeError("the LLM backend is closed") from None

    def forget(self) -> None:
        """Nothing is kept."""

    def renew(self) -> None:
        """Nothing hangs here."""

    def stats(self) -> dict[str, float]:
        return {"prompts": float(self._answered)}

    def close(self) -> None:
        self._pool.shutdown()

    def _answers(self, prompts: Sequence[Prompt], deadline: float) -> Answers:
        return Answers.of(self._answer([*prompt.prefix, *prompt.suffix], deadline) for prompt in prompts)

    def _answer(self, ids: Sequence[int], deadline: float) -> LlmAnswer:
        if len(ids) > self._limit:
            return LlmAnswer(math.nan, "too_long")
        if time.monotonic() >= deadline:
            return LlmAnswer(math.nan, "deadline")
        self._answered += 1
        return LlmAnswer(self._score(ids))


class FakeServer(ThreadingHTTPServer):
    """All three forms at once.

    Attributes:
        asked: (path, headers, body) of every POST.
        status: of every answer; change it to make the server fail.
        spoil: applied to every good answer of a POST.
        adapters: what llama-server lists as its adapters.
        go: POSTs wait for it.
        most: greatest number of POSTs at a time.
    """

    daemon_threads = True

    def __init__(self, score: Score, context: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.score, self.context = score, context
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.spoil: Callable[[Any], Any] = lambda answer: answer
        self.adapters: list[dict[str, Any]] = []
        self.go, self.lock = threading.Event(), threading.Lock()
        self.go.set()
        self.now = self.most = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up closes its connection; that is what a deadline does."""


@contextmanager
def serving(score: Score, context: int) -> Iterator[FakeServer]:
    with FakeServer(score, context) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        forms: dict[str, Any] = {
            "/props": {"default_generation_settings": {"n_ctx": self.server.context}},
            "/v1/models": {"data": [{"id": "tiny", "max_model_len": self.server.context}]},
            "/lora-adapters": self.server.adapters,
        }
        self._say(forms[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append((self.path, dict(self.headers), body))
            server.now += 1
            server.most = max(server.most, server.now)
        server.go.wait(20)
        answer = {"/completion": self._completion, "/v1/score": self._score, "/generative_scoring": self._generative}
        said = answer[self.path](body)
        with server.lock:
            server.now -= 1
        self._say(server.spoil(said))

    def _completion(self, body: Any) -> Any:
        (yes, _), (no, _) = body["logit_bias"]
        p = self.server.score(body["prompt"])
        top = sorted([{"id": yes, "prob": p}, {"id": no, "prob": 1 - p}], key=lambda entry: -entry["prob"])
        return {"completion_probabilities": [{"id": top[0]["id"], "top_probs": [e for e in top if e["prob"] > 0]}]}

    def _score(self, body: Any) -> Any:
        found = [self.server.score([*body["query"], *item]) for item in body["items"]]
        return {"scores": [[p, 1 - p] for p in found], "model": "tiny", "object": "scoring"}

    def _generative(self, body: Any) -> Any:
        found = [self.server.score([*body["query"], *item]) for item in body["items"]]
        return {"object": "list", "data": [{"index": i, "score": p} for i, p in reversed(list(enumerate(found)))]}

    def _say(self, answer: Any) -> None:
        raw = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
