"""The learned gate: a measure that predicts how much asking would help, from what is known before anyone is asked.

What it predicts is the benefit, the log-loss of the base model's score minus that of the fused score, as in
Calibrate-Then-Delegate (arXiv 2604.14251): `ridge` predicts it in nats, `logistic` the log-odds that it is positive.
Both are linear in a few columns, so that a gate is a few numbers in routing.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.routing.fusion import logit
from corella_edge.routing.measure import NO_INPUTS, Floats, Inputs, entropy

KINDS = ("ridge", "logistic")


def _log(values: Floats) -> Floats:
    """ln(1 + x); below 0 there are no counts and no ages."""
    found: Floats = np.log1p(np.maximum(values, 0.0))
    return found


# The inputs beside the probability, and what is made of each; `crm_logit` needs no column, the probability says it.
INPUTS: Mapping[str, Callable[[Floats], Floats] | None] = {
    "popularity": None, "age": _log, "history": _log, "unknown": None, "text": None, "dispersion": None,
}  # fmt: skip
FIRST = 4  # columns of the probability alone: 1, entropy, logit, its square
_LEAST = -1e6
_MOST = 1e9  # of a number in routing.json


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
        s, at = entropy(p), logit(p)
        constant, of_s, of_l, of_square, *pairs = self.weights
        value: Floats = constant + at * (of_l + of_square * at)
        slope: Floats = np.full(len(s), of_s)
        for place, name in enumerate(self.needs):
            x = filled(name, inputs[name], self.fill[place])
            value += pairs[2 * place] * x
            slope += pairs[2 * place + 1] * x
        value += s * slope
        return np.maximum(value, _LEAST, out=value)

    def to_json(self) -> dict[str, Any]:
        """What `parse_gate` reads."""
        lists = {"inputs": list(self.needs), "fill": list(self.fill), "weights": list(self.weights)}
        return {"name": self.name, "kind": self.kind, **lists}


def filled(name: str, values: Floats, fill: float) -> Floats:
    """An input as a column, without nan."""
    made = INPUTS[name]
    x = values if made is None else made(values)
    return np.where(np.isnan(x), fill, x)


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
    needs: Sequence[str] = tuple(INPUTS),
) -> dict[str, Floats]:
    """What a gate looks at, of one request: float64 [n] by name. Logs for its fit are written by this function, too.

    Args:
        p: float64 [n], the base model's probabilities.
        history: events of the user. unknown: of each candidate the fields with a value that training has not seen.
        counts: float64 [n], training rows of each item; None = not known. text: 1 where the item has words, else 0.
        needs: the names to make. `age` is not known at serving so far: nan.
    """
    n = len(p)
    made: dict[str, Callable[[], Floats]] = {
        "popularity": lambda: _unknown(n) if counts is None else np.log1p(counts),
        "age": lambda: _unknown(n),
        "history": lambda: np.full(n, float(history)),
        "unknown": lambda: np.fromiter(map(len, unknown), np.float64, n),
        "text": lambda: _unknown(n) if text is None else text,
        "dispersion": lambda: np.full(n, _deviation(logit(p))),
    }
    return {name: made[name]() for name in needs}


def _unknown(n: int) -> Floats:
    return np.full(n, np.nan)


def _deviation(values: Floats) -> float:
    """The standard deviation, 0 without values; by hand in a third of the time of `std`."""
    if not len(values):
        return 0.0
    apart = values - values.sum() / len(values)
    return float(np.sqrt((apart * apart).sum() / len(values)))
