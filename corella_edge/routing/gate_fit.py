"""Fits the learned gate on asked rows, and says whether it is better than the entropy on later ones.

Kind and strength are chosen by the gain that out-of-fold values have on the fitting rows, folds being of users. Whether
the gate is taken is told by later rows alone: at the same share, its gain in log-loss over the entropy's, with an
interval over users.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.metrics import Bootstrap, Interval, Sampled, row_loss, sampled_auc, sampled_mean
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.gate import INPUTS, KINDS, Gate, doubt_and_logit, table
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import sigmoid
from corella_edge.routing.measure import BY_ENTROPY, Floats, Inputs, Measure, entropy

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
SHARES = (0.05, 0.1, 0.2)
STRENGTHS = (0.001, 0.1)  # of the penalty a row, of columns of variance 1
FOLDS = 5
ENOUGH_ROWS, ENOUGH_USERS = 500, 20  # asked rows of either part
DRAWS = 2000


@dataclass(frozen=True)
class AnsweredRows:
    """Rows with an answer of the LLM, [n] each.

    Attributes:
        p: the base model's probability.
        before, after: the final one without asking, and with it.
        label: 0 or 1. user: number of the user, from 0.
        inputs: those of `gate.INPUTS` that the log has.
        weight: how many rows one stands for, in the mean 1; None = one each.
    """

    p: Floats
    before: Floats
    after: Floats
    label: Floats
    user: Ints
    inputs: Inputs
    weight: Floats | None = None

    @classmethod
    def of(cls, rows: LabelledRows, rule: Fusion) -> AnsweredRows:
        """Of the rows that were asked.

        Raises:
            InputError: too few of them, or of their users; says how many it takes.
        """
        known = rows.known
        names, user = np.unique(rows.user[known], return_inverse=True)
        if known.sum() < ENOUGH_ROWS or len(names) < ENOUGH_USERS:
            raise InputError(
                f"a gate takes {ENOUGH_ROWS} rows that the LLM was asked about, of {ENOUGH_USERS} users, to fit it and "
                f"as many later ones to judge it; here are {known.sum()} of {len(names)} users"
            )
        part = rows.take(known)
        after = rule(part.crm, part.llm, part.inputs)
        inputs = {name: part.inputs[name] for name in INPUTS if name in part.inputs}
        each = part.weight
        weight = None if each.min() == each.max() else each / each.mean()
        return cls(part.crm, rule.alone(part.crm), after, part.label, user.astype(np.int64), inputs, weight)

    @property
    def benefit(self) -> Floats:
        """float64 [n], nats: log-loss without asking minus log-loss with it."""
        return row_loss(self.before, self.label) - row_loss(self.after, self.label)

    def take(self, rows: Mask | Ints) -> AnsweredRows:
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        weight = None if self.weight is None else self.weight[rows]
        columns = (self.p[rows], self.before[rows], self.after[rows], self.label[rows])
        return AnsweredRows(*columns, self.user[rows], inputs, weight)

    @property
    def each(self) -> Floats:
        """float64 [n], the weights."""
        return np.ones(len(self.p)) if self.weight is None else self.weight


@dataclass(frozen=True, slots=True)
class Versus:
    """The gate against the entropy at one share of the asked rows; every figure is a mean over all of these.

    Attributes:
        gate, entropy: log-loss that asking saves, in nats.
        gain: the gate's minus the entropy's, paired.
        auc: the same difference of the routed system's AUC.
    """

    share: float
    gate: Interval
    entropy: Interval
    gain: Interval
    auc: Interval


@dataclass(frozen=True, slots=True)
class Learned:
    """A fitted gate, and what later rows say of it.

    Attributes:
        gate: fitted on all fitting rows.
        forms: (kind, strength, out-of-fold gain in nats) of what was tried.
        versus: at each share.
        gain: over all shares together, in nats: the figure that decides.
    """

    gate: Gate
    forms: tuple[tuple[str, float, float], ...]
    versus: tuple[Versus, ...]
    gain: Interval

    @property
    def form(self) -> tuple[str, float, float]:
        """The one that was fitted."""
        return max(self.forms, key=lambda form: form[2])

    @property
    def better(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.gain.low > 0.0

    @property
    def measure(self) -> Measure:
        """What is to be used: the gate where it is better, else the entropy."""
        return self.gate if self.better else BY_ENTROPY

    def text(self) -> str:
        """One sentence for people."""
        shares = ", ".join(f"{100 * one.share:g} %" for one in self.versus)
        figure = f"{self.gain.value:+.5f} [{self.gain.low:+.5f}, {self.gain.high:+.5f}] nats a row"
        said = f"the gate ({self.gate.kind}) saves {figure} more log-loss than the entropy, over the shares {shares}"
        return f"{said}: it is taken" if self.better else f"{said}: not better, so the entropy stays"


def learn(
    rows: AnsweredRows,
    later: AnsweredRows,
    rng: np.random.Generator,
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
) -> Learned:
    """A gate fitted on `rows` and judged on `later` ones, at these shares of the asked rows.

    Raises:
        InputError: no row in which an answer makes a difference.
    """
    needs = usable(rows.inputs)
    forms = tuple(_tried(rows, needs, folds(rows, rng), shares, rng))
    kind, strength, _ = max(forms, key=lambda form: form[2])
    gate = fit(kind, rows.p, rows.benefit, rows.inputs, needs, strength, rows.weight)
    return Learned(gate, forms, *judged(gate, later, shares, rng, draws))


def folds(rows: AnsweredRows, rng: np.random.Generator) -> Ints:
    """int64 [n]: to which of `FOLDS` each row belongs; a user's rows stay together."""
    found: Ints = rng.permutation(int(rows.user.max()) + 1)[rows.user] % FOLDS
    return found


def _tried(
    rows: AnsweredRows, needs: Sequence[str], fold: Ints, shares: Sequence[float], rng: np.random.Generator
) -> Iterator[tuple[str, float, float]]:
    """Every kind and strength, with the mean benefit that its out-of-fold values choose."""
    benefit, draw = rows.benefit * rows.each, rng.random(len(rows.p))
    for kind in KINDS:
        for strength in STRENGTHS:
            values = out_of_fold(rows, kind, strength, needs, fold)
            yield (
                kind,
                strength,
                float(np.mean([benefit[first(values, share, draw, rows.weight)].sum() for share in shares])),
            )


def out_of_fold(rows: AnsweredRows, kind: str, strength: float, needs: Sequence[str], fold: Ints) -> Floats:
    """float64 [n]: each row's value by a gate that was fitted without the rows of its fold.

    A fold is put on the scale of the others by its rank among its own rows: gates of different folds have different
    constants.
    """
    values, benefit = np.zeros(len(rows.p)), rows.benefit
    for number in np.unique(fold).tolist():
        here = fold == number
        rest, own = rows.take(~here), rows.take(here)
        gate = fit(kind, rest.p, benefit[~here], rest.inputs, needs, strength, rest.weight)
        values[here] = np.argsort(np.argsort(gate(own.p, own.inputs), kind="stable")) / here.sum()
    return values


def first(values: Floats, share: float, draw: Floats, weight: Floats | None = None) -> Mask:
    """bool [n]: the share of the rows that has the highest values, exact to one row; of equal ones those drawn lowest.
    With weights, float64 [n], the share is of what the rows stand for."""
    chosen, order = np.zeros(len(values), np.bool_), np.lexsort((draw, -values))
    count = round(share * len(values))
    if weight is not None:
        mass = np.cumsum(weight[order])
        count = int(np.searchsorted(mass - weight[order] / 2, share * mass[-1]))
    chosen[order[:count]] = True
    return chosen


def judged(
    gate: Gate, rows: AnsweredRows, shares: Sequence[float], rng: np.random.Generator, draws: int
) -> tuple[tuple[Versus, ...], Interval]:
    """The gate against the entropy on rows that it was not fitted on: at each share, and over all shares together."""
    bootstrap = Bootstrap(rows.user, draws, int(rng.integers(2**31)))
    draw, benefit = rng.random(len(rows.p)), rows.benefit
    values, doubt = gate(rows.p, rows.inputs), entropy(rows.p)
    found, both = [], []
    for share in shares:
        chosen, usual = (first(one, share, draw, rows.weight) for one in (values, doubt))
        ours, theirs = (sampled_mean(benefit * mask, bootstrap, rows.weight) for mask in (chosen, usual))
        auc = _auc(rows, chosen, bootstrap).gain(_auc(rows, usual, bootstrap))
        found.append(Versus(share, ours.interval(), theirs.interval(), ours.gain(theirs), auc))
        both.append(benefit * (chosen.astype(np.float64) - usual))
    return tuple(found), sampled_mean(np.mean(both, axis=0), bootstrap, rows.weight).interval()


def _auc(rows: AnsweredRows, chosen: Mask, bootstrap: Bootstrap) -> Sampled:
    return sampled_auc(np.where(chosen, rows.after, rows.before), rows.label, bootstrap, rows.weight)


def usable(inputs: Inputs) -> tuple[str, ...]:
    """Of a log's inputs those that a gate can learn from: known at serving, and not the same in every row."""
    return tuple(name for name in INPUTS if name != "age" and name in inputs and _varies(inputs[name]))


def _varies(values: Floats) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and bool(known.min() < known.max())


def fit(
    kind: str, p: Floats, benefit: Floats, inputs: Inputs, needs: Sequence[str], strength: float = STRENGTHS[0],
    weight: Floats | None = None,
) -> Gate:  # fmt: skip
    """A gate from rows that were asked.

    Args:
        kind: see `Gate`. p: float64 [n], the base model's probabilities.
        benefit: float64 [n], log-loss without asking minus log-loss with it.
        inputs: float64 [n] by name; those that the gate `needs` are looked at.
        strength: of the penalty on the squared weights of columns of variance 1, a row.
        weight: float64 [n], how many rows one stands for; None = one each.

    Raises:
        InputError: no row, or none whose benefit is not 0.
    """
    if not np.any(benefit):
        raise InputError("a gate needs labelled rows in which the LLM's answer makes a difference")
    fill = tuple(_means(inputs, needs))
    x = _columns(p, inputs, needs, fill)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-9 * np.maximum(1.0, np.abs(centre))] = np.inf  # a column that says nothing gets no weight
    z = np.hstack([np.ones((len(x), 1)), (x - centre) / scale])
    solve = _ridge if kind == "ridge" else _logistic
    constant, *slopes = solve(z, benefit, strength, np.ones(len(p)) if weight is None else weight).tolist()
    each = np.array(slopes) / scale
    return Gate(kind, tuple(needs), fill, (constant - float(centre @ each), *each.tolist()))


def _means(inputs: Inputs, needs: Sequence[str]) -> list[float]:
    """The mean of what is known of each input, in the form that weights are of."""
    if not needs:
        return []
    found: list[float] = np.nanmean(table(needs, inputs, [np.nan] * len(needs)), axis=1).tolist()
    return found


def _columns(p: Floats, inputs: Inputs, needs: Sequence[str], fill: Sequence[float]) -> Floats:
    """float64 [n, 3 + 2 k], in the order of the weights and without the constant."""
    s, at = doubt_and_logit(p)
    found = [s, at, at * at]
    for x in table(needs, inputs, fill) if needs else ():
        found += [x, s * x]
    return np.stack(found, axis=1)


def _penalty(columns: int, rows: int, strength: float) -> Floats:
    """On every weight but the constant's."""
    return np.diag(rows * np.r_[1e-9, np.full(columns - 1, strength)]).astype(np.float64, copy=False)


def _ridge(z: Floats, benefit: Floats, strength: float, each: Floats) -> Floats:
    """The least squares of the benefit; `each` float64 [n] is how much a row counts."""
    weighted = z * each[:, None]
    found = np.linalg.solve(weighted.T @ z + _penalty(z.shape[1], len(z), strength), weighted.T @ benefit)
    return np.asarray(found, np.float64)


def _logistic(z: Floats, benefit: Floats, strength: float, each: Floats, steps: int = 50) -> Floats:
    """The log-odds that the benefit is positive, by Newton's method; rows without benefit or harm do not count."""
    z, y, each = z[benefit != 0], benefit[benefit != 0] > 0, each[benefit != 0]
    penalty = _penalty(z.shape[1], len(z), strength)
    w = np.zeros(z.shape[1])

    def loss(w: Floats) -> float:
        at = z @ w
        return float((each * np.logaddexp(0.0, np.where(y, -at, at))).sum() + 0.5 * w @ penalty @ w)

    for _ in range(steps):
        p = sigmoid(z @ w)
        slope = z.T @ (each * (p - y)) + penalty @ w
        step = np.linalg.solve((z * (each * p * (1 - p))[:, None]).T @ z + penalty, slope)
        length, here = 1.0, loss(w)
        while length > 1e-6 and loss(w - length * step) > here:
            length /= 2
        w -= length * step
        if float(slope @ step) < 1e-9:
            break
    return w
