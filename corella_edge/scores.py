"""Scores of one request, column by column, and their JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.request import Request

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """What was found out about the n candidates of one request, in request order.

    Attributes:
        items: n item ids.
        crm: float64 [n], P(label = 1) by the CRM.
        llm: float64 [n], P(Yes) by the LLM; NaN where it was not asked or did not answer.
        entropy: float64 [n], nats, binary entropy of `crm`.
        routed: bool [n], True where `probability` is the LLM's.
        reason: n texts: why a row was routed ("entropy", "ratio") or why the LLM did not answer although the
            router chose the row ("no_llm", "no_text", "too_long", "deadline", "llm_error"); "" for
            easy rows.
        unknown: n tuples, the names of the fields whose value the CRM has never seen.
    """

    items: tuple[str, ...]
    crm: FloatArray
    llm: FloatArray
    entropy: FloatArray
    routed: BoolArray
    reason: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]

    @property
    def probability(self) -> FloatArray:
        """float64 [n]: the LLM's score where routed, else the CRM's (CoReLLa's `replace` rule)."""
        return np.where(self.routed, self.llm, self.crm)

    @property
    def rank(self) -> npt.NDArray[np.int64]:
        """int64 [n]: 1 = highest probability; equal probabilities keep request order."""
        order = np.argsort(-self.probability, kind="stable")
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
    return {**head, "bundle": bundle, "candidates": rows}
