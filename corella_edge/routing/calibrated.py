"""A policy fitted on the earlier part of a log and reported on the later one: one JSON value with everything. Pure.

Nothing of the later part is looked at before the policy is fixed, but for whether it is enough to show a gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.judge import NDCG, Json, better, gains, shown, worse_order
from corella_edge.metrics import Sampled, row_loss
from corella_edge.routing.curve import Cost, HeldOut, curve, cut, knee, point, won
from corella_edge.routing.decision import Reach
from corella_edge.routing.decision_curve import in_report
from corella_edge.routing.fit import BASE, LEAST_SHARE, check_enough, choose, fit_fusion, fitting, is_new, without_llm
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.labelled import Floats, LabelledRows
from corella_edge.routing.maps import PLAIN
from corella_edge.routing.measure import BY_ENTROPY, Measure, entropy
from corella_edge.routing.order import order
from corella_edge.routing.parts import Enough, Parts, by_time, check_apart, enough, moment, traps, unequal
from corella_edge.routing.policy import RATIOS, Calibration, Policy, probability_points
from corella_edge.routing.promised import Promise, promised, realised
from corella_edge.routing.routing_file import CALIBRATED_ON, calibration_json, finite

FORMAT = 2  # in 1, `over_crm` is over the base model behind the maps
NAMES = {"auc": "AUC", NDCG: "NDCG@10"}
BEST, KEEP = "best", "keep"  # fusions: that of the lowest log-loss, that of the bundle
KEPT = ("parts", "measure", "wanted", "knee", "share", "power", "policy", "by_llm", "apgr", "warnings", "promise",
        "gate")  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What to fit.

    Attributes:
        measure: orders the candidates.
        fusion: makes one probability of both models' where routed.
        share: the routed share that is wanted; None = at the knee of the earlier part's curve.
        ratios: shares that are reported on, beside 0 and 1.
        gain: the smallest true gain in AUC that the later part must be able to show.
        part: about this share of the rows, the earliest, is fitted on.
        cost: LLM milliseconds of (asked candidates, touched requests); None = not known.
        draws: of the bootstrap over users.
        promise: what the threshold has to keep; None = it is the quantile of the wanted share.
        fresh: rows that the measure was not fitted on, for the promise; None = the earlier part are such.
        mute: `fusion`, fitted without the LLM's answers; None = not known, or it weighs nothing.
        miss: of the asked rows, whose score may move further than the reach says; None = no reach is fitted.
    """

    measure: Measure = BY_ENTROPY
    fusion: Fusion = REPLACE
    share: float | None = None
    ratios: Sequence[float] = RATIOS
    gain: float = 0.01
    part: float = 0.5
    cost: Cost | None = None
    draws: int = 2000
    promise: Promise | None = None
    fresh: LabelledRows | None = None
    miss: float | None = None
    mute: Fusion | None = None


@dataclass(frozen=True)
class Calibrated:
    """A fitted policy.

    Attributes:
        share: the share that it was fitted for.
        threshold: least value of the measure that is routed; inf = never, -inf = always.
        parts: of the log.
        values: of the measure on the earlier part, float64 [n]: what the threshold is a quantile of.
        result: everything that is reported, ready for JSON.
    """

    share: float
    threshold: float
    parts: Parts
    values: Floats
    result: Json


def calibrated(rows: LabelledRows, wanted: Wanted, later: LabelledRows | None = None) -> Calibrated:
    """Fit on the earlier part of `rows` and report on the later; or on all of `rows` and report on `later`.

    Raises:
        InputError: see `check_parts`; or the later part is too small to show the gain that is wanted: the number of
            rows that would is named.
    """
    parts = by_time(rows, wanted.part) if later is None else Parts(rows, later)
    check_parts(parts, wanted)
    fit, held = (_held(part, wanted) for part in (parts.fit, parts.held))
    bend = knee(fit)
    share = (bend or 0.0) if wanted.share is None else wanted.share
    threshold, told = cut(fit.values, share), dict[str, Any]()
    if wanted.promise is not None:
        threshold, told = _promised(wanted.promise, wanted, parts, held, share)
        share = float((fit.values >= threshold).mean())
    power, reach = _enough(held, threshold, wanted), _reach(parts.fit, wanted)
    by_llm = _by_llm(held, threshold, wanted)
    judged = _judged(fit, held, threshold, wanted)
    result = {
        "format": FORMAT,
        "parts": {"fit": about(parts.fit), "held_out": about(parts.held),
                  "users_in_both": len(np.intersect1d(parts.fit.user, parts.held.user))},
        "measure": wanted.measure.to_json(), "fusion": wanted.fusion.to_json(),
        "wanted": wanted.share, "knee": bend, "share": share,
        "power": power and _told(power),
        "weights": _weights(held),
        **judged, "by_llm": by_llm,
        "promise": told or None, "reach": None if reach is None else reach.to_json(),
        "top": in_report(parts.held, held.values, wanted.fusion, _thresholds(fit, wanted), reach, wanted.cost,
                         wanted.draws),
        "warnings": [*_doubts(wanted, bend, parts.fit, judged["policy"], by_llm), *_of_order(judged),
                     *traps(parts, held.values)],
    }  # fmt: skip
    return Calibrated(share, threshold, parts, fit.values, result)


def fused(parts: Parts, wanted: Wanted, name: str) -> tuple[Wanted, Json]:
    """The wanted policy with the fusion of that name, fitted on the earlier part; and every fusion on both parts.

    `BEST` is the one that the earlier part likes best, each of its rows judged by what other users' rows have fitted;
    `KEEP` keeps the wanted one. The later part only reports.
    """
    share = LEAST_SHARE if wanted.share is None else wanted.share
    values = measured(parts.fit, wanted.measure)
    policy = Policy(wanted.measure, _plain(cut(values, share), wanted.measure))
    found = choose(parts.fit, policy)
    made = {BEST: lambda: found.policy.fusion, KEEP: lambda: wanted.fusion}
    plain = partial(fit_fusion, parts.fit, fitting(parts.fit, policy), name, "none")
    rule = made.get(name, plain)()
    best = {(row["rule"], row["maps"]) for row in found.table if row["chosen"]}
    later = choose(parts.fit, policy, parts.held)
    for row in later.table:
        row["chosen"] = (row["rule"], row["maps"]) in best
    new = {part: [row for row in of.of_new if row["rule"] == BASE or row["maps"] in {kind for _, kind in best}]
           for part, of in (("earlier", found), ("later", later))}  # fmt: skip
    told = {"wanted": name, "taken": rule.to_json(), "earlier": found.table, "later": later.table, "note": found.note,
            "new_items": {**new, "told": found.about_new_items if name == BEST else ""}}  # fmt: skip
    mute = None if name == KEEP else without_llm(parts.fit, fitting(parts.fit, policy), rule)
    return replace(wanted, fusion=rule, mute=mute), told


def _promised(promise: Promise, wanted: Wanted, parts: Parts, held: HeldOut, share: float) -> tuple[float, Json]:
    """The threshold, from rows that the measure was not fitted on, and what the later part says of the promise."""
    rows = parts.fit if wanted.fresh is None else wanted.fresh
    threshold, told = promised(promise, rows, measured(rows, wanted.measure), share)
    return threshold, {**told, "missed_later": realised(parts.held, held.values, threshold, wanted.draws)}


def _by_llm(held: HeldOut, threshold: float, wanted: Wanted) -> Json | None:
    """What the LLM's answers bring of the policy's gain: paired with the same fusion, fitted and applied to the same
    rows without them; with the mapped base model for a rule that weighs nothing, and without maps None, where that is
    all of it."""
    rule, chosen = wanted.fusion, held.chosen(threshold)
    if wanted.mute is None and (rule.maps is PLAIN or rule.rule == "stack"):
        return None
    other = held if wanted.mute is None else HeldOut(held.rows, held.values, wanted.mute, wanted.draws)
    without = held.alone if wanted.mute is None else other.answer(chosen)
    return gains(held.judge(held.answer(chosen)), held.judge(without))


def _reach(rows: LabelledRows, wanted: Wanted) -> Reach | None:
    """How far asking moves a score; None where it is not wanted, the rows are too few to say, or each stands for a
    number of its own."""
    asked, rule = rows.take(rows.known), wanted.fusion
    if wanted.miss is None or len(asked) < Reach.least(wanted.miss) or unequal(asked) is not None:
        return None
    return Reach.fit(rule.alone(asked.crm), rule(asked.crm, asked.llm, asked.inputs), wanted.miss)


def measured(rows: LabelledRows, measure: Measure) -> Floats:
    """Values of the measure, float64 [n]."""
    return measure(rows.crm, rows.inputs_for(measure.needs))


def check_parts(parts: Parts, wanted: Wanted) -> None:
    """Raises InputError where a part lacks what the measure looks at, or any score of the LLM, the parts are not apart,
    or the earlier one is too small to fit on."""
    for name, part in (("earlier", parts.fit), ("later", parts.held)):
        _check(name, part, wanted.measure)
    check_apart(parts)
    if wanted.share != 0.0 or wanted.promise is not None:  # else nothing is asked, whatever is fitted
        check_enough(parts.fit, wanted.share)


def _check(name: str, part: LabelledRows, measure: Measure) -> None:
    missing = [needed for needed in measure.needs if needed not in part.inputs]
    if missing:
        raise InputError(f"the measure {measure.name} looks at the column input.{missing[0]}, which the log has not")
    if not part.known.any():
        raise InputError(f"llm: no row of the {name} part has the LLM's score; to show what asking "
                         "brings, take a sample of its answers down (`serve --shadow`)")  # fmt: skip
    if (part.label == part.label[0]).all():
        raise InputError(f"label: it is {part.label[0]:g} in every row of the {name} part; rows with label 1 and rows "
                         "with label 0 are needed")  # fmt: skip


def _held(part: LabelledRows, wanted: Wanted) -> HeldOut:
    return HeldOut(part, measured(part, wanted.measure), wanted.fusion, wanted.draws)


def unheard(rows: LabelledRows, rule: Fusion) -> bool:
    """Whether a routed row's score is the same whatever the LLM answers."""
    no, yes = (rule(rows.crm, np.full(len(rows), answer), rows.inputs) for answer in (0.0, 1.0))
    return np.array_equal(no, yes)


def _enough(held: HeldOut, threshold: float, wanted: Wanted) -> Enough | None:
    """None where nothing is to be routed, so that no gain is looked for; but that no share gains anything, as a knee
    says it, takes rows that would show a gain.

    Raises:
        InputError: says how many rows would be enough.
    """
    chosen = held.chosen(threshold)
    if threshold == math.inf and (wanted.share is not None or wanted.promise is not None):
        return None
    if not chosen.any():  # what the LLM alone gains is all there is to see
        chosen = held.chosen(-math.inf)
    difference = None
    if not unheard(held.judged, wanted.fusion) and not np.array_equal(held.answer(chosen), held.alone):
        figures, crm = held.judge(held.answer(chosen))["auc"], held.base["auc"]
        difference = Sampled(figures.value - crm.value, figures.draws - crm.draws)
    found = enough(held.judged, difference, wanted.gain)
    if not found.holds:
        raise InputError(f"too few rows: {found}; {found.advice}")
    return found


def _told(power: Enough) -> Json:
    return {"smallest": power.smallest, "wanted": power.wanted, "needed": power.needed,
            "positive_users": power.positive, "negative_users": power.negative, "told": str(power)}  # fmt: skip


def _thresholds(fit: HeldOut, wanted: Wanted) -> dict[float, float]:
    """By ratio, what routes as many of the earlier rows."""
    return {ratio: cut(fit.values, ratio) for ratio in sorted({0.0, *wanted.ratios, 1.0})}


def _judged(fit: HeldOut, held: HeldOut, threshold: float, wanted: Wanted) -> Json:
    """Figures of the later part alone."""
    thresholds = _thresholds(fit, wanted)
    known, crm = held.judged.known, held.judged.crm
    bootstrap, values = held.judge.bootstrap, held.judged_values
    worths = {"gain": np.where(known, held.helped, 0.0), "errors": row_loss(crm, held.judged.label)}
    return {
        "models": {"crm": shown(held.base), "llm": shown(held.judge(np.where(known, held.judged.llm, crm)))},
        "curve": curve(held, thresholds, wanted.cost),
        "policy": point(held, threshold, wanted.cost),
        "maps_over_crm": gains(held.judge(held.mapped(held.chosen(threshold))), held.base),
        "apgr": won(held, [*thresholds.values()]),
        "order": {name: order(values, worth, bootstrap, weight=held.weight).to_json()
                  for name, worth in worths.items()},
    }  # fmt: skip


def _weights(held: HeldOut) -> Json | None:
    """How unequally the judged rows count; None where they count alike."""
    each = held.weight
    if each is None:
        return None
    return {"rows": len(each), "largest": float(each.max()), "effective": float(each.sum() ** 2 / (each @ each))}


def _doubts(wanted: Wanted, bend: float | None, rows: LabelledRows, policy: Json, by_llm: Json | None) -> list[str]:
    return [
        *_of_gain(wanted, bend, rows, policy, by_llm),
        *_of_new_items(wanted.fusion, rows),
        *_of_reach(wanted, rows),
    ]


def _of_gain(
    wanted: Wanted, bend: float | None, rows: LabelledRows, policy: Json, by_llm: Json | None
) -> Iterator[str]:
    if wanted.share is None and bend is None:
        yield "no share of the earlier part gains any AUC by asking the LLM: the policy asks it about nothing"
    if not asks(policy):
        return
    if unheard(rows, wanted.fusion):
        yield ("the fusion that the earlier rows have fitted gives the LLM's score no weight: what it answers "
               "changes nothing, so ask about nothing (--share 0), or train a better LLM")  # fmt: skip
    elif not better(policy["over_crm"]):
        yield ("on the later rows the policy shows no gain over the base model: neither its AUC nor its log-loss is "
               "better by more than chance; ask about nothing (--share 0), collect more rows, or train a better "
               "LLM")  # fmt: skip
    elif by_llm is not None and not better(by_llm):
        yield ("what the policy gains is not shown to come from the LLM: the same fusion without its answers "
               "gains as much")  # fmt: skip


def _of_order(judged: Json) -> Iterator[str]:
    """Whether the scores order candidates worse than the bundle's did before, and whether the maps alone do; where
    nothing is asked, both are one."""
    policy = judged["policy"]["over_crm"] if asks(judged["policy"]) else {}
    for gain, what, do in (
        (judged["maps_over_crm"], "the base model's scores behind the fusion's maps order",
         "take a fusion without maps (--fusion blend, stack or replace)"),
        (policy, "the policy's scores order", "keep the bundle as it is, or take another fusion"),
    ):  # fmt: skip
        if worse := worse_order(gain):
            figures = " and ".join(f"{NAMES[name]} {gain[name]['value']:+.4f}" for name in worse)
            yield (f"on the later rows {what} the candidates worse than the base model's own scores do, by more than "
                   f"chance ({figures}): {do}")  # fmt: skip


def asks(policy: Json) -> bool:
    """Whether the fitted policy, as reported, asks the LLM about anything."""
    return policy["threshold"] is not None


def _of_new_items(rule: Fusion, rows: LabelledRows) -> Iterator[str]:
    if rule.new_items is None or unheard(rows, rule):
        return
    new = is_new(rows)
    for name, of in (("known", ~new), ("new", new)):
        if unheard(rows.take(of), rule):
            yield (f"the fusion gives the LLM's score no weight where the item is a {name} one: asking about "
                   "such candidates changes nothing")  # fmt: skip


def _of_reach(wanted: Wanted, rows: LabelledRows) -> Iterator[str]:
    asked = int(rows.known.sum())
    if wanted.miss is not None and asked < Reach.least(wanted.miss):
        yield (f"how far asking moves a score, at miss {wanted.miss:g}, takes {Reach.least(wanted.miss):,} rows "
               f"of the earlier part with the LLM's score, and {asked:,} have one: requests with top_k will ask "
               "about every routed candidate")  # fmt: skip
    elif wanted.miss is not None and unequal(rows.take(rows.known)) is not None:
        yield ("how far asking moves a score is not fitted on rows of which some stand for more than others: "
               "requests with top_k will ask about every routed candidate")  # fmt: skip


def about(rows: LabelledRows) -> Json:
    """What a part is: enough to find the rows again, and to see whether they are the same."""
    return {
        "rows": len(rows),
        "users": len(np.unique(rows.user)),
        "requests": len(np.unique(rows.request)),
        "positive": float(rows.label.mean()),
        "llm_known": float(rows.known.mean()),
        "from": moment(float(rows.time.min())),
        "to": moment(float(rows.time.max())),
        "sha256": rows.sha256(),
    }


def routing_json(old: Json, found: Calibrated, wanted: Wanted) -> Json:
    """routing.json of a bundle with the fitted policy: thresholds, figures, and what they come from.

    Quantiles are of the earlier part, figures of the later. `old` is the parent's, of which the rest stays.
    """
    fit = found.parts.fit
    policy = {"measure": wanted.measure.to_json(), "threshold": finite(_plain(found.threshold, wanted.measure))}
    if wanted.measure is not BY_ENTROPY:
        policy |= calibration_json(Calibration.fit(found.values, least=wanted.measure.least))
    new = {
        "threshold": f"ratio:{round(found.share, 9):g}",
        "policy": policy,
        "fusion": wanted.fusion.to_json(),
        "calibration": calibration_json(Calibration.fit(entropy(fit.crm))),
        "table": [_table_row(row) for row in found.result["curve"]],
        "rows": len(fit),
        "base_rate": float(fit.label.mean()),
        "probabilities": probability_points(fit.crm).tolist(),
        "calibrated": record(found.result),
        "fusions": found.result["fusions"]["earlier"] if found.result.get("fusions") else [],
    }
    reach = found.result["reach"]
    # `reach` would be that of another fusion, and the log is of this bundle's own catalogue.
    kept = {name: value for name, value in old.items() if name not in ("reach", CALIBRATED_ON)}
    return {**kept, **new, **({} if reach is None else {"reach": reach})}


def _plain(threshold: float, measure: Measure) -> float:
    """-inf, which JSON has not, as the value that no candidate is below."""
    return measure.least if threshold == -math.inf else threshold


def _table_row(row: Json) -> Json:
    plain = {name: row[name]["value"] for name in ("auc", "logloss", "accuracy")}
    return {"ratio": row["ratio"], "threshold": row["threshold"], "share": row["share"]["value"], **plain}


def record(result: Json) -> Json:
    """What a bundle keeps of a calibration: its sources, and what was found; the curve is the table beside it."""
    kept = {name: result[name] for name in KEPT if name in result}
    return {**kept, "order": {name: found["verdict"] for name, found in result["order"].items()}}
