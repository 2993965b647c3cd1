"""What orders candidates by how much the LLM is wanted: measures of the base model's probability and of what is known.

The first is the binary entropy of the base model's probability.

CoReLLa (arXiv 2403.16378, inference): s = -p ln p - (1-p) ln(1-p); a sample whose s is at or above the
threshold is hard, and the LLM's score replaces the CRM's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError

LN2 = math.log(2.0)
NEVER = math.inf  # a threshold that no entropy reaches
# numpy takes arrays without dimensions faster than numbers.
_ONE, _MOST = np.array(1.0), np.array(LN2)
NO_ROWS, NO_VALUES = np.zeros(0, dtype=np.int64), np.zeros(0)
_LEAST, _LEAST_ABOVE = np.array(5e-324), np.array(math.nextafter(-1.0, 0.0))

Floats = npt.NDArray[np.float64]


def entropy(p: npt.ArrayLike) -> Floats:
    """Binary entropy in nats, elementwise, of probabilities in [0, 1]; 0 at the ends, ln 2 at 0.5."""
    p64 = np.asarray(p, dtype=np.float64)
    negative = -p64
    # 0 * log 0 is nan in floating point and 0 in the definition: the nearest number beside 0 stands for it.
    s: Floats = np.log(np.maximum(p64, _LEAST))
    s *= negative
    other: Floats = np.log1p(np.maximum(negative, _LEAST_ABOVE))
    other *= _ONE + negative
    s -= other
    bounded: Floats = np.minimum(s, _MOST)  # rounding may pass ln 2 by one ulp
    return bounded


def is_routed(s: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """bool, shape of `s`: the routing rule itself. `NEVER` routes nothing, 0 everything."""
    return np.greater_equal(s, threshold)


def routed_rows(p: Floats, threshold: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places int64 [m] of the probabilities float64 [n] that are routed, and their entropies float64 [m].

    Where nothing can be routed, no entropy is computed.
    """
    if threshold > LN2:
        return NO_ROWS, NO_VALUES
    s = entropy(p)
    rows = is_routed(s, threshold).nonzero()[0]
    return rows, s[rows]


Inputs = Mapping[str, Floats]
NO_INPUTS: Inputs = {}


class Measure(Protocol):
    """What orders candidates by how much the LLM is wanted: the larger, the rather it is asked.

    Attributes:
        name: as routing.json, reports and metrics write it.
        needs: names of the inputs that a call looks at.
        least: a value that no candidate is below: as a threshold it routes everything.
    """

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def least(self) -> float: ...

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        """float64 [n] of the base model's probabilities float64 [n] and of inputs float64 [n] by name.

        A value depends on its own row alone, unless the measure says otherwise; never on the order of the rows.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """What `parse_measure` reads: `name`, and what the measure is made with."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Entropy:
    """Binary entropy in nats (CoReLLa); with another `centre` than 0.5, of the probability whose log-odds are less by
    the centre's: the value is then greatest at the centre. Where positives are rare, that is the base rate."""

    centre: float = 0.5
    name: ClassVar[str] = "entropy"
    needs: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[float] = 0.0

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        return entropy(p if self.centre == 0.5 else centred(p, self.centre))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **({} if self.centre == 0.5 else {"centre": self.centre})}


@dataclass(frozen=True, slots=True)
class Margin:
    """0.5 - |p - centre|: nearness of the probability itself, 0.5 at the centre."""

    centre: float = 0.5
    name: ClassVar[str] = "margin"
    needs: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[float] = -0.5

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        near: Floats = 0.5 - np.abs(np.asarray(p, np.float64) - self.centre)
        return near

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **({} if self.centre == 0.5 else {"centre": self.centre})}


@dataclass(frozen=True, slots=True)
class Band:
    """min(p - low, high - p): 0 or more from `low` to `high`, both included; the greatest in the middle."""

    low: float
    high: float
    name: ClassVar[str] = "band"
    needs: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[float] = -1.0

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        p64 = np.asarray(p, np.float64)
        return np.minimum(p64 - self.low, self.high - p64)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How far the base model's order is from the LLM's kept answers (after LSC4Rec, arXiv 2501.05647), from 0 to 1.

    Inputs: `kept` float64 [n], an LLM score of earlier, NaN = none; `request` float64 [n], numbers that tell requests
    apart (absent: all rows are one request's). Of m kept candidates of a request, the value is the difference of both
    ranks over m - 1, equal scores having their mean rank; 0 of a single one. A candidate without a kept answer has its
    entropy over ln 2, which has the same range: it could otherwise never get one.
    """

    name: ClassVar[str] = "disagreement"
    needs: ClassVar[tuple[str, ...]] = ("kept",)
    least: ClassVar[float] = 0.0

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        p64 = np.asarray(p, np.float64)
        kept = np.asarray(inputs["kept"], np.float64)
        request = np.asarray(inputs.get("request", np.zeros(len(p64))))
        known = ~np.isnan(kept)
        found = entropy(p64) / LN2
        found[known] = _rank_gap(p64[known], kept[known], request[known])
        return found

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}


def _rank_gap(a: Floats, b: Floats, group: npt.NDArray[Any]) -> Floats:
    """float64 [n] in [0, 1]: the difference of the places of a row by `a` and by `b` within its group."""
    if not len(a):
        return np.zeros(0)
    _, number, sizes = np.unique(group, return_inverse=True, return_counts=True)
    gap: Floats = np.abs(_mean_ranks(a, number) - _mean_ranks(b, number))
    return gap / np.maximum(sizes[number] - 1, 1)


def _mean_ranks(values: Floats, number: npt.NDArray[np.int64]) -> Floats:
    """Places of `values` counted through all groups in turn; equal ones of a group have their mean place."""
    order = np.lexsort((values, number))
    v, g = values[order], number[order]
    first = np.r_[True, (v[1:] != v[:-1]) | (g[1:] != g[:-1])]
    run = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    ends = np.r_[starts[1:], len(v)]
    ranks = np.empty(len(v))
    ranks[order] = ((starts + ends - 1) / 2)[run]
    return ranks


def centred(p: npt.ArrayLike, centre: float) -> Floats:
    """float64 [n]: odds of p over odds of the centre, as probabilities: 0.5 at the centre, 0 and 1 stay."""
    p64 = np.asarray(p, np.float64)
    up = p64 * (1.0 - centre)
    moved: Floats = up / (up + (1.0 - p64) * centre)
    return moved


BY_ENTROPY = Entropy()
# A measure that routing.json may name: what is read besides the name. A new one is a new row.
MEASURES: dict[str, Callable[[Mapping[str, Any]], Measure]] = {
    Entropy.name: lambda data: _by_entropy(_centre(data)),
    Margin.name: lambda data: Margin(_centre(data)),
    Band.name: lambda data: Band(*_window(data)),
    Disagreement.name: lambda data: Disagreement(),
    "gate": lambda data: _gate(data),
}


def parse_measure(data: Any) -> Measure:
    """The object `measure` of routing.json; names that are not a measure's own are ignored.

    Raises:
        BundleError: names file and field.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: measure: expected an object")
    name = data.get("name")
    if not isinstance(name, str) or name not in MEASURES:
        raise BundleError(f"routing.json: measure.name: {repr(name)[:40]} is not one of {', '.join(MEASURES)}")
    return MEASURES[name](data)


def _gate(data: Mapping[str, Any]) -> Measure:
    """Imported where it is read: it is made of what is above."""
    from corella_edge.routing.gate import parse_gate

    return parse_gate(data)


def _by_entropy(centre: float) -> Entropy:
    """The one object that the engine's fast path knows, where it is that."""
    return BY_ENTROPY if centre == 0.5 else Entropy(centre)


def _centre(data: Mapping[str, Any]) -> float:
    centre = data.get("centre", 0.5)
    if type(centre) not in (int, float) or not 0.0 < centre < 1.0:
        raise BundleError("routing.json: measure.centre: expected a probability between 0 and 1")
    return float(centre)


def _window(data: Mapping[str, Any]) -> tuple[float, float]:
    ends: list[Any] = [data.get("low"), data.get("high")]
    low, high = (value if type(value) in (int, float) else math.nan for value in ends)
    if not 0.0 <= low <= high <= 1.0:
        raise BundleError("routing.json: measure: low and high: expected probabilities from 0 to 1, low not above high")
    return float(low), float(high)
