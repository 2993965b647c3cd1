"""Fits maps and fusion rules on labelled rows, and chooses among all of them by rows that fitted none of them.

Rows near the boundary are the ones a rule is for, but a request may bring any threshold: maps and weights are fitted on
the rows that the policy routes, on no fewer than the `LEAST_SHARE` that its measure puts first, and if those are fewer
than `ENOUGH`, on all that the LLM has answered. Rows about which it was asked by chance count by the inverse of that
chance. Where the base model stands alone, its map is fitted on all rows and ties no candidates.

Weights of their own for new items, and with them for known ones, are fitted on either's part of those rows, or on all
of its rows that the LLM has answered if those are fewer than `ENOUGH`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.metrics import ece, quality
from corella_edge.routing import gate_fit
from corella_edge.routing.fit_maps import fit_maps
from corella_edge.routing.fusion import RULES, Beside, Fusion, fuse
from corella_edge.routing.gate import NEW_ITEM, filled
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import fit_agreeing, logit
from corella_edge.routing.maps import KINDS, PLAIN, Maps
from corella_edge.routing.parts import FEW_USERS, even_users
from corella_edge.routing.policy import USUAL, Policy, threshold_for

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ENOUGH = 200  # routed rows that a fit wants
LEAST_SHARE = 0.28  # of the rows: among fewer, the hardest, the base model's log-odds hardly differ
FOLDS = 5
WITH_INPUTS = "stack with inputs"
NEW_APART = "stack, new items apart"
BASE = "base model"


@dataclass(frozen=True)
class ChosenFusion:
    """What was chosen, and what was tried.

    Attributes:
        policy: with the fusion that rows which fitted none of them like best.
        table: a row a candidate: its names, `figures` of it, and whether it is `chosen`.
        rows, routed: how many rows judged, and how many of those the LLM decides.
        note: why there was nothing to choose from; empty if there was.
        of_new: as `table`, of the rows of new items alone: the base model, and behind every map `stack` and, where it
            was tried, the same with weights of their own for new items.
        about_new_items: whether they get weights of their own, and why not, as a sentence.
    """

    policy: Policy
    table: list[dict[str, Any]]
    rows: int
    routed: int
    note: str = ""
    of_new: Sequence[dict[str, Any]] = ()
    about_new_items: str = ""


def choose(rows: LabelledRows, policy: Policy, held: LabelledRows | None = None) -> ChosenFusion:
    """The fusion with the lowest log-loss of all rows' final probabilities, of equal ones the simplest. Rows count as
    `standing` says.

    Args:
        held: the rows that judge. None: every row of `rows` does, by what other users' rows have fitted (`FOLDS` folds
            of users). What is chosen is fitted on all of `rows`.
    """
    judged, fitted = rows if held is None else held, fitting(rows, policy)
    chosen, stands, new = routed(judged, policy), standing(judged, policy), is_new(judged)

    def row(rule: str, kind: str, p: Floats, of: Mask) -> dict[str, Any]:
        return {"rule": rule, "maps": kind, **figures(p[of], judged.take(of), chosen[of], stands[of])}

    able = len(np.unique(rows.label[fitted])) == 2
    plain = [("replace", "none", fuse(judged.crm, judged.llm, chosen, Fusion()))]
    table, of_new = list[dict[str, Any]](), [row(BASE, "none", judged.crm, new)] if new.any() else []
    for rule, kind, p in _predictions(rows, policy, held) if able else plain:
        table.append(row(rule, kind, p, np.ones(len(judged), np.bool_)))
        if new.any() and rule in ("stack", NEW_APART):
            of_new.append(row(rule, kind, p, new))
    best = min(table, key=lambda row: row["logloss"])
    for one in table:
        one["chosen"] = one is best
    made = fit_fusion(rows, fitted, best["rule"], best["maps"])
    note = "" if able else "the LLM has answered no rows of both classes, so that nothing can be fitted"
    about = _about_new_items(rows, fitted, best) if able else ""
    return ChosenFusion(replace(policy, fusion=made), table, len(judged), int(chosen.sum()), note, of_new, about)


def _about_new_items(rows: LabelledRows, fitted: Mask, best: dict[str, Any]) -> str:
    lowest = f"the lowest log-loss on rows that fitted nothing is that of {best['rule']} (maps: {best['maps']})"
    some = "" if best["rule"] == NEW_APART else "no "
    return f"new items have {some}weights of their own: {few_new_items(rows, fitted) or lowest}"


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
    return _or_all(found, rows.known, rows.label)


def _or_all(found: Mask, every: Mask, label: Floats) -> Mask:
    """The rows that were found, or where they are few or of one class, all."""
    return every if found.sum() < ENOUGH or len(np.unique(label[found])) < 2 else found


def is_new(rows: LabelledRows) -> Mask:
    """bool [n]: the rows of new items; none where the rows do not tell."""
    return np.asarray(rows.inputs[NEW_ITEM] > 0) if NEW_ITEM in rows.inputs else np.zeros(len(rows), np.bool_)


def _by_item(rows: LabelledRows, fitted: Mask) -> tuple[Mask, Mask]:
    """Of the fitted rows bool [n] those of known and those of new items; see the module."""
    known, new = (_or_all(fitted & of, rows.known & of, rows.label) for of in (~is_new(rows), is_new(rows)))
    return known, new


def few_new_items(rows: LabelledRows, fitted: Mask) -> str:
    """Why the rows bool [n] fit no weights of their own for new items and for known ones; empty if they do."""
    if not is_new(rows).any():
        return f"the rows tell of no new item (input.{NEW_ITEM})"
    for name, part in zip(("known", "new"), _by_item(rows, fitted), strict=True):
        users = _users(rows, part)
        if part.sum() < ENOUGH or min(users) < FEW_USERS:
            return (f"it takes {ENOUGH} answered rows of {name} items, with positive ones of {FEW_USERS} users and "
                    f"negative ones of as many, and there are {part.sum():,}, of which the positive ones are spread as "
                    f"over {users[0]:.1f} users and the negative ones as over {users[1]:.1f}")  # fmt: skip
    return ""


def _users(rows: LabelledRows, part: Mask) -> tuple[float, float]:
    """As how many users the positive and the negative ones of the rows bool [n] tell."""
    return even_users(rows, part & (rows.label > 0)), even_users(rows, part & (rows.label <= 0))


def check_enough(rows: LabelledRows, share: float | None) -> None:
    """Raises InputError where rows are too few to fit maps, weights and the threshold of a share on (None = of one that
    they tell themselves); it says how many it takes."""
    users, least = _users(rows, rows.known), _rows_for(share)
    fewest, number = min(users), len(rows)
    if fewest >= FEW_USERS and number >= least:
        return
    needed = max(least, math.ceil(number * max(1.0, FEW_USERS / max(1.0, fewest))))
    why = f"the threshold of a share of {share or 0.0:g} is a quantile of {least:,} rows or more"
    if fewest < FEW_USERS:
        why = (f"it takes rows with the LLM's score, positive ones of {FEW_USERS} users and negative ones of as many, "
               f"and here the positive ones are spread as over {users[0]:.1f} users, the negative ones as over "
               f"{users[1]:.1f}")  # fmt: skip
    raise InputError(f"too few rows: the earlier part, which is fitted on, has {number:,} rows: {why}; that is about "
                     f"{needed:,} rows; collect more, or fit on a larger part (--fit-part)")  # fmt: skip


def _rows_for(share: float | None) -> int:
    """How many rows have one on either side of the threshold of a share."""
    return 0 if share is None or not 0.0 < share < 1.0 else math.ceil(1.0 / min(share, 1.0 - share))


def rules(rows: LabelledRows, fitted: Mask) -> tuple[str, ...]:
    """The rules that such rows, of which those bool [n] are fitted on, can fit, the simplest first."""
    inputs, apart = (WITH_INPUTS,) if usable(rows) else (), () if few_new_items(rows, fitted) else (NEW_APART,)
    return (*RULES, *inputs, *apart)


def usable(rows: LabelledRows) -> tuple[str, ...]:
    """The gate's inputs that serving knows, and that are not the same in every row."""
    return gate_fit.usable(rows.inputs)


def fit_fusion(rows: LabelledRows, fitted: Mask, rule: str, kind: str) -> Fusion:
    """A rule of `rules` behind maps of a kind, fitted on the rows bool [n], which need an answer of the LLM."""
    maps = PLAIN if kind == "none" else fit_maps(rows, fitted, kind)
    return _settled(_rule(rows, fitted, rule, maps, usable(rows)))


def _settled(rule: Fusion) -> Fusion:
    """A rule that hears nothing but the base model's score gives routed rows what the others have: no second map of
    the same score changes the order."""
    if not rule.deaf or rule.beside:
        return rule
    maps = rule.maps if rule.maps is PLAIN else replace(rule.maps, crm=rule.maps.alone)
    return Fusion("stack", (0.0, 1.0, 0.0), maps)


def without_llm(rows: LabelledRows, fitted: Mask, rule: Fusion) -> Fusion | None:
    """A rule that was fitted on the rows bool [n], fitted as if the LLM had said the same of each: what weighing the
    base model's score, and inputs, brings without it. None for a rule that weighs nothing."""
    if rule.rule != "stack" or not fitted.any():
        return None
    if rule.deaf:
        return rule
    mute = replace(rows, llm=np.where(rows.known, 0.5, np.nan))
    name = WITH_INPUTS if rule.beside else "stack" if rule.new_items is None else NEW_APART
    return _rule(mute, fitted, name, rule.maps, rule.needs)


def _rule(rows: LabelledRows, fitted: Mask, rule: str, maps: Maps, names: tuple[str, ...]) -> Fusion:
    if rule == NEW_APART:
        known, new = (_rule(rows, part, "stack", maps, ()) for part in _by_item(rows, fitted))
        return replace(known, new_items=new.weights)
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
    parts, names = list(_parts(rows, held)), rules(rows, fitting(rows, policy))
    judged = rows if held is None else held
    for kind in KINDS:
        fits = [(train, fitting(train, policy), test, at) for train, test, at in parts]
        maps = [PLAIN if kind == "none" else fit_maps(train, fitted, kind) for train, fitted, _, _ in fits]
        for rule in names:
            p = np.empty(len(judged))
            for (train, fitted, test, at), of in zip(fits, maps, strict=True):
                made = _settled(_rule(train, fitted, rule, of, usable(rows)))
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
