"""Scores of one request, column by column, and their JSON form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.fusion import REPLACE, Fusion, fuse
from corella_edge.request import Request

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


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
        notes: what was odd about the request, beside its own notes.
    """

    items: tuple[str, ...]
    crm: FloatArray
    llm: FloatArray
    entropy: FloatArray
    routed: BoolArray
    reason: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    fusion: Fusion = REPLACE
    notes: tuple[str, ...] = ()

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
    """The JSON answer to `request`: candidates in request order, cut to the `top_k` best by rank."""
    rank = scores.rank.tolist()
    columns = zip(
        scores.items, rank, scores.probability.tolist(), scores.crm.tolist(), scores.llm.tolist(),
        scores.entropy.tolist(), scores.routed.tolist(), scores.reason, scores.unknown, strict=True,
    )  # fmt: skip
    limit = request.top_k or len(rank)
    rows = [
        {"item": item, "rank": place, "probability": p, "crm": crm, "llm": llm if llm == llm else None,
         "entropy": entropy, "routed": routed, "reason": reason, "unknown": list(unknown)}
        for item, place, p, crm, llm, entropy, routed, reason, unknown in columns
        if place <= limit
    ]  # fmt: skip
    head: dict[str, Any] = {} if request.id is None else {"id": request.id}
    notes = [*request.notes, *scores.notes]
    tail: dict[str, Any] = {"notes": notes} if notes else {}
    if request.explain:
        alone = (by_crm for by_crm, place in zip(_rank(scores.crm).tolist(), rank, strict=True) if place <= limit)
        rows = [{**row, "crm_rank": by_crm} for row, by_crm in zip(rows, alone, strict=True)]
        tail |= _explained(scores)
    return {**head, "bundle": bundle, "candidates": rows, **tail}


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
