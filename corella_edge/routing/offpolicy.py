"""What another policy would have been worth, from a log of one that left some of it to chance.

A row's outcome is known whatever was asked; what may be missing is the LLM's score, and with it the loss that asking
would have had. It is known of a row with the chance that the log calls its propensity. Two estimators: inverse
propensity weighting, self-normalised and clipped (Swaminathan & Joachims 2015, NeurIPS, section 3), and doubly robust
(Dudík, Langford & Li 2011, ICML, equation 4), whose model of the missing loss is fitted on other users' rows.
Both take for granted that an outcome does not depend on what the LLM was asked (docs/operate.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import Bootstrap, Interval, Sampled, mass_bins, row_hit, row_loss, sampled_auc
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.labelled import CLIP, LabelledRows
from corella_edge.routing.measure import NEVER, is_routed
from corella_edge.routing.policy import Policy, threshold_for

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Of the rows that a policy asks, most without a score and without a chance of one: beyond it there is no estimate.
UNDECIDED = 0.05
FOLDS, BINS = 2, 10


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a log knows of the rows that a policy would ask, bool [n] each.

    Attributes:
        wanted: the policy asks.
        decided: of those, the score is known, or had a chance to be: others like it are known and stand for it.
        weight: float64 [n], how many rows one stands for: 1 where not wanted, 0 where the score is missing, else the
            clipped inverse of its propensity.
    """

    wanted: Mask
    decided: Mask
    weight: Floats

    @property
    def undecided(self) -> float:
        """The share of the wanted rows that nothing in the log speaks for."""
        wanted = int(self.wanted.sum())
        return 1.0 - float(self.decided.sum()) / wanted if wanted else 0.0

    @property
    def effective(self) -> float:
        """Effective sample size of the wanted rows (Kish): (Σw)² / Σw²; 0 where none is known."""
        weight = self.weight[self.wanted]
        square = float((weight**2).sum())
        return float(weight.sum()) ** 2 / square if square else 0.0


def evidence(known: Mask, propensity: Floats, wanted: Mask, clip: float = CLIP) -> Evidence:
    """Of a log whose LLM scores are `known`, bool [n], with chance `propensity`, float64 [n] in (0, 1]."""
    decided = wanted & (known | (propensity < 1.0))
    weight = np.where(wanted, np.where(known, np.minimum(1.0 / propensity, clip), 0.0), 1.0)
    return Evidence(wanted, decided, weight)


@dataclass(frozen=True, slots=True)
class Worth:
    """What a policy would have been worth on the log's rows.

    Attributes:
        share: of the rows that it asks.
        undecided: of those, the share that the log cannot speak for; every estimate is None beyond `UNDECIDED`.
        effective: effective sample size of the rows asked.
        auc, logloss, accuracy: inverse propensity weighted, with 95 % intervals over users.
        logloss_robust, accuracy_robust: doubly robust.
    """

    share: float
    undecided: float
    effective: float
    auc: Interval | None = None
    logloss: Interval | None = None
    accuracy: Interval | None = None
    logloss_robust: Interval | None = None
    accuracy_robust: Interval | None = None


def worth(rows: LabelledRows, wanted: Mask, fusion: Fusion, bootstrap: Bootstrap, clip: float = CLIP) -> Worth:
    """Of a policy that asks about the rows `wanted`, bool [n]; `bootstrap` is over the rows' users."""
    found = evidence(rows.known, rows.propensity, wanted, clip)
    head = float(wanted.mean()), found.undecided, found.effective
    if found.undecided > UNDECIDED or (wanted.any() and not found.effective):
        return Worth(*head)
    final = fuse(rows.crm, rows.llm, wanted & rows.known, fusion, rows.inputs)
    losses = row_loss(final, rows.label), row_hit(final, rows.label)
    auc = weighted_auc(final, rows.label, found, bootstrap).interval()
    loss, hit = (snips(values, found, bootstrap).interval() for values in losses)
    loss_robust, hit_robust = (doubly_robust(values, rows, found, bootstrap).interval() for values in losses)
    return Worth(*head, auc, loss, hit, loss_robust, hit_robust)


def answered(final: Floats, routed: Mask, rows: LabelledRows, bootstrap: Bootstrap) -> Worth:
    """Of what was answered, float64 [n], the LLM's score counting where bool [n] says so: nothing is estimated."""
    found = evidence(np.ones(len(routed), bool), np.ones(len(routed)), routed)
    loss, hit = (snips(of(final, rows.label), found, bootstrap).interval() for of in (row_loss, row_hit))
    auc = weighted_auc(final, rows.label, found, bootstrap).interval()
    return Worth(float(routed.mean()), 0.0, float(routed.sum()), auc, loss, hit, loss, hit)


def curve(
    rows: LabelledRows, policy: Policy, shares: Sequence[float], bootstrap: Bootstrap, mute: Mask | None = None,
    clip: float = CLIP,
) -> list[Worth]:  # fmt: skip
    """What a policy's measure would have been worth at each of the shares of the rows, ties included.

    Args:
        mute: bool [n], rows of which no policy gets an answer; None = there are none.
    """
    values = policy.measure(rows.crm, rows.inputs_for(policy.measure.needs))
    found = []
    for share in shares:
        threshold = NEVER if share <= 0.0 else policy.measure.least if share >= 1.0 else threshold_for(values, share)
        wanted = is_routed(values, threshold)
        found.append(worth(rows, wanted if mute is None else wanted & ~mute, policy.fusion, bootstrap, clip))
    return found


def snips(values: Floats, found: Evidence, bootstrap: Bootstrap) -> Sampled:
    """Mean of row values float64 [n] under the policy: rows not asked count as they are; those asked by their weight,
    normalised to as many as are asked, so that answers lost to a deadline do not count as zero."""
    weight = np.where(found.wanted, found.weight, 0.0)
    columns = [np.where(found.wanted, 0.0, values), found.wanted.astype(np.float64), weight, weight * values,
               np.ones(len(values))]  # fmt: skip
    whole = _normalised([np.array([column.sum()]) for column in columns])
    return Sampled(float(whole[0]), _normalised([bootstrap.totals(column)[:, 0] for column in columns]))


def _normalised(sums: Sequence[Floats]) -> Floats:
    """Means, from sums over the rows: values not asked, how many are asked, their weights, weighted values, rows."""
    rest, number, mass, total, rows = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        of_asked = np.where(number > 0, number * total / mass, 0.0)
    means: Floats = (rest + of_asked) / rows
    return means


def doubly_robust(values: Floats, rows: LabelledRows, found: Evidence, bootstrap: Bootstrap) -> Sampled:
    """The same mean: what a model expects of every asked row, and of those known, by their weight, what it missed.

    Right if either the propensities or the model is. Weights are not normalised here, but for the share of answers
    that were drawn and lost, which the rows themselves tell.
    """
    expected = expected_values(values, rows, found)
    known = found.weight > 0.0
    # Of rows with chance p, a share p of them should be known: fewer are where answers were lost.
    chance = float(rows.propensity[found.wanted].sum())
    kept = float((found.wanted & known).sum()) / chance if chance else 1.0
    missed = np.where(found.wanted & known, found.weight * (values - expected), 0.0) / max(kept, 1e-9)
    each = np.where(found.wanted, expected + missed, values)
    totals, ones = bootstrap.totals(each)[:, 0], bootstrap.totals(np.ones(len(each)))[:, 0]
    return Sampled(float(each.mean()), totals / ones)


def expected_values(values: Floats, rows: LabelledRows, found: Evidence) -> Floats:
    """float64 [n], what a value would be if asked: the weighted mean of the known rows of the same label with about
    the same base model's score, of other users; of all of them where there is none."""
    label = rows.label > 0
    place = mass_bins(rows.crm, BINS) + BINS * label
    fold = _folds(rows.user)
    expected = np.zeros(len(values))
    weight = np.where(found.wanted, found.weight, 0.0)
    for part in range(FOLDS):
        train = np.where(fold != part, weight, 0.0)
        mass = np.bincount(place, weights=train, minlength=2 * BINS)
        total = np.bincount(place, weights=train * values, minlength=2 * BINS)
        overall = total.sum() / mass.sum() if mass.sum() else 0.0
        means = np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), overall)
        expected[fold == part] = means[place[fold == part]]
    return expected


def _folds(users: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """The fold of each row, int64 [n] below `FOLDS`; a user's rows share one."""
    owner = np.unique(users, return_inverse=True)[1].astype(np.int64)
    return owner % FOLDS


def weighted_auc(p: Floats, label: Floats, found: Evidence, bootstrap: Bootstrap) -> Sampled:
    """Area under the ROC curve of rows that stand for several: each pair weighs the product of both weights."""
    weight = np.where(found.wanted, found.weight, 0.0)
    mass, number = float(weight.sum()), float(found.wanted.sum())
    weight = np.where(found.wanted, weight * (number / mass if mass else 0.0), 1.0)
    return sampled_auc(p, label, bootstrap, weight)
