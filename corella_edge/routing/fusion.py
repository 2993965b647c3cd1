"""How the CRM's and the LLM's probabilities of a routed row become one: `replace` (CoReLLa's), `blend`, `stack`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.metrics import EPSILON

Floats = npt.NDArray[np.float64]
Weights = tuple[float, float, float]

RULES = ("replace", "blend", "stack")
EVEN: Weights = (0.0, 0.5, 0.5)
MOST = 1e6  # of a weight: sums stay finite, and a logistic regression comes nowhere near


@dataclass(frozen=True, slots=True)
class Fusion:
    """A rule; `weights` (intercept, CRM's logit, LLM's logit) are there for `stack` alone."""

    rule: str = "replace"
    weights: Weights | None = None

    def __call__(self, crm: Floats, llm: Floats) -> Floats:
        """float64 [m] from both models' probabilities float64 [m]."""
        if self.rule == "replace":
            return llm
        intercept, of_crm, of_llm = self.weights or EVEN
        return sigmoid(intercept + of_crm * logit(crm) + of_llm * logit(llm))

    def bounds(self, crm: float, llm: float, crm_apart: float, llm_apart: float) -> tuple[float, float]:
        """The least and the greatest result for probabilities that are at most so far from the given ones.

        Every rule rises or falls with each model's score, so both are at corners.
        """
        crms = np.clip([crm - crm_apart, crm + crm_apart], 0.0, 1.0).repeat(2)
        llms = np.tile(np.clip([llm - llm_apart, llm + llm_apart], 0.0, 1.0), 2)
        found = self(crms, llms)
        return float(found.min()), float(found.max())

    def to_json(self) -> dict[str, Any]:
        """What `parse_fusion` reads."""
        return {"rule": self.rule} if self.weights is None else {"rule": self.rule, "weights": list(self.weights)}


REPLACE = Fusion()


def parse_fusion(data: Any) -> Fusion:
    """The object `fusion` of routing.json; other names describe the fit and are ignored.

    Raises:
        BundleError: names file and field.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: fusion: expected an object")
    rule, weights = data.get("rule"), data.get("weights")
    if not isinstance(rule, str) or rule not in RULES:
        raise BundleError(f"routing.json: fusion.rule: {repr(rule)[:40]} is not one of {', '.join(RULES)}")
    if rule != "stack":
        if weights is not None:
            raise BundleError(f"routing.json: fusion.weights: {rule} takes no weights, only stack does")
        return Fusion(rule)
    if not isinstance(weights, list) or len(weights) != 3 or not all(map(_is_weight, weights)):
        raise BundleError(f"routing.json: fusion.weights: expected three numbers from -{MOST:,.0f} to {MOST:,.0f}")
    intercept, of_crm, of_llm = map(float, weights)
    return Fusion(rule, (intercept, of_crm, of_llm))


def _is_weight(value: Any) -> bool:
    """A finite number within the bounds: NaN and what JSON writes as 1e999 are refused."""
    return type(value) in (int, float) and -MOST <= value <= MOST


def fuse(crm: Floats, llm: Floats, chosen: npt.NDArray[np.bool_], rule: Fusion) -> Floats:
    """Final probabilities float64 [n]: the rule's on the chosen rows bool [n], the CRM's on all others."""
    p = np.array(crm, dtype=np.float64)
    if chosen.any():
        p[chosen] = rule(crm[chosen], llm[chosen])
    return p


def logit(p: Floats) -> Floats:
    """Log-odds, of probabilities clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    odds: Floats = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(x: Floats) -> Floats:
    """The logistic function, without overflow."""
    half: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half
