"""The body of `POST /v1/score`, with SGLang's fields, as a `Question`, strictly."""

from __future__ import annotations

from dataclasses import dataclass

from corella_edge.errors import InputError
from corella_edge.request import MAX_CANDIDATES, an_object
from corella_edge.strict_json import JsonError, decode
from corella_edge_runtime.server.checks import a_flag, a_list, a_text, a_whole, shown

MAX_ITEMS = MAX_CANDIDATES
MAX_MS = 600_000.0
MAX_IDS = 2**31  # above any vocabulary; the LLM at hand has its own bound
# Fields of SGLang's that ask for what is not here; what a client sends who does not ask for it is accepted.
NOT_HERE = (
    "embed_override_token_id", "query_embed_overrides", "item_embed_overrides", "return_pooled_hidden_states",
)  # fmt: skip
FIELDS = ("query", "items", "label_token_ids", "apply_softmax", "item_first", "model", "timeout_ms", *NOT_HERE)


@dataclass(frozen=True, slots=True)
class Texts:
    """A query and items to be tokenised here."""

    query: str
    items: list[str]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A query and items as token ids, taken as they are."""

    query: list[int]
    items: list[list[int]]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be scored.

    Attributes:
        labels: the answers whose probabilities are wanted; None = both, yes first.
        softmax: over the labels alone, not the whole vocabulary.
    """

    asked: Texts | Tokens
    labels: list[int] | None
    softmax: bool
    item_first: bool
    model: str
    timeout_ms: float | None


def parse_question(body: bytes) -> Question:
    """The question in `body`.

    Raises:
        JsonError: not strict JSON. InputError: JSON, but not a question; the message names the field.
    """
    try:
        data = an_object(decode(body), "request", set(FIELDS))
    except JsonError as error:
        raise JsonError(f"body: {error}") from None
    for name in NOT_HERE:
        if data.get(name) is not None and data[name] is not False:
            raise InputError(f"{name}: not offered here")
    labels, timeout_ms = data.get("label_token_ids"), data.get("timeout_ms")
    return Question(
        _query_and_items(data.get("query"), data.get("items")),
        None if labels is None else _ids(labels, "label_token_ids"),
        a_flag(data.get("apply_softmax", False), "apply_softmax"),
        a_flag(data.get("item_first", False), "item_first"),
        a_text(data.get("model", "default"), "model"),
        None if timeout_ms is None else milliseconds(timeout_ms, "timeout_ms"),
    )


def milliseconds(value: object, where: str) -> float:
    """A time from 0 to `MAX_MS`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_MS:
        raise InputError(f"{where}: expected milliseconds from 0 to {MAX_MS:g}, got {shown(value)}")
    return float(value)


def _query_and_items(query: object, items: object) -> Texts | Tokens:
    if isinstance(query, str):
        texts = [items] if isinstance(items, str) else _many(items)
        return Texts(query, [a_text(text, f"items[{i}]") for i, text in enumerate(texts)])
    if isinstance(query, list):
        return Tokens(_ids(query, "query"), [_ids(ids, f"items[{i}]") for i, ids in enumerate(_many(items))])
    raise InputError(f"query: expected text or a list of token ids, got {shown(query)}")


def _many(items: object) -> list[object]:
    found = a_list(items, "items")
    if len(found) > MAX_ITEMS:
        raise InputError(f"items: {len(found)} entries, at most {MAX_ITEMS} are accepted")
    return found


def _ids(value: object, where: str) -> list[int]:
    found = a_list(value, where)
    # Kept free of formatted paths: there are many.
    wrong = next((i for i, token in enumerate(found) if type(token) is not int or not 0 <= token < MAX_IDS), None)
    if wrong is not None:
        a_whole(found[wrong], f"{where}[{wrong}]", MAX_IDS)
    return found
