"""What is asked: prompts of random token ids, never the same ones twice, so that no cache but the wanted one helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corella_edge_runtime.llm.contract.messages import Prompt
from harness.vocabulary import FIRST


@dataclass(frozen=True, slots=True)
class Shape:
    """Users, candidates of each, and the tokens of a prefix and of a suffix."""

    users: int
    candidates: int
    prefix: int
    suffix: int

    @property
    def prompts(self) -> int:
        return self.users * self.candidates

    @property
    def whole_tokens(self) -> int:
        """Tokens of all prompts read one by one."""
        return self.prompts * (self.prefix + self.suffix)


SHAPES = {
    "a1": Shape(1, 20, 200, 40),
    "a2": Shape(1, 20, 200, 10),
    "b": Shape(64, 1, 230, 10),
    "c3": Shape(1, 3, 200, 10),
    "c20": Shape(1, 20, 200, 10),
}


class PromptStream:
    """A stream of prompts. The same seed gives the same stream."""

    def __init__(self, vocab: int, seed: int) -> None:
        self._rng, self._vocab = np.random.default_rng(seed), vocab

    def ids(self, count: int) -> tuple[int, ...]:
        """`count` random ids, none of a special token or an answer."""
        return tuple(self._rng.integers(FIRST, self._vocab, count).tolist())

    def batch(self, shape: Shape) -> list[Prompt]:
        """New users, user after user."""
        prefixes = [self.ids(shape.prefix) for _ in range(shape.users)]
        return [Prompt(prefix, self.ids(shape.suffix)) for prefix in prefixes for _ in range(shape.candidates)]

    def again(self, batch: list[Prompt]) -> list[Prompt]:
        """The same users with other candidates."""
        return [Prompt(prompt.prefix, self.ids(len(prompt.suffix))) for prompt in batch]


def by_prefix(prompts: list[Prompt]) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """(prefix, its suffixes) in order of appearance; neighbours only, as prompts come user after user."""
    groups: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = []
    for prompt in prompts:
        if not groups or groups[-1][0] != prompt.prefix:
            groups.append((prompt.prefix, []))
        groups[-1][1].append(prompt.suffix)
    return groups
