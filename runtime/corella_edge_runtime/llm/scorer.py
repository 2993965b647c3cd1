"""Prompts → P(Yes). A prefix shared by several prompts is decoded once, their suffixes together.

P(Yes) = softmax over the logits of the two answers at the prompt's last token (CoReLLa, arXiv 2403.16378;
ReLLa, arXiv 2308.11131, eq. of the point-wise score).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.binding import Context, DecodeError, Model

SEQUENCES = 33  # the prefix's own and up to 32 suffixes a decode
BATCH = 512
# Longest prompt, in tokens: a checkpoint's own context could reserve gigabytes of KV cells.
MAX_CONTEXT = 8192


@dataclass(slots=True)
class Counters:
    """What was done since the start.

    Attributes:
        prompts: those that got a probability.
        evaluated_tokens: computed.
        reused_tokens: not computed, because an earlier call had left the prefix or other prompts shared it.
    """

    prompts: int = 0
    evaluated_tokens: int = 0
    reused_tokens: int = 0
    decodes: int = 0
    errors: int = 0
    seconds: float = 0.0


class YesNoScorer:
    """Owns one context; not for several threads at once.

    Sequence 0 holds the latest prefix, so that a user's next request pays only for what is new.
    """

    def __init__(self, model: Model, tokens: Tokens, threads: int, cells: int = 0, exact: bool = False) -> None:
        self.limit = min(model.trained_context, MAX_CONTEXT)
        wanted = cells or self.limit + BATCH
        self._context = Context(model, wanted, SEQUENCES, BATCH, threads, exact)
        self._answers = (tokens.yes, tokens.no)
        self._cached: tuple[int, ...] = ()
        self.counters = Counters()

    def score(self, prompts: Sequence[Prompt], expired: Callable[[], bool] = lambda: False) -> list[Answer]:
        """One answer a prompt, in order. `expired` is asked before every decode; what is left then has none."""
        started = time.perf_counter()
        answers: list[Answer | None] = [self._refusal(prompt) for prompt in prompts]
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(prompts):
            if answers[i] is None:
                groups.setdefault(prompt.prefix, []).append(i)
        for prefix, members in groups.items():
            found = self._group(prefix, [prompts[i].suffix for i in members], expired)
            for i, answer in zip(members, found, strict=True):
                answers[i] = answer
        self.counters.prompts += sum(answer is not None and not answer.reason for answer in answers)
        self.counters.seconds += time.perf_counter() - started
        return [answer or Answer(math.nan, "llm_error") for answer in answers]

    def forget(self) -> None:
        """Drop the kept prefix."""
        self._context.clear()
        self._cached = ()

    def close(self) -> None:
        self._context.close()

    def _refusal(self, prompt: Prompt) -> Answer | None:
        length = len(prompt.prefix) + len(prompt.suffix)
        fits = length <= self.limit and length <= self._context.cells and 0 < len(prompt.suffix) <= BATCH
        return None if fits else Answer(math.nan, "too_long")

    def _group(
        self, prefix: tuple[int, ...], suffixes: Sequence[tuple[int, ...]], expired: Callable[[], bool]
    ) -> list[Answer]:
        """Answers of prompts that share `prefix`."""
        answers: list[Answer] = []
        missing = "deadline"
        try:
            self._read(prefix, suffixes, expired, answers)
        except DecodeError:
            self._reset()
            missing = "llm_error"
        except BaseException:
            self._reset()
            raise
        answered = sum(not answer.reason for answer in answers)
        self.counters.reused_tokens += len(prefix) * max(0, answered - 1)
        return answers + [Answer(math.nan, missing)] * (len(suffixes) - len(answers))

    def _read(
        self,
        prefix: tuple[int, ...],
        suffixes: Sequence[tuple[int, ...]],
        expired: Callable[[], bool],
        answers: list[Answer],
    ) -> None:
        """Append to `answers` until all are there or the time is up."""
        if not self._hold(prefix, expired):
            return
        for chunk in self._chunks(len(prefix), suffixes):
            if expired():
                return
            answers += self._suffixes(len(prefix), chunk)

    def _hold(self, prefix: tuple[int, ...], expired: Callable[[], bool]) -> bool:
        """Bring `prefix` into sequence 0, keeping what it has in common with the one before."""
        common = _common(self._cached, prefix)
        self._context.cut(0, common)
        self._cached = prefix[:common]
        self.counters.reused_tokens += common
        for start in range(common, len(prefix), BATCH):
            if expired():
                return False
            part = prefix[start : start + BATCH]
            self._decode([(token, start + i, 0, False) for i, token in enumerate(part)])
            self._cached = prefix[: start + len(part)]
        return True

    def _chunks(self, length: int, suffixes: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Suffixes in order, as many a decode as sequences, batch and free cells allow."""
        room = min(BATCH, self._context.cells - length)
        chunk: list[tuple[int, ...]] = []
        used = 0
        for suffix in suffixes:
            if chunk and (len(chunk) == SEQUENCES - 1 or used + len(suffix) > room):
                yield chunk
                chunk, used = [], 0
            chunk.append(suffix)
            used += len(suffix)
        yield chunk

    def _suffixes(self, start: int, suffixes: Sequence[tuple[int, ...]]) -> list[Answer]:
        """Decode suffixes side by side behind the held prefix and read the two logits of each."""
        rows: list[tuple[int, int, int, bool]] = []
        last: list[int] = []
        for sequence, suffix in enumerate(suffixes, 1):
            self._context.copy(0, sequence)
            rows += [(token, start + i, sequence, i == len(suffix) - 1) for i, token in enumerate(suffix)]
            last.append(len(rows) - 1)
        self._decode(rows)
        answers = [self._answer(row) for row in last]
        for sequence in range(1, len(suffixes) + 1):
            self._context.cut(sequence, -1)
        return answers

    def _answer(self, row: int) -> Answer:
        yes, no = self._context.logits(row, self._answers)
        if not math.isfinite(no - yes):
            return Answer(math.nan, "llm_error")
        return Answer(1.0 / (1.0 + math.exp(min(700.0, no - yes))))

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        self._context.decode(rows)
        self.counters.evaluated_tokens += len(rows)
        self.counters.decodes += 1

    def _reset(self) -> None:
        self.forget()
        self.counters.errors += 1


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
