"""How the CRM's and the LLM's probabilities of a routed row become one: `replace` (CoReLLa's), `blend`, `stack`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.routing.gate import INPUTS, NEW_ITEM, filled
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.maps import PLAIN, Maps, parse_maps
from corella_edge.routing.measure import NO_INPUTS, Inputs

Floats = npt.NDArray[np.float64]
Weights = tuple[float, float, float]

RULES = ("replace", "blend", "stack")
MAPPED = "mapped_"  # before a rule's name in routing.json where there are maps: releases without maps refuse it
EVEN: Weights = (0.0, 0.5, 0.5)
BY_ITEM = ("known_items", "new_items")  # weights in routing.json where both have their own
MOST = 1e6  # of a weight: sums stay finite, and a logistic regression comes nowhere near


@dataclass(frozen=True, slots=True)
class Beside:
    """What an input of the gate adds to the log-odds: weight · (x - fill), of x as the gate reads it; one that is
    unknown, or not there, adds nothing."""

    name: str
    fill: float
    weight: float


@dataclass(frozen=True, slots=True)
class Fusion:
    """A rule; `weights` (intercept, CRM's logit, LLM's logit), `beside` and `new_items` are there for `stack` alone.

    Attributes:
        maps: what both models' probabilities go through first.
        beside: inputs of the gate, in the sum of `stack`.
        new_items: the weights where the item is new (`gate.new_items`); None = the same. Where that is not known, the
            item counts as a known one. Not with `beside`.
    """

    rule: str = "replace"
    weights: Weights | None = None
    maps: Maps = PLAIN
    beside: tuple[Beside, ...] = ()
    new_items: Weights | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the inputs that a call looks at."""
        return tuple(part.name for part in self.beside) if self.new_items is None else (NEW_ITEM,)

    @property
    def deaf(self) -> bool:
        """Whether the LLM's score has no weight, whatever the item, or every score of its is mapped to one."""
        if np.ptp(self.maps.llm(np.array([0.0, 1.0]))) == 0.0:
            return True
        return self.weights is not None and not self.weights[2] and not (self.new_items and self.new_items[2])

    def __call__(self, crm: Floats, llm: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        """float64 [m] from both models' probabilities float64 [m], before any map, and the inputs float64 [m]."""
        if self.maps is not PLAIN:
            crm, llm = self.maps.crm(crm), self.maps.llm(llm)
        if self.rule == "replace":
            return llm
        intercept, of_crm, of_llm = self._weights(inputs)
        total = intercept + of_crm * logit(crm) + of_llm * logit(llm)
        for part in self.beside:
            if part.name in inputs:
                total += part.weight * (filled(part.name, inputs[part.name], part.fill) - part.fill)
        return sigmoid(total)

    def _weights(self, inputs: Inputs) -> Sequence[float | Floats]:
        """Three weights; each float64 [m] where new items have their own."""
        known = self.weights or EVEN
        if self.new_items is None or NEW_ITEM not in inputs:
            return known
        new = inputs[NEW_ITEM] > 0
        return [np.where(new, *pair) for pair in zip(self.new_items, known, strict=True)]

    def bounds(
        self, crm: float, llm: float, crm_apart: float, llm_apart: float, inputs: Inputs = NO_INPUTS
    ) -> tuple[float, float]:
        """The least and the greatest result for probabilities that are at most so far from the given ones.

        Every rule rises or falls with each model's score, so both are at corners. `inputs`: float64 [1] by name.
        """
        crms = np.clip([crm - crm_apart, crm + crm_apart], 0.0, 1.0).repeat(2)
        llms = np.tile(np.clip([llm - llm_apart, llm + llm_apart], 0.0, 1.0), 2)
        found = self(crms, llms, {name: values.repeat(4) for name, values in inputs.items()})
        return float(found.min()), float(found.max())

    def alone(self, crm: Floats) -> Floats:
        """float64 [n]: the final probability of rows that the LLM has not answered; not to be written to."""
        return crm if self.maps is PLAIN else self.maps.alone(crm)

    def mapped(self, crm: Floats, llm: Floats, chosen: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Both models' probabilities float64 [n] after the maps; bool [n]: where the LLM has answered."""
        return np.where(chosen, self.maps.crm(crm), self.maps.alone(crm)), self.maps.llm(llm)

    def to_json(self) -> dict[str, Any]:
        """What `parse_fusion` reads."""
        found: dict[str, Any] = {"rule": self.rule if self.maps is PLAIN else MAPPED + self.rule}
        if self.weights is not None:
            found["weights"] = list(self.weights)
        if self.weights is not None and self.new_items is not None:
            found["weights"] = dict(zip(BY_ITEM, map(list, (self.weights, self.new_items)), strict=True))
        if self.beside:
            found["weights"] += [part.weight for part in self.beside]
            found |= {"inputs": list(self.needs), "fill": [part.fill for part in self.beside]}
        return found if self.maps is PLAIN else found | {"maps": self.maps.to_json()}


REPLACE = Fusion()


def parse_fusion(data: Any) -> Fusion:
    """The object `fusion` of routing.json; other names describe the fit and are ignored.

    Raises:
        BundleError: names file and field.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: fusion: expected an object")
    name, weights = data.get("rule"), cast(Any, data.get("weights"))
    rule = name.removeprefix(MAPPED) if isinstance(name, str) else ""
    if rule not in RULES:
        raise BundleError(f"routing.json: fusion.rule: {repr(name)[:40]} is not one of {', '.join(RULES)}")
    maps = PLAIN if name == rule else parse_maps(data.get("maps"))
    if rule != "stack":
        if weights is not None:
            raise BundleError(f"routing.json: fusion.weights: {rule} takes no weights, only stack does")
        return Fusion(rule, None, maps)
    names = _inputs(data)
    if isinstance(weights, dict):
        return _by_item(weights, names, maps)
    if not _are_weights(weights, 3 + len(names)):
        raise _not_weights("weights", "three" if not names else str(3 + len(names)))
    fill: Any = data.get("fill", []) if names else []
    if not _are_weights(fill, len(names)):
        raise BundleError(f"routing.json: fusion.fill: expected a number for each of {', '.join(names)}")
    intercept, of_crm, of_llm, *others = map(float, weights)
    beside = tuple(Beside(*one) for one in zip(names, map(float, fill), others, strict=True))
    return Fusion(rule, (intercept, of_crm, of_llm), maps, beside)


def _by_item(weights: dict[str, Any], names: list[str], maps: Maps) -> Fusion:
    """`stack` with weights of their own for known and for new items."""
    if weights.keys() != {*BY_ITEM}:
        raise BundleError(f"routing.json: fusion.weights: expected a list, or an object of {' and '.join(BY_ITEM)}")
    if names:
        raise BundleError("routing.json: fusion.inputs: expected none where new items have weights of their own")
    for name in BY_ITEM:
        if not _are_weights(weights[name], 3):
            raise _not_weights(f"weights.{name}", "three")
    known, new = ((float(a), float(b), float(c)) for a, b, c in (weights[name] for name in BY_ITEM))
    return Fusion("stack", known, maps, new_items=new)


def _not_weights(name: str, count: str) -> BundleError:
    return BundleError(f"routing.json: fusion.{name}: expected {count} numbers from -{MOST:,.0f} to {MOST:,.0f}")


def _inputs(data: dict[str, Any]) -> list[str]:
    names = data.get("inputs", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name in INPUTS for name in names):
        raise BundleError(f"routing.json: fusion.inputs: expected a list of names among {', '.join(INPUTS)}")
    if len(set(names)) < len(names):
        raise BundleError("routing.json: fusion.inputs: a name occurs twice")
    return names


def _are_weights(values: Any, count: int) -> bool:
    """So many finite numbers within the bounds: NaN and what JSON writes as 1e999 are refused."""
    good = isinstance(values, list) and len(values) == count
    return good and all(type(value) in (int, float) and -MOST <= value <= MOST for value in values)


def fuse(crm: Floats, llm: Floats, chosen: npt.NDArray[np.bool_], rule: Fusion, inputs: Inputs = NO_INPUTS) -> Floats:
    """Final probabilities float64 [n]: the rule's on the chosen rows bool [n], on all others the CRM's, mapped where
    the rule has maps. `inputs`: float64 [n] by name, those that the rule needs."""
    p = np.array(rule.alone(crm), dtype=np.float64)
    if chosen.any():
        known = {name: inputs[name][chosen] for name in rule.needs if name in inputs}
        p[chosen] = rule(crm[chosen], llm[chosen], known)
    return p
