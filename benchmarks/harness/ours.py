"""This project's scorer, as its peers see it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer


def make_scorer(model: Model, tokens: Tokens, threads: int) -> YesNoScorer:
    """The scorer as the runtime makes it: its usual settings."""
    return YesNoScorer(model, tokens, LlmSettings(threads=threads))


class Ours:
    """`YesNoScorer` on one file."""

    name = "ours"
    sample: int | None = None

    def __init__(self, path: Path, tokens: Tokens, threads: int) -> None:
        self._model = Model(path)
        self.scorer = make_scorer(self._model, tokens, threads)

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    def reset(self) -> None:
        """Nothing is kept of earlier users."""
        self.scorer.forget()

    def score(self, prompts: Sequence[Prompt]) -> list[float]:
        return [answer.probability for answer in self.scorer.score(list(prompts))]

    def evaluated(self) -> int:
        """Tokens computed so far."""
        return self.scorer.counters.evaluated_tokens

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        self.scorer.close()
        self._model.close()
