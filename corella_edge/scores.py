"""Scores of one request, column by column, and their JSON form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from corella_edge.fusion import REPLACE, Fusion, fuse
from corella_edge.request import Request

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Trace:
    """What one request cost, for those who look into it.

    Attributes:
        seconds: by step, in the order they happened: "encode", "crm", "prompt" (texts to tokens, and asking), "queue"
            (waiting for the LLM), "prefill".
        evaluated, reused: prompt tokens the LLM computed, and took from kept or shared prefixes.
        threshold: in nats; infinite = the LLM is never asked.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0
    reused: int = 0
    threshold: float = math.inf


@dataclass(frozen=True, slots=True)
class Scores:
    """What was found out about the n candidates of one request, in request order.

    Attributes:
        items: n item ids.
        crm: float64 [n], P(label = 1) by the CRM.
        llm: float64 [n], P(Yes) by the LLM; NaN where it was not asked or did not answer.
        entropy: float64 [n], nats, binary entropy of `crm`.
        routed: bool [n], True where the LLM's score counts in `probability`.
        reason: n texts: why a row was routed ("entropy", "ratio") or why the LLM did not answer although the
            router chose the row (docs/serving.md lists them); "" for easy rows.
        unknown: n tuples, the names of the fields whose value the CRM has never seen.
        trace: what it cost; not part of what was found out.
        fusion: what makes one probability of both models' where routed.
    """

    items: Sequence[str]
    crm: FloatArray
    llm: FloatArray
    entropy: FloatArray
    routed: BoolArray
    reason: Sequence[str]
    unknown: Sequence[tuple[str, ...]]
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    fusion: Fusion = REPLACE

    @property
    def probability(self) -> FloatArray:
        """float64 [n]: what the fusion rule makes of both scores where routed, else the CRM's."""
        return fuse(self.crm, self.llm, self.routed, self.fusion)

    @property
    def rank(self) -> npt.NDArray[np.int64]:
        """int64 [n]: 1 = highest probability; equal probabilities keep request order."""
        return _rank(self.probability)


def _rank(probability: FloatArray) -> npt.NDArray[np.int64]:
    order = np.argsort(-probability, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def answer(request: Request, scores: Scores, bundle: str) -> dict[str, Any]:
    """`answer_json`, decoded."""
    found: dict[str, Any] = msgspec.json.decode(answer_json(request, scores, bundle))
    return found


def answer_json(request: Request, scores: Scores, bundle: str) -> bytes:
    """The JSON answer to `request`: candidates in request order, cut to the `top_k` best by rank.

    Written column by column, and put together at once: no candidate has an object of its own.
    """
    rank = scores.rank
    by_crm = _rank(scores.crm) if request.explain else None
    head = b"{" if request.id is None else b'{"id":' + encode(request.id) + b","
    tail = b"}" if by_crm is None else b',"explain":' + encode(_explained(scores)) + b"}"
    if request.top_k is not None and request.top_k < len(rank):
        best = np.flatnonzero(rank <= request.top_k)
        scores, rank, by_crm = _only(scores, best), rank[best], None if by_crm is None else by_crm[best]
    rows = b"".join(_interleaved(_columns(scores, rank, by_crm), len(rank)))
    return b"".join([head, b'"bundle":', encode(bundle), b',"candidates":[', rows[:-1], b"]", tail])


def _columns(scores: Scores, rank: Places, by_crm: Places | None) -> list[Sequence[bytes] | bytes]:
    """What stands one behind the other in each row, of all rows or the same in every one."""
    crm = _split(scores.crm)
    # Where the LLM has no part, one text serves for both scores.
    alone = not scores.routed.any()
    llm: Sequence[bytes] | bytes = b"null" if alone else _split(scores.llm)
    return [
        b'{"item":"', _texts(scores.items), b'","rank":', _split(rank),
        b',"probability":', crm if alone else _split(scores.probability), b',"crm":', crm, b',"llm":', llm,
        b',"entropy":', _split(scores.entropy), _ends(scores),
        *((b',"crm_rank":', _split(by_crm)) if by_crm is not None else ()), b"},",
    ]  # fmt: skip


def _interleaved(columns: Sequence[Sequence[bytes] | bytes], n: int) -> list[bytes]:
    """First of every column the first entry, then of every column the second, …"""
    width = len(columns)
    pieces = [b""] * (width * n)
    for place, column in enumerate(columns):
        pieces[place::width] = [column] * n if isinstance(column, bytes) else column
    return pieces


def _split(values: npt.NDArray[Any]) -> list[bytes]:
    """Each number in its shortest digits; NaN is null."""
    return encode(values.tolist())[1:-1].split(b",") if len(values) else []


def _texts(values: Sequence[str]) -> list[bytes]:
    """Each without its quotation marks."""
    text = encode(values)
    if b"\\" in text or not values:  # one may have a quotation mark in it
        return [encode(value)[1:-1] for value in values]
    return text[2:-2].split(b'","')


def _ends(scores: Scores) -> list[bytes] | bytes:
    """Of each row: routed, reason, unknown. Of many rows few differ."""
    first = scores.unknown[0] if scores.unknown else ()
    if not any(scores.reason) and scores.unknown.count(first) == len(scores.unknown):
        return _end(False, "", first)
    return list(map(_end, scores.routed.tolist(), scores.reason, scores.unknown))


@lru_cache(1024)
def _end(routed: bool, reason: str, unknown: tuple[str, ...]) -> bytes:
    fields = encode({"routed": routed, "reason": reason, "unknown": unknown})
    return b"," + fields[1:-1]


def _only(scores: Scores, places: Places) -> Scores:
    """Of the candidates at the places alone; what `_explained` tells is of all."""
    listed = places.tolist()
    items, reason, unknown = ([column[i] for i in listed] for column in (scores.items, scores.reason, scores.unknown))
    arrays = (array[places] for array in (scores.crm, scores.llm, scores.entropy, scores.routed))
    crm, llm, entropy, routed = arrays
    return Scores(items, crm, llm, entropy, routed, reason, unknown, scores.trace, scores.fusion)


def _explained(scores: Scores) -> dict[str, Any]:
    trace = scores.trace
    return {
        "explain": {
            "threshold": trace.threshold if math.isfinite(trace.threshold) else None,
            "wanted": sum(map(bool, scores.reason)),
            "routed": int(scores.routed.sum()),
            "tokens": {"evaluated": trace.evaluated, "reused": trace.reused},
            "milliseconds": {name: round(1000.0 * seconds, 3) for name, seconds in trace.seconds.items()},
        }
    }
