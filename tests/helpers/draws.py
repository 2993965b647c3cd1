"""Metrics under draws of users as their definitions have them, slowly: what `corella_edge.metrics` is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from corella_edge.metrics import Bootstrap


def samples(bootstrap: Bootstrap, statistic: Callable[[Any], float]) -> Any:
    """float64 [draws]: the statistic under each draw's row weights float64 [n]."""
    return np.asarray([statistic(w[bootstrap.owner]) for block in bootstrap.weights() for w in block])


def weighted_auc(probability: Any, label: Any) -> Callable[[Any], float]:
    """Row weights float64 [n] → area under the ROC curve, ties counted half; nan when one class is absent."""
    p, positive = np.asarray(probability, dtype=np.float64), np.asarray(label) > 0
    lead = p[positive][:, None] - p[~positive][None, :]
    won = (lead > 0) + 0.5 * (lead == 0)

    def auc(weight: Any) -> float:
        pairs = weight[positive][:, None] * weight[~positive][None, :]
        return float((won * pairs).sum() / pairs.sum()) if pairs.sum() else float("nan")

    return auc
