"""The learned gate: a measure that predicts how much asking would help, from what is known before anyone is asked.

What it predicts is the benefit, the log-loss of the base model's score minus that of the fused score, as in
Calibrate-Then-Delegate (arXiv 2604.14251): `ridge` predicts it in nats, `logistic` the log-odds that it is positive.
Both are linear in a few columns, so that a gate is a few numbers in routing.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.metrics import EPSILON
from corella_edge.routing.measure import NO_INPUTS, Floats, Inputs

KINDS = ("ridge", "logistic")
# The inputs beside the probability; `crm_logit` needs no column, the probability says it.
INPUTS = ("popularity", "age", "history", "unknown", "text", "dispersion")
NEW_ITEM = "new_item"  # what no gate looks at and a fusion rule may; see `new_items`
MADE = (*INPUTS, NEW_ITEM)  # by `inputs_of`
LOGARITHMIC = ("age", "history")  # looked at as ln(1 + x); popularity is one already
FIRST = 4  # columns of the probability alone: 1, entropy, logit, its square
_LEAST = -1e6
_MOST = 1e9  # of a number in routing.json
# numpy takes arrays without dimensions faster than numbers.
_ZERO, _ONE, _LOW, _HIGH = np.array(0.0), np.array(1.0), np.array(EPSILON), np.array(1.0 - EPSILON)


@dataclass(frozen=True, slots=True)
class Gate:
    """A measure (`measure.Measure`) whose value is linear in the entropy s of the probability, its logit l, l squared,
    each input x, and s · x.

    Attributes:
        kind: "ridge": the value is a benefit in nats; "logistic": the log-odds that there is one.
        needs: the inputs.
        fill: what stands for an unknown input (nan), after its logarithm where it has one.
        weights: 4 of the probability's columns, then 2 an input: of x and of s · x.
    """

    kind: str
    needs: tuple[str, ...]
    fill: tuple[float, ...]
    weights: tuple[float, ...]
    name: ClassVar[str] = "gate"
    least: ClassVar[float] = _LEAST

    def __call__(self, p: Floats, inputs: Inputs = NO_INPUTS) -> Floats:
        """float64 [n]. Sums run column by column, so that no row's value depends on the others to the last bit."""
        s, at = doubt_and_logit(p)
        constant, of_s, of_l, of_square, *pairs = self.weights
        value: Floats = of_square * at
        value += of_l
        value *= at
        value += constant
        slope = np.empty(len(s))
        slope.fill(of_s)
        if self.needs:
            x = table(self.needs, inputs, self.fill)
            of_x = np.array(pairs)[:, None]
            for part, rise in zip(of_x[::2] * x, of_x[1::2] * x, strict=True):
                value += part
                slope += rise
        slope *= s
        value += slope
        return np.maximum(value, _LEAST, out=value)

    def to_json(self) -> dict[str, Any]:
        """What `parse_gate` reads."""
        lists = {"inputs": list(self.needs), "fill": list(self.fill), "weights": list(self.weights)}
        return {"name": self.name, "kind": self.kind, **lists}


def doubt_and_logit(p: Floats) -> tuple[Floats, Floats]:
    """Entropies in nats and log-odds, float64 [n] each, of probabilities clipped to [1e-7, 1 - 1e-7].

    `entropy` and `logit` in one: their logarithms are the same.
    """
    inside = np.minimum(np.maximum(p, _LOW), _HIGH)
    other = _ONE - inside
    of_p, of_other = np.log(inside), np.log(other)
    at: Floats = of_p - of_other
    of_p *= inside
    of_other *= other
    of_p += of_other
    return np.negative(of_p, out=of_p), at


def table(names: Sequence[str], inputs: Inputs, fill: Sequence[float]) -> Floats:
    """float64 [k, n]: an input a row, in the form that weights are of, without nan."""
    x = np.stack([inputs[name] for name in names])
    for row, name in zip(x, names, strict=True):
        if name in LOGARITHMIC:
            np.log1p(np.maximum(row, _ZERO, out=row), out=row)  # below 0 there are no counts and no ages
    unknown = np.isnan(x)
    if unknown.any():
        np.copyto(x, np.array(fill)[:, None], where=unknown)
    return x


def filled(name: str, values: Floats, fill: float) -> Floats:
    """One input as `table` has it, float64 [n]."""
    column: Floats = table((name,), {name: values}, (fill,))[0]
    return column


def parse_gate(data: Mapping[str, Any]) -> Gate:
    """The object `measure` of routing.json whose name is "gate".

    Raises:
        BundleError: names file and field.
    """
    kind, names = data.get("kind"), data.get("inputs")
    if kind not in KINDS:
        raise BundleError(f"routing.json: measure.kind: {repr(kind)[:40]} is not one of {', '.join(KINDS)}")
    if not isinstance(names, list) or not all(isinstance(n, str) and n in INPUTS for n in names):
        raise BundleError(f"routing.json: measure.inputs: expected a list of names among {', '.join(INPUTS)}")
    if len(set(names)) < len(names):
        raise BundleError("routing.json: measure.inputs: a name occurs twice")
    fill = _numbers(data, "fill", len(names))
    return Gate(kind, tuple(names), fill, _numbers(data, "weights", FIRST + 2 * len(names)))


def _numbers(data: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    values = data.get(name)
    good = isinstance(values, list) and all(type(v) in (int, float) and -_MOST <= v <= _MOST for v in values)
    if not good or len(values) != count:  # type: ignore[arg-type]
        raise BundleError(f"routing.json: measure.{name}: expected {count} numbers from -{_MOST:,.0f} to {_MOST:,.0f}")
    return tuple(map(float, values))  # type: ignore[arg-type]


def inputs_of(
    p: Floats,
    history: int,
    unknown: Sequence[Sequence[str]],
    counts: Floats | None = None,
    text: Floats | None = None,
    needs: Sequence[str] = INPUTS,
) -> dict[str, Floats]:
    """What a gate, or a fusion rule, looks at, of one request: float64 [n] by name. Logs for its fit are written by
    this function, too.

    Args:
        p: float64 [n], the base model's probabilities.
        history: events of the user. unknown: of each candidate the fields with a value that training has not seen.
        counts: float64 [n], training rows of each item; None = not known. text: 1 where the item has words, else 0.
        needs: the names to make, of `MADE`. `age` is not known at serving so far: nan.
    """
    n = len(p)
    made: dict[str, Callable[[], Floats]] = {
        "popularity": lambda: _same(n, np.nan) if counts is None else np.log1p(counts),
        "age": lambda: _same(n, np.nan),
        "history": lambda: _same(n, history),
        "unknown": lambda: np.fromiter(map(len, unknown), np.float64, n),
        "text": lambda: _same(n, np.nan) if text is None else text,
        "dispersion": lambda: _same(n, _deviation(doubt_and_logit(p)[1])),
        NEW_ITEM: lambda: new_items(unknown),
    }
    return {name: made[name]() for name in needs}


def new_items(unknown: Sequence[Sequence[str]]) -> Floats:
    """float64 [n]: 1 where a candidate's item is new, else 0. New is what has an id that no training row has; a base
    model that reads no ids has no new items.

    Args:
        unknown: of each candidate the fields with a value that training has not seen; "item" is the id.
    """
    return np.fromiter(("item" in names for names in unknown), np.float64, len(unknown))


def _same(n: int, value: float) -> Floats:
    """float64 [n] of one value; `np.full` takes five times as long for few rows."""
    column = np.empty(n)
    column.fill(value)
    return column


def _deviation(values: Floats) -> float:
    """The standard deviation, 0 without values; by hand in a third of the time of `std`."""
    n = len(values)
    if not n:
        return 0.0
    apart = values - np.add.reduce(values) / n
    apart *= apart
    return math.sqrt(np.add.reduce(apart) / n)
