"""Which candidates can still change the k best: the LLM is not asked about those that it can move neither in nor out.

A candidate that may be asked has an interval that its final score lies in: that of the fusion rule for any answer at
all (`exact`), or one that held for most rows of a labelled log (`Reach`). The interval always holds the base model's
score, which stands where nobody is asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError, InputError
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.measure import NO_INPUTS, Floats, Inputs

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
BINS = 10
NEAR = 4  # places near the top for each of the k best, where the whole catalogue is ranked
MISS = 0.1  # of the rows, by default; docs/routing.md has the curve
_MOST = 100  # bins of a file


@dataclass(frozen=True, slots=True, eq=False)
class Weighting:
    """What ranks candidates where accuracy is not all: weight · score + bonus.

    Attributes:
        weight: float64 [n], at least 0 (a price, a margin); or one number for all.
        bonus: float64 [n], any number (of a new or rarely shown item); likewise.
    """

    weight: Floats | float = 1.0
    bonus: Floats | float = 0.0

    def __call__(self, score: Floats) -> Floats:
        """float64 [n] of scores float64 [n]; never falls as a score rises."""
        return self.weight * score + self.bonus

    def at(self, places: Ints) -> Weighting:
        """Of the candidates at these places."""
        weight, bonus = (one if isinstance(one, float) else one[places] for one in (self.weight, self.bonus))
        return Weighting(weight, bonus)


UNWEIGHTED = Weighting()  # the score itself


@dataclass(frozen=True, slots=True)
class Reach:
    """How far asking moves the final score of a candidate, in logits, by the logit of its score when nobody is asked.

    That is the base model's, mapped where the bundle has maps.

    Attributes:
        edges: rising logits between the bins, one less than there are bins.
        down, up: the least and the greatest move of each bin; the first is at most 0 and the second at least 0.
        miss: the share of rows whose score may move further.
    """

    edges: tuple[float, ...]
    down: tuple[float, ...]
    up: tuple[float, ...]
    miss: float

    @classmethod
    def fit(cls, alone: Floats, fused: Floats, miss: float = MISS, bins: int = BINS) -> Reach:
        """From the final scores float64 [n] of rows that were asked, before and after.

        Split conformal prediction, bin by bin (arXiv 2107.07511, sections 1 and 4.1): a new row's score lies in its
        interval with probability at least 1 - `miss`, if rows are exchangeable. Bins hold about equal mass; there are
        fewer than `bins` where the rows are few.

        Raises:
            InputError: a miss outside (0, 1), or too few rows for it; says how many it takes.
        """
        least = cls.least(miss)
        if len(alone) < least:
            raise InputError(
                f"the reach of a score at miss {miss:g} takes {least} asked rows, and there are {len(alone)}"
            )
        at, move = logit(alone), logit(fused) - logit(alone)
        number = max(1, min(bins, len(at) // (2 * least)))
        edges = np.unique(np.sort(at)[np.arange(1, number) * len(at) // number])
        place = np.searchsorted(edges, at, side="right")
        moves = [np.sort(move[place == i]) for i in range(len(edges) + 1)]
        if min(map(len, moves)) < least:  # many equal scores: one interval for all
            edges, moves = edges[:0], [np.sort(move)]
        ends = [_ends(one, miss) for one in moves]
        return cls(tuple(edges.tolist()), tuple(d for d, _ in ends), tuple(u for _, u in ends), miss)

    @staticmethod
    def least(miss: float) -> int:
        """How many asked rows a fit takes. Raises InputError for a miss outside (0, 1)."""
        if not 0.0 < miss < 1.0:
            raise InputError(f"miss: {miss:g} is not between 0 and 1")
        return math.ceil(2.0 / miss) - 1

    def __call__(self, alone: Floats) -> tuple[Floats, Floats]:
        """The least and the greatest score after asking, float64 [n] each, of scores float64 [n] when nobody is."""
        at = logit(alone)
        place = np.searchsorted(np.array(self.edges), at, side="right")
        low, high = sigmoid(at + np.array(self.down)[place]), sigmoid(at + np.array(self.up)[place])
        return np.minimum(low, alone), np.maximum(high, alone)

    def to_json(self) -> dict[str, Any]:
        """What `parse_reach` reads."""
        return {"edges": list(self.edges), "down": list(self.down), "up": list(self.up), "miss": self.miss}


def _ends(moves: Floats, miss: float) -> tuple[float, float]:
    """The interval of sorted moves that a new one leaves with probability at most `miss`, widened to hold 0."""
    out = math.floor((len(moves) + 1) * miss / 2.0 + 1e-9)
    return min(0.0, float(moves[out - 1])), max(0.0, float(moves[len(moves) - out]))


def parse_reach(data: Any) -> Reach:
    """The object `reach` of routing.json.

    Raises:
        BundleError: names file and field.
    """
    if not isinstance(data, dict):
        raise BundleError("routing.json: reach: expected an object")
    edges, down, up = (_numbers(data.get(name), name) for name in ("edges", "down", "up"))
    miss = data.get("miss")
    if len(down) != len(edges) + 1 or len(up) != len(down):
        raise BundleError("routing.json: reach: down and up need one number more than edges has")
    if any(b <= a for a, b in pairwise(edges)) or max(down) > 0 or min(up) < 0:
        raise BundleError("routing.json: reach: edges must rise, no down may be above 0 and no up below 0")
    if not isinstance(miss, float) or not 0.0 < miss < 1.0:
        raise BundleError("routing.json: reach.miss: expected a number between 0 and 1")
    return Reach(edges, down, up, miss)


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    if isinstance(values, list) and len(values) <= _MOST and all(map(_is_logit, values)):
        return tuple(map(float, values))
    raise BundleError(f"routing.json: reach.{name}: expected at most {_MOST} numbers from -1,000 to 1,000")


def _is_logit(value: Any) -> bool:
    return type(value) in (int, float) and -1000.0 <= value <= 1000.0


def exact(rule: Fusion, crm: Floats, inputs: Inputs = NO_INPUTS) -> tuple[Floats, Floats]:
    """The least and the greatest final score that the rule can give whatever the LLM answers, or if it does not.

    Every rule rises or falls with the LLM's score, so both are at its ends. float64 [n] each.
    """
    ends = rule(crm, np.zeros_like(crm), inputs), rule(crm, np.ones_like(crm), inputs)
    alone = rule.alone(crm)
    return np.minimum(np.minimum(*ends), alone), np.maximum(np.maximum(*ends), alone)


def can_change(low: Floats, high: Floats, k: int, ordered: bool = True) -> Mask:
    """bool [n]: the candidates whose exact value is needed to know the `k` of highest value.

    Whatever the values of the others are within their intervals, the k best stay the same: as a list, or without
    `ordered` as a set. Equal values are told apart by place, so intervals that touch count as overlapping.

    Args:
        low, high: float64 [n], the ends of each candidate's interval; equal where its value is known.
    """
    n = len(low)
    if k < 1:
        return np.zeros(n, np.bool_)
    # k candidates are worth at least `sure`: one that cannot reach it is out. All but k are worth at most `rest`: one
    # that cannot fall to it is in.
    sure = np.partition(low, n - k)[n - k] if k < n else -math.inf
    rest = np.partition(high, n - k - 1)[n - k - 1] if k < n else -math.inf
    inside = high >= sure
    needed: Mask = inside & (low <= rest)
    if ordered:
        needed[inside] |= _overlapping(low[inside], high[inside])
    return needed & (high > low)


def _overlapping(low: Floats, high: Floats) -> Mask:
    """bool [n]: whether an interval meets another one."""
    order = np.argsort(low, kind="stable")
    starts, ends = low[order], np.maximum.accumulate(high[order])
    found = np.zeros(len(low), np.bool_)
    found[order[1:]] = ends[:-1] >= starts[1:]
    found[order[:-1]] |= high[order[:-1]] >= starts[1:]
    return found


def to_ask(
    p: Floats,
    chosen: Ints,
    reach: tuple[Floats, Floats],
    k: int,
    ordered: bool = True,
    value: Weighting = UNWEIGHTED,
) -> Mask:
    """bool [m]: which of the routed candidates can change the `k` best of a request.

    Args:
        p: float64 [n], the final scores if nobody is asked. chosen: int64 [m], the routed places.
        reach: float64 [m] twice, between which the final score of each of them lies.
        value: by which candidates are ranked.
    """
    low, high = p.copy(), p.copy()
    low[chosen], high[chosen] = reach
    return can_change(value(low), value(high), k, ordered)[chosen]


def open_places(
    p: Floats, chosen: Ints, k: int, reach: Reach | None, whole: bool, value: Weighting = UNWEIGHTED
) -> Mask:
    """bool [m]: which of the routed candidates of a request for the `k` best are asked about.

    Args:
        p: float64 [n], the final scores if nobody is asked. chosen: int64 [m], the routed places.
        reach: of the bundle; None = not known, then all are that `whole` leaves.
        whole: of a whole catalogue those alone that are `near_top`.
        value: by which candidates are ranked.
    """
    found = near_top(value(p), chosen, NEAR * k) if whole else np.ones(len(chosen), np.bool_)
    if reach is not None and found.any():
        places = chosen[found]
        found[found] = to_ask(p, places, reach(p[places]), k, value=value)
    return found


def near_top(value: Floats, chosen: Ints, most: int) -> Mask:
    """bool [m]: which of the `chosen` places are among the `most` highest values, float64 [n]; ties are in.

    Of a whole catalogue the LLM would be asked about thousands of items that no answer shows.
    """
    if most >= len(value):
        return np.ones(len(chosen), np.bool_)
    least = np.partition(value, len(value) - most)[len(value) - most]
    near: Mask = value[chosen] >= least
    return near
