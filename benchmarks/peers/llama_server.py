"""llama-server as a peer: one slot, token ids in, all prompts of a request in one POST."""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt

VARIABLE = "CORELLA_EDGE_LLAMA_SERVER"
BIAS = 50.0  # lifts both answers over all others; their difference stays
PATIENCE = 120.0
CONTEXT = 2048


class LlamaServer:
    """A running llama-server on a free port of this machine.

    `--parallel 1`: with more slots, prompts sent together would each read the prefix. `--cache-ram 0`: a prompt of
    another user is not copied aside first.
    """

    def __init__(self, model: Path, threads: int) -> None:
        self._port = _free_port()
        count = str(threads)
        self._process = subprocess.Popen(
            [binary(VARIABLE), "-m", str(model), "--host", "127.0.0.1", "--port", str(self._port), "-t", count, "-tb",
             count, "-c", str(CONTEXT), "-b", "512", "-ub", "512", "--parallel", "1", "--cache-ram", "0", "--no-ui"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.id = self._process.pid
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        self._await(model)

    def post(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers of `/completion`, in order of the prompts."""
        self._connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        reply = self._connection.getresponse()
        text = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"llama-server answered {reply.status}: {text[:200].decode('utf-8', 'replace')}")
        found = json.loads(text)
        return sorted(found, key=lambda one: int(one["index"])) if isinstance(found, list) else [found]

    def reconnect(self) -> None:
        """The server hangs up after seconds of silence; the next call opens a connection."""
        self._connection.close()

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _await(self, model: Path) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            if self._healthy():
                return
            time.sleep(0.1)
        self._process.kill()
        self._process.wait()
        raise RuntimeError(f"llama-server did not start on {model.name} within {PATIENCE:.0f} s")

    def _healthy(self) -> bool:
        try:
            self._connection.request("GET", "/health")
            reply = self._connection.getresponse()
            reply.read()
        except (ConnectionError, http.client.HTTPException):
            self._connection.close()
            return False
        return reply.status == 200


class ServerPeer:
    """P(Yes) from llama-server.

    Args:
        shown: None = its best form: both answers lifted by `logit_bias`, two candidates kept, probabilities after
            sampling. Else `n_probs` of the whole vocabulary, before sampling.
        sample: prompts of a request that are timed; given, the server's own reuse (`cache_prompt`) is off.
    """

    def __init__(
        self, name: str, server: LlamaServer, tokens: Tokens, shown: int | None = None, sample: int | None = None
    ) -> None:
        self.name, self.sample, self._server, self._tokens, self._shown = name, sample, server, tokens, shown
        self._form = body_of(tokens, shown, sample is None)

    def reset(self) -> None:
        """Another prompt takes the slot: nothing of earlier users is left in it."""
        self._server.reconnect()
        self._server.post({"prompt": [1], "n_predict": 1, "cache_prompt": False})

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        ids = [[*prompt.prefix, *prompt.suffix] for prompt in prompts]
        found = self._server.post({**self._form, "prompt": ids})
        return [yes_of(one, self._tokens, self._shown is not None) for one in found]

    def processes(self) -> list[int]:
        return [self._server.id]

    def close(self) -> None:
        self._server.close()


def body_of(tokens: Tokens, shown: int | None, cache: bool) -> dict[str, Any]:
    """What is asked besides the prompts."""
    usual: dict[str, Any] = {"n_predict": 1, "cache_prompt": cache, "temperature": 1.0, "response_fields": [
        "index", "completion_probabilities"]}  # fmt: skip
    if shown is not None:
        return {**usual, "n_probs": shown, "ignore_eos": True}  # an end token would come without probabilities
    best = {"n_probs": 2, "post_sampling_probs": True, "samplers": ["top_k"], "top_k": 2}
    return {**usual, **best, "logit_bias": [[tokens.yes, BIAS], [tokens.no, BIAS]]}


def yes_of(answer: dict[str, Any], tokens: Tokens, before_sampling: bool) -> float:
    """P(Yes) of one answer; nan where the two answers are not both among those shown."""
    if "completion_probabilities" not in answer:  # the sampled token is no whole UTF-8 text; the time still counts
        return float("nan")
    first = answer["completion_probabilities"][0]
    shown = {row["id"]: row for row in first["top_logprobs" if before_sampling else "top_probs"]}
    if tokens.yes not in shown or tokens.no not in shown:
        return float("nan")
    if before_sampling:
        gap = shown[tokens.no]["logprob"] - shown[tokens.yes]["logprob"]
        return 1.0 / (1.0 + math.exp(min(700.0, gap)))
    yes, no = float(shown[tokens.yes]["prob"]), float(shown[tokens.no]["prob"])
    return yes / (yes + no)


def binary(variable: str) -> str:
    """Path of a peer's binary.

    Raises:
        InputError: the variable is not set, or names no file.
    """
    path = os.environ.get(variable, "")
    if not Path(path).is_file():
        raise InputError(f"{variable}={path!r}: set it to the binary (benchmarks/peers/README.md says how to build it)")
    return path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
