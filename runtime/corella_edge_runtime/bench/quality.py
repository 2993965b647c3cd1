"""AUC, log-loss and accuracy at every routed share, from one score of each labelled row by each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from corella_edge import metrics
from corella_edge.json_lines import Traffic
from corella_edge.metrics import Bootstrap, Interval, Sampled, sampled_auc
from corella_edge.routing.fusion import REPLACE, Fusion, fuse
from corella_edge.routing.measure import Inputs
from corella_edge.routing.policy import Policy
from corella_edge_runtime.bench.measure import Progress, Rank

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Both models' scores of labelled rows: crm, llm (nan = no answer) float64 [n], labels int8 [n], users [n].

    `fusion` is what makes one of both where routed; `inputs` float64 [n] by name, what it and a measure look at.
    """

    crm: Floats
    llm: Floats
    labels: npt.NDArray[np.int8]
    users: tuple[str, ...]
    fusion: Fusion = REPLACE
    inputs: Inputs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoutedQuality:
    """What routing by one policy gives on the labelled rows; `gain` is AUC minus the CRM's, paired."""

    rows: int
    share: float
    auc: Interval
    logloss: float
    accuracy: float
    gain: Interval


def score(
    rank: Rank, rows: Sequence[Traffic], users: Sequence[str], progress: Progress, fusion: Fusion = REPLACE
) -> Labelled:
    """Ask both models about every labelled candidate, once."""
    crm: list[float] = []
    llm: list[float] = []
    labels: list[int] = []
    owners: list[str] = []
    inputs: list[tuple[Inputs, list[int]]] = []
    for number, (row, user) in enumerate(zip(rows, users, strict=True), 1):
        scores = rank(replace(row.request, threshold="ratio:1", top_k=None))
        known = [(i, label) for i, label in enumerate(row.labels) if label is not None]
        crm += [float(scores.crm[i]) for i, _ in known]
        llm += [float(scores.llm[i]) for i, _ in known]
        labels += [label for _, label in known]
        inputs.append((scores.inputs, [i for i, _ in known]))
        owners += [user] * len(known)
        progress("labelled rows", number, len(rows))
    return Labelled(
        np.asarray(crm), np.asarray(llm), np.asarray(labels, dtype=np.int8), tuple(owners), fusion, _columns(inputs)
    )


def _columns(parts: Sequence[tuple[Inputs, list[int]]]) -> dict[str, Floats]:
    """Inputs of requests, at the places of each, as columns; nan where a request has not got one."""
    names = dict.fromkeys(name for inputs, _ in parts for name in inputs)
    return {
        name: np.concatenate([inputs[name][at] if name in inputs else np.full(len(at), np.nan) for inputs, at in parts])
        for name in names
    }


def routed(data: Labelled, policy: Policy) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Final probabilities float64 [n] under a policy, and in which rows the LLM's score counts bool [n]."""
    chosen = np.zeros(len(data.crm), np.bool_)
    chosen[policy.route(data.crm, data.inputs)[0]] = True
    chosen &= ~np.isnan(data.llm)
    return fuse(data.crm, data.llm, chosen, data.fusion, data.inputs), chosen


def under(data: Labelled, policy: Policy, bootstrap: Bootstrap, crm: Sampled | None = None) -> RoutedQuality:
    """Metrics of routing by a policy, with 95 % intervals over users; `crm` saves drawing the CRM's AUC again."""
    alone = crm or sampled_auc(data.crm, data.labels, bootstrap)
    p, chosen = routed(data, policy)
    found = metrics.quality(p, data.labels)
    auc = sampled_auc(p, data.labels, bootstrap)
    share = float(chosen.mean())
    return RoutedQuality(len(p), share, auc.interval(), found.logloss, found.accuracy, auc.gain(alone))
