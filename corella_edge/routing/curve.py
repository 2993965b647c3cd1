"""What asking the LLM about more and more candidates brings on held-out rows, and what it costs. Pure functions.

Beside the policy's line stand asking at random and asking where the labels show that it helps most (the oracle). The
area between the base model and the LLM that routing wins is RouteLLM's APGR (arXiv 2406.18665), with our metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from corella_edge.judge import Figures, Json, Judge, gains, interval, number, shown
from corella_edge.metrics import Bootstrap, Sampled, auc, row_loss, sampled_mean
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.labelled import Floats, LabelledRows, Mask
from corella_edge.routing.parts import unequal, usable, whole_requests

RANDOM_DRAWS = 5
FINE = tuple(np.linspace(0.0, 1.0, 51).tolist())  # shares among which the knee is looked for
Cost = Callable[[float, float], float]


def cut(values: Floats, share: float) -> float:
    """The value of the measure at or above which the `share` highest of the rows lie: inf for none, -inf for all.

    Rows of equal value go together; of two cuts beside the wanted number the nearer one is taken, so the realised share
    on these rows is exact to one row where no values are equal.
    """
    if share <= 0.0 or not len(values):
        return math.inf
    if share >= 1.0:
        return -math.inf
    levels, counts = np.unique(values, return_counts=True)
    above = np.cumsum(counts[::-1])[::-1]  # rows at or above each level
    nearest = int(np.argmin(np.abs(above - share * len(values))))
    return float(levels[nearest])


@dataclass(frozen=True)
class HeldOut:
    """Rows of known outcome, with the measure that orders them and what is answered if they are routed.

    Figures of quality are over the `usable` rows, each of which counts by the inverse of its propensity:
    self-normalised inverse propensity weights (Swaminathan & Joachims 2015, NeurIPS, section 3), the same for every
    share, so that gains are paired. Shares and work are of all rows, as the measure is known of each.

    Attributes:
        rows: all of them.
        values: the measure, float64 [n].
        rule: how both models' scores of a routed row become one.
    """

    rows: LabelledRows
    values: Floats
    rule: Fusion
    draws: int = 2000
    seed: int = 0

    @cached_property
    def judged(self) -> LabelledRows:
        """The rows that say what asking brings."""
        return self.rows.take(usable(self.rows))

    @cached_property
    def judged_values(self) -> Floats:
        return self.values[usable(self.rows)]

    @cached_property
    def weight(self) -> Floats | None:
        """float64 [m]: how many rows each judged one stands for; None = all for as many."""
        return unequal(self.judged)

    @cached_property
    def judge(self) -> Judge:
        """Requests of which only a part is judged are no lists: each such row is one for itself."""
        rows = self.judged
        whole = whole_requests(self.rows)[usable(self.rows)]
        lists = np.where(whole, np.unique(rows.request, return_inverse=True)[1], -1 - np.arange(len(rows)))
        return Judge(rows.label, rows.user, self.draws, self.seed, lists, self.weight)

    @cached_property
    def users(self) -> Bootstrap:
        """Draws of the users of all rows."""
        return Bootstrap(self.rows.user, self.draws, self.seed)

    @cached_property
    def routed(self) -> Floats:
        """float64 [m], of the judged rows: the answer if routed; the base model's where the LLM has none."""
        rows, known = self.judged, self.judged.known
        return fuse(rows.crm, rows.llm, known, self.rule, rows.inputs)

    @cached_property
    def alone(self) -> Floats:
        """float64 [m], of the judged rows: the answer if nothing is asked."""
        return self.rule.alone(self.judged.crm)

    @cached_property
    def base(self) -> Figures:
        """Of the base model's own scores, before any map: what every gain over the base model is over."""
        return self.judge(self.judged.crm)

    def mapped(self, chosen: Mask) -> Floats:
        """float64 [m]: the base model's scores behind the maps, those of the chosen rows as they enter the rule."""
        return np.where(chosen, self.rule.maps.crm(self.judged.crm), self.alone)

    @cached_property
    def helped(self) -> Floats:
        """float64 [m]: log-loss of the base model less that of the answer if routed, nats."""
        return row_loss(self.alone, self.judged.label) - row_loss(self.routed, self.judged.label)

    def chosen(self, threshold: float) -> Mask:
        """bool [m]: judged rows that the LLM is asked about."""
        return (self.judged_values >= threshold) & self.judged.known

    def answer(self, chosen: Mask) -> Floats:
        """float64 [m]: probabilities if these are routed."""
        return np.where(chosen, self.routed, self.alone)

    def mass(self, chosen: Mask) -> float:
        """How many rows the chosen ones, bool [m], stand for."""
        return float(chosen.sum() if self.weight is None else self.weight[chosen].sum())

    def share(self, threshold: float) -> Sampled:
        """The share of all rows at or above the threshold."""
        return sampled_mean((self.values >= threshold).astype(np.float64), self.users)

    def work(self, threshold: float) -> tuple[float, float]:
        """In the mean over requests: candidates that are asked about, and whether there is one (the share touched)."""
        answerable = self.rows.known | (self.rows.propensity < 1.0)
        _, request = np.unique(self.rows.request, return_inverse=True)
        asked = np.bincount(request, weights=(self.values >= threshold) & answerable)
        return float(asked.mean()), float((asked > 0).mean())


def point(held: HeldOut, threshold: float, cost: Cost | None = None) -> Json:
    """Everything that is known of one threshold: share, work, metrics with gains, and the random and oracle lines.

    `cost` gives milliseconds of so many asked candidates in so many touched requests.
    """
    chosen = held.chosen(threshold)
    figures = held.judge(held.answer(chosen))
    asked, touched = held.work(threshold)
    mass = held.mass(chosen)
    best = held.judge.points(held.answer(oracle(held, mass)))
    return {
        "threshold": number(threshold) if threshold > -math.inf else float(held.values.min()),
        "share": interval(held.share(threshold).interval()),
        "rows_asked": int(chosen.sum()),
        "asked_per_request": asked,
        "requests_touched": touched,
        "llm_ms": None if cost is None else cost(asked, touched),
        **shown(figures),
        "over_crm": gains(figures, held.base),
        "random": at_random(held, mass),
        "oracle": {name: number(value) for name, value in best.items()},
    }  # fmt: skip


def at_random(held: HeldOut, mass: float) -> dict[str, float | None]:
    """Every metric if answerable rows that stand for so many are asked about at random: the mean over several
    choices."""
    rng, answerable = np.random.default_rng(held.seed), np.flatnonzero(held.judged.known)
    found = []
    for _ in range(1 if mass in (0.0, held.mass(held.judged.known)) else RANDOM_DRAWS):
        found.append(held.judge.points(held.answer(_first(held, rng.permutation(answerable), mass))))
    return {name: number(float(np.mean([one[name] for one in found]))) for name in found[0]}


def oracle(held: HeldOut, mass: float) -> Mask:
    """bool [m]: of rows that stand for so many, those whose log-loss falls most by asking, labels known."""
    return highest(held, held.helped, mass)


def highest(held: HeldOut, values: Floats, mass: float) -> Mask:
    """bool [m]: of the judged rows with an answer of the LLM those of the highest values float64 [m], that stand for so
    many; of equal ones those drawn."""
    draw = np.random.default_rng(held.seed).random(len(values))
    return _first(held, np.lexsort((draw, np.where(held.judged.known, -values, np.inf))), mass)


def _first(held: HeldOut, order: npt.NDArray[np.int64], mass: float) -> Mask:
    """bool [m]: of the judged rows at these places the first, which stand for so many, exact to half a row."""
    chosen = np.zeros(len(held.judged), dtype=bool)
    each = np.ones(len(order)) if held.weight is None else held.weight[order]
    chosen[order[: np.searchsorted(np.cumsum(each) - each / 2, mass)]] = True
    return chosen


def curve(held: HeldOut, thresholds: Mapping[float, float], cost: Cost | None = None) -> list[Json]:
    """A `point` for each asked ratio and its threshold, in order."""
    return [{"ratio": ratio, **point(held, threshold, cost)} for ratio, threshold in thresholds.items()]


def won(held: HeldOut, thresholds: Sequence[float]) -> Json:
    """APGR by metric: the mean over shares of (routed - base) / (LLM - base), with its interval over users. Base:
    asking about nothing, behind the same maps.

    The integral over the realised share is by trapezoids between the thresholds, which must fall from never (inf) to
    always. Routing at random reaches about 0.5. Where the LLM, asked about everything, is not better than the base
    model, there is no such area: null, with the reason.
    """
    chosen = [held.chosen(threshold) for threshold in thresholds]
    shares = np.array([held.judge.mean(mask.astype(np.float64)) for mask in chosen])
    figures = [held.judge(held.answer(mask)) for mask in chosen]
    return {metric: _area(metric, shares / max(shares[-1], 1e-12), figures) for metric in held.judge.metrics}


def _area(metric: str, shares: Floats, figures: Sequence[Figures]) -> Json:
    crm, llm = figures[0][metric], figures[-1][metric]
    better = -1.0 if metric in ("logloss", "ece") else 1.0
    gap = Sampled(better * (llm.value - crm.value), better * (llm.draws - crm.draws))
    found = gap.interval()
    if not found.low > 0.0:
        return {"value": None, "low": None, "high": None, "gap": interval(found),
                "reason": "the LLM alone is not better than the base model"}  # fmt: skip
    width = np.diff(shares)
    weight = np.r_[width, 0.0] / 2 + np.r_[0.0, width] / 2
    value = better * (weight @ [one[metric].value for one in figures] - crm.value)
    draws = better * (weight @ np.stack([one[metric].draws for one in figures]) - crm.draws)
    part = np.divide(draws, gap.draws, out=np.full_like(draws, np.nan), where=gap.draws != 0.0)
    return {**interval(Sampled(value / gap.value, part).interval()), "gap": interval(found)}


def knee(held: HeldOut, shares: Sequence[float] = FINE) -> float | None:
    """The share after which more of the LLM brings less than its part: None if no share brings anything.

    Where the gain in AUC over the share is highest above the straight line from nothing to the best share (Satopää et
    al. 2011, Kneedle, for a concave curve). It is a choice, so it is made on rows that are not reported on.
    """
    asked = [held.chosen(cut(held.values, share)) for share in shares]
    gain = np.array([auc(held.answer(mask), held.judged.label, held.weight) for mask in asked])
    gain -= gain[0]
    best = int(np.nanargmax(gain)) if np.isfinite(gain).any() else 0
    if best == 0 or not gain[best] > 0.0:
        return None
    part = np.asarray(shares[: best + 1]) / shares[best]
    return float(shares[int(np.argmax(gain[: best + 1] / gain[best] - part))])
