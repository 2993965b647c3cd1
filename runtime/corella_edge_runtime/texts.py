"""Texts or token ids → the LLM's answers, without users, items or a CRM: what `POST /v1/score` asks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from corella_edge_runtime.asking import Llm
from corella_edge_runtime.llm.answer import Answer, Prompt

Ids = Sequence[int]
# A suffix is decoded at once: the smallest decode that `tune` may choose.
MOST_AT_ONCE = 64


def tokenize(llm: Llm, text: str) -> list[int]:
    """Ids of a text; special tokens in it are text."""
    return llm.prompts.tokenize(text)


def begin(llm: Llm) -> list[int]:
    """What the model wants before any text: its begin token, or nothing."""
    bos = llm.prompts.tokens.bos
    return [] if bos is None else [bos]


def prompts(query: Ids, items: Sequence[Ids], item_first: bool = False) -> list[Prompt]:
    """One prompt an item: the query and the item, or the item and the query. None may be empty."""
    if item_first:
        return [_prompt((), (*item, *query)) for item in items]
    prefix = tuple(query)
    return [_prompt(prefix, tuple(item)) for item in items]


def score_tokens(llm: Llm, asked: Sequence[Prompt], deadline: float | None) -> Future[list[Answer]]:
    """P(Yes) after each prompt, of the two answers. `deadline` as in `LlmBackend.submit`."""
    return llm.backend.submit(asked, deadline)


def _prompt(prefix: tuple[int, ...], suffix: tuple[int, ...]) -> Prompt:
    if 0 < len(suffix) <= MOST_AT_ONCE:
        return Prompt(prefix, suffix)
    whole = prefix + suffix
    return Prompt(whole[:-1], whole[-1:])
