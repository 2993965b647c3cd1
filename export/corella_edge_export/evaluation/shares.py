"""Quality against the routed share, and the point of operation chosen on validation rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from corella_edge.metrics import Ints, Sampled, auc, row_loss
from corella_edge.routing.fusion import REPLACE, RULES, Fusion
from corella_edge.routing.policy import RATIOS, Calibration
from corella_edge_export.evaluation.fusion import fused, fusion, routed
from corella_edge_export.evaluation.scored import (
    Figures,
    Floats,
    Json,
    Mask,
    ScoredJudge,
    ScoredRows,
    ScoredSplits,
    gains,
    number,
    percents,
    shown,
)

LINES = (*RULES, "random", "oracle")
RANDOM_DRAWS = 5
# Of validation rows. The share of a threshold drifted by up to 5 % of itself on later rows: 0.28 stays below 0.30.
CANDIDATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.28)


def curve(pair: ScoredSplits, judge: ScoredJudge, ratios: Sequence[float] = RATIOS, seed: int = 0) -> list[Json]:
    """One entry a ratio: threshold, realised share and every line's metrics, with gains over `crm` and `base`."""
    calibration = Calibration.fit(pair.valid.entropies)
    return [_point(pair, judge, ratio, calibration.threshold(ratio), seed) for ratio in ratios]


def _point(pair: ScoredSplits, judge: ScoredJudge, ratio: float, threshold: float, seed: int) -> Json:
    chosen = routed(pair.test, threshold)
    found = lines(judge, chosen, [fusion(rule, pair.valid, threshold) for rule in RULES], seed)
    return {
        "ratio": ratio, "threshold": number(threshold), "share": float(chosen.mean()),
        "lines": {name: compared(figures, judge) for name, figures in found.items()},
    }  # fmt: skip


def lines(judge: ScoredJudge, chosen: Mask, rules: Sequence[Fusion], seed: int = 0) -> dict[str, Figures]:
    """Every rule on the chosen rows of a judge; then as many rows replaced at random, and by the oracle."""
    rows, count = judge.rows, int(chosen.sum())
    found = {rule.rule: judge(fused(rows, chosen, rule)) for rule in rules}
    return found | {"random": random_line(judge, count, seed), "oracle": judge(replaced(rows, hardest(rows, count)))}


def compared(figures: Figures, judge: ScoredJudge) -> Json:
    """Metrics, and their paired gains over the system's CRM and the CRM of stage 1 on the same rows."""
    crm, base = judge(judge.rows.crm), judge(judge.rows.base)
    return {**shown(figures), "over_crm": gains(figures, crm), "over_base": gains(figures, base)}


def replaced(rows: ScoredRows, chosen: Mask) -> Floats:
    """float64 [n]: the LLM's scores on the chosen rows."""
    return fused(rows, chosen, REPLACE)


def random_line(judge: ScoredJudge, count: int, seed: int, draws: int = RANDOM_DRAWS) -> Figures:
    """Replacing as many rows at random: the mean over several choices; one choice's interval, moved to that mean."""
    rng = np.random.default_rng(seed)
    answered = np.flatnonzero(judge.rows.answered)
    choices = [rng.permutation(answered)[:count] for _ in range(draws)]
    first = judge(replaced(judge.rows, _mask(judge.rows, choices[0])))
    if count in (0, len(answered)):
        return first
    rest = [judge.points(replaced(judge.rows, _mask(judge.rows, choice))) for choice in choices[1:]]
    return {name: _moved(one, float(np.mean([one.value, *(p[name] for p in rest)]))) for name, one in first.items()}


def _moved(one: Sampled, value: float) -> Sampled:
    return Sampled(value, one.draws + (value - one.value))


def hardest(rows: ScoredRows, count: int) -> Mask:
    """bool [n]: the `count` rows that gain most log-loss from the LLM, labels known (the oracle's choice)."""
    gain = row_loss(rows.crm, rows.labels) - row_loss(rows.llm_or_crm, rows.labels)
    order = np.argsort(np.where(rows.answered, -gain, np.inf), kind="stable")
    return _mask(rows, order[:count])


def _mask(rows: ScoredRows, chosen: Ints) -> Mask:
    mask = np.zeros(len(rows), dtype=bool)
    mask[chosen] = True
    return mask


@dataclass(frozen=True)
class Operation:
    """How a system runs: fusion and threshold, with the validation ratio and AUC that chose them."""

    fusion: Fusion
    threshold: float
    ratio: float
    valid_auc: float

    def scores(self, rows: ScoredRows) -> Floats:
        """Final probabilities float64 [n]."""
        return fused(rows, routed(rows, self.threshold), self.fusion)

    def about(self, rows: ScoredRows) -> Json:
        """The choice, and the share of rows it routes."""
        weights = self.fusion.weights
        return {
            "rule": self.fusion.rule, "weights": None if weights is None else list(weights), "ratio": self.ratio,
            "threshold": number(self.threshold), "valid_auc": number(self.valid_auc),
            "share": float(routed(rows, self.threshold).mean()),
        }  # fmt: skip


def operation(valid: ScoredRows, ratios: Sequence[float] = CANDIDATES, rules: Sequence[str] = RULES) -> Operation:
    """The highest validation AUC of all rules and ratios; of equal ones the first.

    `stack` is judged on the rows that fitted it: three weights on thousands of rows gain nothing by that.
    """
    return max(_operations(valid, ratios, rules), key=lambda found: found.valid_auc)


def _operations(valid: ScoredRows, ratios: Sequence[float], rules: Sequence[str]) -> Iterator[Operation]:
    calibration = Calibration.fit(valid.entropies)
    for ratio in ratios:
        threshold = calibration.threshold(ratio)
        for rule in rules:
            made = fusion(rule, valid, threshold)
            score = auc(fused(valid, routed(valid, threshold), made), valid.labels)
            yield Operation(made, threshold, ratio, score)


def operating_point(pair: ScoredSplits, judge: ScoredJudge, chosen: Operation | None = None) -> Json:
    """Test figures of what validation rows chose, at that fixed threshold, with gains over `base` in percent too."""
    how = chosen or operation(pair.valid)
    figures = judge(how.scores(pair.test))
    valid_share = float(routed(pair.valid, how.threshold).mean())
    made = {**how.about(pair.test), "valid_share": valid_share, **compared(figures, judge)}
    return {**made, "over_base_percent": percents(figures, judge(pair.test.base))}
