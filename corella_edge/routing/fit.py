"""Fits maps and fusion rules on labelled rows, and chooses among all of them by rows that fitted none of them.

Rows near the boundary are the ones a rule is for, but a request may bring any threshold: maps and weights are fitted on
the rows that the policy routes, on no fewer than the `LEAST_SHARE` that its measure puts first, and if those are fewer
than `ENOUGH`, on all that the LLM has answered. Rows about which it was asked by chance count by the inverse of that
chance. Where the base model stands alone, its map is fitted on all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import ece, quality
from corella_edge.routing import gate_fit
from corella_edge.routing.fit_maps import fit_maps
from corella_edge.routing.fusion import RULES, Beside, Fusion, fuse
from corella_edge.routing.gate import filled
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import fit_agreeing, logit
from corella_edge.routing.maps import KINDS, PLAIN, Maps
from corella_edge.routing.policy import USUAL, Policy, threshold_for

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ENOUGH = 200  # routed rows that a fit wants
LEAST_SHARE = 0.28  # of the rows: among fewer, the hardest, the base model's log-odds hardly differ
FOLDS = 5
WITH_INPUTS = "stack with inputs"


@dataclass(frozen=True)
class ChosenFusion:
    """What was chosen, and what was tried.

    Attributes:
        policy: with the fusion that rows which fitted none of them like best.
        table: a row a candidate: its names, `figures` of it, and whether it is `chosen`.
        rows, routed: how many rows judged, and how many of those the LLM decides.
        note: why there was nothing to choose from; empty if there was.
    """

    policy: Policy
    table: list[dict[str, Any]]
    rows: int
    routed: int
    note: str = ""


def choose(rows: LabelledRows, policy: Policy, held: LabelledRows | None = None) -> ChosenFusion:
    """The fusion with the lowest log-loss of all rows' final probabilities, of equal ones the simplest. Rows count as
    `standing` says.

    Args:
        held: the rows that judge. None: every row of `rows` does, by what other users' rows have fitted (`FOLDS` folds
            of users). What is chosen is fitted on all of `rows`.
    """
    judged = rows if held is None else held
    chosen = routed(judged, policy)
    able = len(np.unique(rows.label[fitting(rows, policy)])) == 2
    plain = [("replace", "none", fuse(judged.crm, judged.llm, chosen, Fusion()))]
    tried = _predictions(rows, policy, held) if able else plain
    stands = standing(judged, policy)
    table: list[dict[str, Any]] = [
        {"rule": rule, "maps": kind, **figures(p, judged, chosen, stands)} for rule, kind, p in tried
    ]
    best = min(range(len(table)), key=lambda place: table[place]["logloss"])
    for place, row in enumerate(table):
        row["chosen"] = place == best
    made = fit_fusion(rows, fitting(rows, policy), table[best]["rule"], table[best]["maps"])
    note = "" if able else "the LLM has answered no rows of both classes, so that nothing can be fitted"
    return ChosenFusion(replace(policy, fusion=made), table, len(judged), int(chosen.sum()), note)


def routed(rows: LabelledRows, policy: Policy) -> Mask:
    """bool [n]: the rows that the LLM decides: routed by the policy, and answered."""
    return _wanted(rows, policy) & rows.known


def standing(rows: LabelledRows, policy: Policy) -> Floats:
    """float64 [n]: how many rows each stands for: one that the policy routes, for the inverse of its propensity, and
    for none where its answer is missing by chance; any other for itself."""
    stands = np.where(rows.known, rows.weight, np.where(rows.propensity < 1.0, 0.0, 1.0))
    return np.where(_wanted(rows, policy), stands, 1.0)


def _wanted(rows: LabelledRows, policy: Policy) -> Mask:
    found = np.zeros(len(rows), np.bool_)
    found[policy.route(rows.crm, rows.inputs_for(policy.measure.needs))[0]] = True
    return found


def fitting(rows: LabelledRows, policy: Policy) -> Mask:
    """bool [n]: the rows that maps and weights are fitted on; see the module."""
    values = policy.measure(rows.crm, rows.inputs_for(policy.measure.needs))
    found = (values >= min(policy.least(USUAL), threshold_for(values, LEAST_SHARE))) & rows.known
    few = found.sum() < ENOUGH or len(np.unique(rows.label[found])) < 2
    return rows.known if few else found


def rules(rows: LabelledRows) -> tuple[str, ...]:
    """The rules that such rows can fit, the simplest first."""
    return (*RULES, WITH_INPUTS) if usable(rows) else RULES


def usable(rows: LabelledRows) -> tuple[str, ...]:
    """The gate's inputs that serving knows, and that are not the same in every row."""
    return gate_fit.usable(rows.inputs)


def fit_fusion(rows: LabelledRows, fitted: Mask, rule: str, kind: str) -> Fusion:
    """A rule of `rules` behind maps of a kind, fitted on the rows bool [n], which need an answer of the LLM."""
    maps = PLAIN if kind == "none" else fit_maps(rows, fitted, kind)
    return _rule(rows, fitted, rule, maps, usable(rows))


def without_llm(rows: LabelledRows, fitted: Mask, rule: Fusion) -> Fusion | None:
    """A rule that was fitted on the rows bool [n], fitted as if the LLM had said the same of each: what weighing the
    base model's score, and inputs, brings without it. None for a rule that weighs nothing."""
    if rule.rule != "stack" or not fitted.any():
        return None
    mute = replace(rows, llm=np.where(rows.known, 0.5, np.nan))
    return _rule(mute, fitted, WITH_INPUTS if rule.beside else "stack", rule.maps, rule.needs)


def _rule(rows: LabelledRows, fitted: Mask, rule: str, maps: Maps, names: tuple[str, ...]) -> Fusion:
    if rule not in ("stack", WITH_INPUTS):
        return Fusion(rule, None, maps)
    part = rows.take(fitted)
    beside = _columns(part, names) if rule == WITH_INPUTS else []
    odds = [np.ones(len(part)), logit(maps.crm(part.crm)), logit(maps.llm(part.llm))]
    columns = np.stack([*odds, *(column / scale for _, _, scale, column in beside)], axis=1)
    found = fit_agreeing(columns, part.label > 0, 2, part.weight)
    intercept, of_crm, of_llm, *others = found.tolist()
    made = tuple(Beside(name, fill, w / scale) for (name, fill, scale, _), w in zip(beside, others, strict=True))
    return Fusion("stack", (intercept, of_crm, of_llm), maps, made)


def _columns(part: LabelledRows, names: tuple[str, ...]) -> list[tuple[str, float, float, Floats]]:
    """Of each input: name, mean, deviation, and the column about its mean with 0 where it is unknown."""
    made = []
    for name in names:
        x = filled(name, part.inputs[name], np.nan)
        mean = float(np.nanmean(x)) if np.isfinite(x).any() else 0.0
        column = np.where(np.isnan(x), 0.0, x - mean)
        made.append((name, mean, float(column.std()) or 1.0, column))
    return made


def _predictions(rows: LabelledRows, policy: Policy, held: LabelledRows | None) -> Iterator[tuple[str, str, Floats]]:
    """Every rule and kind of map, with the final probabilities of the rows that judge."""
    parts = list(_parts(rows, held))
    judged = rows if held is None else held
    for kind in KINDS:
        fits = [(train, fitting(train, policy), test, at) for train, test, at in parts]
        maps = [PLAIN if kind == "none" else fit_maps(train, fitted, kind) for train, fitted, _, _ in fits]
        for rule in rules(rows):
            p = np.empty(len(judged))
            for (train, fitted, test, at), of in zip(fits, maps, strict=True):
                made = _rule(train, fitted, rule, of, usable(rows))
                p[at] = fuse(test.crm, test.llm, routed(test, policy), made, test.inputs)
            yield rule, kind, p


def _parts(rows: LabelledRows, held: LabelledRows | None) -> Iterator[tuple[LabelledRows, LabelledRows, Mask]]:
    """Rows that fit, rows that judge, and which of all that judge these are, bool [n]."""
    if held is not None:
        yield rows, held, np.ones(len(held), np.bool_)
        return
    fold = np.unique(rows.user, return_inverse=True)[1] % FOLDS
    for number in range(FOLDS):
        if (at := fold == number).any():
            yield (rows.take(~at) if (~at).any() else rows), rows.take(at), at


def figures(p: Floats, rows: LabelledRows, chosen: Mask, stands: Floats) -> dict[str, float | None]:
    """Quality of final probabilities float64 [n]: of all rows, and calibration of those that the LLM decides bool [n]
    and of the others; None where there are no rows of both classes.

    `stands`: float64 [n], how many rows each stands for.
    """
    weight = None if stands.min() == stands.max() else stands
    found = quality(p, rows.label, weight)
    parts = {name: ece(p[of], rows.label[of], weight=stands[of]) for name, of in (("llm", chosen), ("alone", ~chosen))}
    return {
        "logloss": found.logloss, "auc": _number(found.auc), "accuracy": found.accuracy,
        "ece": ece(p, rows.label, weight=weight),
        "ece_llm": _number(parts["llm"]), "ece_alone": _number(parts["alone"]),
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
