"""Texts or token ids → prompts, without users, items or a CRM: what `POST /v1/score` asks the LLM."""

from __future__ import annotations

from collections.abc import Sequence

from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.contract.messages import Prompt, Prompts

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


def prompts(query: Ids, items: Sequence[Ids], item_first: bool = False, whole: bool = False) -> Prompts:
    """One prompt an item: the query and the item, or the item and the query. None may be empty.

    `whole` as in `Prompt`.
    """
    if item_first:
        return Prompts.of([_prompt((), (*item, *query), whole) for item in items])
    prefix = tuple(query)
    return Prompts.of([_prompt(prefix, tuple(item), whole) for item in items])


def cost(query: Ids, items: Sequence[Ids], item_first: bool = False) -> int:
    """Tokens of the `prompts`, at most: a query in front of short items counts once."""
    own = sum(map(len, items))
    if item_first:
        return own + len(items) * len(query)
    alone = sum(not 0 < len(item) <= MOST_AT_ONCE for item in items)
    return own + len(query) * (alone + (alone < len(items)))


def _prompt(prefix: tuple[int, ...], suffix: tuple[int, ...], whole: bool) -> Prompt:
    if 0 < len(suffix) <= MOST_AT_ONCE:
        return Prompt(prefix, suffix, whole)
    ids = prefix + suffix
    return Prompt(ids[:-1], ids[-1:], whole)
