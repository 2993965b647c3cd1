"""Other ways to get the same P(Yes) from the same weights and token ids. Each is used at its cheapest for that form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import llama_cpp

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt
from harness.models import Subject
from harness.shapes import by_prefix
from peers.llama_server import LlamaServer, ServerPeer
from peers.transformers import Shared, Single

CONTEXT = 512
COLD_PROMPTS = 2  # of a request: reading every prompt from its beginning costs the same for each
SHOWN = 20  # logprobs that are asked for; the fewest that usually hold both answers


class Peer(Protocol):
    """Something that scores prompts.

    Attributes:
        sample: score only so many prompts of a request, and multiply: for peers that share nothing between prompts.
    """

    name: str
    sample: int | None

    def reset(self) -> None:
        """Forget earlier prompts; not timed."""

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        """P(Yes) of each."""

    def processes(self) -> list[int]:
        """Children that work for it."""

    def close(self) -> None:
        """Free it."""


def probability(yes: float, no: float) -> float:
    """Softmax over the two answers' logits."""
    return 1.0 / (1.0 + math.exp(min(700.0, no - yes)))


class Completion:
    """llama-cpp-python's `create_completion(prompt=ids, max_tokens=1, logprobs=20)`, with its own reuse or without."""

    def __init__(self, name: str, path: Path, tokens: Tokens, threads: int, reuse: bool) -> None:
        self.name, self._tokens, self._reuse = name, tokens, reuse
        self.sample = None if reuse else COLD_PROMPTS
        self._llm = _llama(path, threads, logits_all=True)

    def reset(self) -> None:
        self._llm.reset()

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return [self._one([*prompt.prefix, *prompt.suffix]) for prompt in prompts]

    def _one(self, ids: list[int]) -> float:
        if not self._reuse:
            self._llm.reset()
        self._llm.create_completion(ids, max_tokens=1, logprobs=SHOWN, temperature=0.0)
        # Random weights seldom put the answers among the shown ones: the row that those were taken from.
        row = self._llm.scores[len(ids) - 1]
        return probability(float(row[self._tokens.yes]), float(row[self._tokens.no]))

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        self._llm.close()


class Eval:
    """`Llama.eval` and the logits of the last position; `reuse` keeps the prefix by setting `n_tokens` by hand."""

    def __init__(self, name: str, path: Path, tokens: Tokens, threads: int, reuse: bool) -> None:
        self.name, self._tokens, self._reuse = name, tokens, reuse
        self.sample = None if reuse else COLD_PROMPTS
        self._llm = _llama(path, threads, logits_all=False)

    def reset(self) -> None:
        self._llm.reset()

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return [self._one(prefix, suffix, i) for prefix, suffixes in by_prefix(list(prompts))
                for i, suffix in enumerate(suffixes)]  # fmt: skip

    def _one(self, prefix: Sequence[int], suffix: Sequence[int], number: int) -> float:
        if self._reuse and number:
            self._llm.n_tokens = len(prefix)
            self._llm.eval(suffix)
        else:
            self._llm.reset()
            self._llm.eval([*prefix, *suffix])
        row = llama_cpp.llama_get_logits_ith(self._llm.ctx, -1)
        return probability(row[self._tokens.yes], row[self._tokens.no])

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        self._llm.close()


def _llama(path: Path, threads: int, logits_all: bool) -> Any:
    return llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT, n_threads=threads, n_threads_batch=threads,
        logits_all=logits_all, verbose=False,
    )  # fmt: skip


Make = Callable[[Subject, str, Tokens, int], Peer]
# name → (does the GGUF type matter to it?, how it is made)
KNOWN: dict[str, tuple[bool, Make]] = {
    "completion": (True, lambda s, kind, t, n: Completion("completion", s.files[kind], t, n, reuse=False)),
    "completion-reuse": (True, lambda s, kind, t, n: Completion("completion-reuse", s.files[kind], t, n, reuse=True)),
    "eval": (True, lambda s, kind, t, n: Eval("eval", s.files[kind], t, n, reuse=False)),
    "eval-reuse": (True, lambda s, kind, t, n: Eval("eval-reuse", s.files[kind], t, n, reuse=True)),
    "server": (True, lambda s, kind, t, n: ServerPeer("server", LlamaServer(s.files[kind], n), t)),
    "server-n-probs": (
        True, lambda s, kind, t, n: ServerPeer("server-n-probs", LlamaServer(s.files[kind], n), t, SHOWN),
    ),
    "server-no-cache": (
        True,
        lambda s, kind, t, n: ServerPeer("server-no-cache", LlamaServer(s.files[kind], n), t, sample=COLD_PROMPTS),
    ),
    "torch-f32": (False, lambda s, kind, t, n: Single("torch-f32", s, t, COLD_PROMPTS)),
    "torch-bf16": (False, lambda s, kind, t, n: Single("torch-bf16", s, t, COLD_PROMPTS)),
    "torch-bf16-shared": (False, lambda s, kind, t, n: Shared("torch-bf16-shared", s, t)),
}  # fmt: skip
# Those that read every prompt from its beginning.
COLD = frozenset({"completion", "eval", "server-no-cache", "torch-f32", "torch-bf16"})


def make_peer(name: str, subject: Subject, kind: str, tokens: Tokens, threads: int) -> Peer:
    """A peer on the file of type `kind`."""
    return KNOWN[name][1](subject, kind, tokens, threads)


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for a peer that is not known."""
    for name in names:
        if name not in KNOWN:
            raise InputError(f"--peers {name!r}: known are {', '.join(KNOWN)}")
