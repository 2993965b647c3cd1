"""The fusion rule of a bundle: the one asked for, fitted as the study does where it has to be."""

from __future__ import annotations

import numpy as np

from corella_edge.errors import ExportError
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.policy import Calibration, parse_threshold
from corella_edge_export.evaluation.fusion import fitting, fusion, routed
from corella_edge_export.evaluation.scored import Json, Scored
from corella_edge_export.evaluation.shares import CANDIDATES

# `stack` is fitted on at least this share of the validation rows, the largest that the study may choose. Among the
# hardest 5 % the CRM's logit hardly differs: its weight is noise there, and requests with a wider threshold meet it.
FIT_SHARE = CANDIDATES[-1]


def rule_for(name: str, policy: str, valid: Scored) -> tuple[Fusion, Json]:
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


def _stack(policy: str, valid: Scored) -> tuple[Fusion, Json]:
    calibration = Calibration.fit(valid.entropies)
    own = parse_threshold(policy, calibration).nats
    threshold = fitting(valid, min(own, calibration.threshold(FIT_SHARE)))
    rows = routed(valid, threshold)
    if len(np.unique(valid.labels[rows])) < 2:
        raise ExportError("fusion: stack needs calibration rows of both classes that the LLM answers; take blend")
    rule = fusion("stack", valid, threshold)
    fit = {"split": "valid", "rows": int(rows.sum()), "threshold": threshold}
    return rule, {"fusion": {**rule.to_json(), "fit": fit}}
