"""The body of `POST /v1/score`: SGLang's fields, strictly."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from corella_edge.adapters import AdapterWeights, OneAdapter
from corella_edge.errors import InputError
from corella_edge.formats.strict_json import JsonError
from corella_edge.messages import read, shown
from corella_edge.request_message import MAX_CANDIDATES

MAX_ITEMS = MAX_CANDIDATES
MAX_MS = 600_000.0
MAX_IDS = 2**31  # above any vocabulary; the LLM that is asked has its own bound
# Fields of SGLang for features that are not offered; the values that switch them off are accepted.
NOT_HERE = (
    "embed_override_token_id", "query_embed_overrides", "item_embed_overrides", "return_pooled_hidden_states",
)  # fmt: skip


TokenId = Annotated[int, Meta(ge=0, lt=MAX_IDS)]
Milliseconds = Annotated[float, Meta(ge=0, le=MAX_MS)]
NotOffered = Annotated[Any, Meta(description="Not offered.", extra_json_schema={"enum": [None, False]})]


class ScoreRequest(Struct, forbid_unknown_fields=True):
    """SGLang's fields, and which adapters of the LLM are asked."""

    query: Annotated[str | list[TokenId], Meta(description="Text, or token ids taken as they are.")]
    items: Annotated[
        str | Annotated[list[str | list[TokenId]], Meta(max_length=MAX_ITEMS)],
        Meta(description="Of the same kind as the query. A text alone is a list of one."),
    ]
    label_token_ids: Annotated[
        list[TokenId] | None,
        Meta(description="Of the bundle's two answers, one or both in any order. Left out: yes, no."),
    ] = None
    apply_softmax: Annotated[
        bool, Meta(description="Over the labels; false, as when it is left out: over the whole vocabulary.")
    ] = False
    item_first: Annotated[bool, Meta(description="The item before the query.")] = False
    model: Annotated[str, Meta(description="Repeated in the answer.")] = "default"
    timeout_ms: Milliseconds | None = None
    adapter: OneAdapter = UNSET
    adapters: AdapterWeights = UNSET
    embed_override_token_id: NotOffered = None
    query_embed_overrides: NotOffered = None
    item_embed_overrides: NotOffered = None
    return_pooled_hidden_states: NotOffered = None


def parse_question(body: bytes) -> ScoreRequest:
    """The question in `body`, its items a list of texts or of lists of token ids, as the query is.

    Raises:
        JsonError: not strict JSON. InputError: JSON, but not a question; the message names the field.
    """
    try:
        message = read(body, ScoreRequest, "request")
    except JsonError as error:
        raise JsonError(f"body: {error}") from None
    for name in NOT_HERE:
        if getattr(message, name) is not None and getattr(message, name) is not False:
            raise InputError(f"{name}: not offered here")
    message.items = _items(message.query, message.items)
    return message


def milliseconds(value: float, where: str) -> float:
    """A time from 0 to `MAX_MS`."""
    if not 0 <= value <= MAX_MS:
        raise InputError(f"{where}: expected milliseconds from 0 to {MAX_MS:g}, got {shown(value)}")
    return value


def _items(query: str | list[int], items: str | list[str | list[int]]) -> list[str | list[int]]:
    given: list[Any] = [items] if isinstance(items, str) else items
    wrong = next((i for i, item in enumerate(given) if type(item) is not type(query)), None)
    if wrong is not None or (isinstance(items, str) and not isinstance(query, str)):
        wanted = "text" if isinstance(query, str) else "a list of token ids"
        place = "items" if isinstance(items, str) else f"items[{wrong}]"
        raise InputError(f"{place}: expected {wanted}, as the query is, got {shown(given[wrong or 0])}")
    return given
