"""Monotone maps of a model's probabilities, so that both speak of chances on one scale: what they do, as numbers.

Temperature and Platt scaling (Platt 1999; Guo et al., arXiv 1706.04599) are lines in log-odds, isotonic regression
(Zadrozny and Elkan 2002) is a rising polygon. How they are fitted is in `fit_maps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.routing.log_odds import logit, sigmoid

Floats = npt.NDArray[np.float64]
KINDS = ("none", "temperature", "platt", "isotonic")
MOST = 1e6  # of a slope or a shift: sums stay finite
MOST_CORNERS = 1000  # of an isotonic map


class Map(Protocol):
    """Probabilities float64 [n] → float64 [n] in [0, 1]; a larger one never gets a smaller value."""

    def __call__(self, p: Floats) -> Floats: ...
    def to_json(self) -> dict[str, Any]:
        """What `parse_map` reads."""
        ...


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """sigmoid(slope · logit(p) + shift), slope ≥ 0; a shift of 0 is temperature scaling by 1 / slope. That of slope 1
    and shift 0 gives p back, bit for bit."""

    slope: float = 1.0
    shift: float = 0.0

    def __call__(self, p: Floats) -> Floats:
        if self.slope == 1.0 and self.shift == 0.0:
            return p
        return sigmoid(self.slope * logit(p) + self.shift)

    def to_json(self) -> dict[str, Any]:
        if self == IDENTITY:
            return {"kind": "none"}
        if self.shift == 0.0:
            return {"kind": "temperature", "slope": self.slope}
        return {"kind": "platt", "slope": self.slope, "shift": self.shift}


@dataclass(frozen=True, slots=True)
class Steps:
    """The polygon through (xs[i], ys[i]), xs rising, ys not falling; level beyond both ends."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def __call__(self, p: Floats) -> Floats:
        found: Floats = np.interp(p, self.xs, self.ys)
        return found

    def to_json(self) -> dict[str, Any]:
        return {"kind": "isotonic", "from": list(self.xs), "to": list(self.ys)}


IDENTITY = PlattScaling()


@dataclass(frozen=True, slots=True)
class Maps:
    """The maps of a bundle.

    Attributes:
        crm, llm: of both models' probabilities where the LLM has answered, on their way into the fusion rule.
        alone: of the base model's, where its score stands alone.
    """

    crm: Map = IDENTITY
    llm: Map = IDENTITY
    alone: Map = IDENTITY

    def to_json(self) -> dict[str, Any]:
        """What `parse_maps` reads."""
        return {"crm": self.crm.to_json(), "llm": self.llm.to_json(), "alone": self.alone.to_json()}


PLAIN = Maps()


def parse_maps(data: Any) -> Maps:
    """The object `fusion.maps` of routing.json; a map that is not named is none.

    Raises:
        BundleError: names file and field.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: fusion.maps: expected an object")
    return Maps(*(parse_map(data.get(name, {"kind": "none"}), name) for name in ("crm", "llm", "alone")))


def parse_map(data: Any, name: str) -> Map:
    """One map. Raises BundleError."""
    where = f"routing.json: fusion.maps.{name}"
    if not isinstance(data, dict):
        raise BundleError(f"{where}: expected an object")
    kind = data.get("kind")
    if kind == "none":
        return IDENTITY
    if kind == "isotonic":
        return _steps(data.get("from"), data.get("to"), where)
    if kind not in KINDS:
        raise BundleError(f"{where}.kind: {repr(kind)[:40]} is not one of {', '.join(KINDS)}")
    slope, shift = data.get("slope", math.nan), data.get("shift", 0.0)
    if not (_number(slope, 0.0, MOST) and _number(shift, -MOST, MOST)):
        raise BundleError(f"{where}: expected a slope from 0 and a shift, no larger than {MOST:,.0f}")
    return PlattScaling(float(slope), float(shift))


def _steps(xs: Any, ys: Any, where: str) -> Steps:
    lists = isinstance(xs, list) and isinstance(ys, list) and 1 <= len(xs) == len(ys) <= MOST_CORNERS
    if not lists or not all(_number(value, 0.0, 1.0) for value in (*xs, *ys)):
        raise BundleError(f"{where}: from and to: expected lists of as many probabilities, at most {MOST_CORNERS}")
    if not (all(a < b for a, b in pairwise(xs)) and all(a <= b for a, b in pairwise(ys))):
        raise BundleError(f"{where}: from must rise, and to must not fall")
    return Steps(tuple(map(float, xs)), tuple(map(float, ys)))


def _number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high
