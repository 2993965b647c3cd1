"""routing.json of a bundle: thresholds as quantiles of validation rows, and the fusion rule fitted on them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from corella_edge import metrics
from corella_edge.errors import ExportError
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.policy import RATIOS, Calibration, Routing, threshold_for
from corella_edge_export.evaluation.fusion import fitting, fused, fusion, routed
from corella_edge_export.evaluation.scored import Json, ScoredRows, number
from corella_edge_export.evaluation.shares import CANDIDATES

# `stack` is fitted on at least this share of the validation rows, the largest that the study may choose. Among the
# hardest 5 % the CRM's logit hardly differs: its weight is noise there, and requests with a wider threshold meet it.
FIT_SHARE = CANDIDATES[-1]


def routing(policy: str, rule_name: str, valid: ScoredRows) -> Json:
    """What routing.json holds.

    Args:
        policy: the bundle's own threshold, as a recipe writes it.
        rule_name: how both scores of a routed row become one.
        valid: the calibration rows.

    Raises:
        ExportError: no rows to fit the rule on.
    """
    fitted = Calibration.fit(valid.entropies)
    grid = {"shares": fitted.shares.tolist(), "thresholds": [number(t) for t in fitted.thresholds.tolist()]}
    rule, about = rule_for(rule_name, policy, valid)
    table = [_table_row(ratio, valid, rule) for ratio in RATIOS]
    return {"threshold": policy, **about, "calibration": grid, "table": table, "rows": len(valid)}


def _table_row(ratio: float, valid: ScoredRows, rule: Fusion) -> Json:
    """What routing the `ratio` hardest of the calibration rows gives."""
    threshold = threshold_for(valid.entropies, ratio)
    chosen = routed(valid, threshold)
    found = metrics.quality(fused(valid, chosen, rule), valid.labels)
    figures = {name: number(value) for name, value in asdict(found).items()}  # rows of one class have no AUC
    return {"ratio": ratio, "threshold": number(threshold), "share": float(chosen.mean()), **figures}


def rule_for(name: str, policy: str, valid: ScoredRows) -> tuple[Fusion, Json]:
    """A rule, and what routing.json says of it: nothing of `replace`, of `stack` the rows of its fit, too.

    Args:
        policy: the bundle's own threshold, as a recipe writes it.
        valid: the calibration rows.

    Raises:
        ExportError: no rows to fit it on.
    """
    if name == "stack":
        return _stack(policy, valid)
    rule = Fusion(name)
    return rule, {} if rule == REPLACE else {"fusion": rule.to_json()}


def _stack(policy: str, valid: ScoredRows) -> tuple[Fusion, Json]:
    calibration = Calibration.fit(valid.entropies)
    own = parse_threshold(policy, Routing(calibration=calibration)).nats
    threshold = fitting(valid, min(own, calibration.threshold(FIT_SHARE)))
    rows = routed(valid, threshold)
    if len(np.unique(valid.labels[rows])) < 2:
        raise ExportError("fusion: stack needs calibration rows of both classes that the LLM answers; take blend")
    rule = fusion("stack", valid, threshold)
    fit = {"split": "valid", "rows": int(rows.sum()), "threshold": threshold}
    return rule, {"fusion": {**rule.to_json(), "fit": fit}}
