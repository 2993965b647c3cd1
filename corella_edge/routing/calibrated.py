"""A policy fitted on the earlier part of a log and reported on the later one: one JSON value with everything. Pure.

Nothing of the later part is looked at before the policy is fixed, but for whether it is enough to show a gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.judge import Json, gains, shown
from corella_edge.metrics import Sampled, row_loss
from corella_edge.routing.curve import Cost, HeldOut, curve, cut, knee, point, won
from corella_edge.routing.decision import Reach
from corella_edge.routing.decision_curve import in_report
from corella_edge.routing.fit import BASE, LEAST_SHARE, choose, fit_fusion, fitting, is_new, without_llm
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.labelled import Floats, LabelledRows
from corella_edge.routing.measure import BY_ENTROPY, Measure, entropy
from corella_edge.routing.order import order
from corella_edge.routing.parts import Enough, Parts, by_time, enough, traps, unequal
from corella_edge.routing.policy import RATIOS, Calibration, Policy
from corella_edge.routing.promised import Promise, promised, realised
from corella_edge.routing.routing_file import CALIBRATED_ON, calibration_json, finite

FORMAT = 1
QUANTILES = 1001  # of the base model's probability
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
        InputError: what the measure looks at is not in the log, no row has the LLM's score, or the later part is too
            small to show the gain that is wanted: the number of rows that would is named.
    """
    parts = by_time(rows, wanted.part) if later is None else Parts(rows, later)
    check_parts(parts, wanted.measure)
    fit, held = (_held(part, wanted) for part in (parts.fit, parts.held))
    bend = knee(fit)
    share = (bend or 0.0) if wanted.share is None else wanted.share
    threshold, told = cut(fit.values, share), dict[str, Any]()
    if wanted.promise is not None:
        threshold, told = _promised(wanted.promise, wanted, parts, held, share)
        share = float((fit.values >= threshold).mean())
    power, reach = _enough(held, threshold, wanted.gain, wanted.fusion), _reach(parts.fit, wanted)
    by_llm = _by_llm(held, threshold, wanted)
    result = {
        "format": FORMAT,
        "parts": {"fit": about(parts.fit), "held_out": about(parts.held),
                  "users_in_both": len(np.intersect1d(parts.fit.user, parts.held.user))},
        "measure": wanted.measure.to_json(), "fusion": wanted.fusion.to_json(),
        "wanted": wanted.share, "knee": bend, "share": share,
        "power": {"smallest": power.smallest, "wanted": power.wanted, "needed": power.needed,
                  "positive_users": power.positive, "negative_users": power.negative, "told": str(power)},
        "weights": _weights(held),
        **_judged(fit, held, threshold, wanted), "by_llm": by_llm,
        "promise": told or None, "reach": None if reach is None else reach.to_json(),
        "top": in_report(parts.held, held.values, wanted.fusion, _thresholds(fit, wanted), reach, wanted.cost,
                         wanted.draws),
        "warnings": [*_doubts(wanted, bend, parts.fit, by_llm), *traps(parts, held.values)],
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
    rows without them. None for a rule that weighs nothing, where that is all of it."""
    if wanted.mute is None:
        return None
    other, chosen = HeldOut(held.rows, held.values, wanted.mute, wanted.draws), held.chosen(threshold)
    return gains(held.judge(held.answer(chosen)), held.judge(other.answer(chosen)))


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


def check_parts(parts: Parts, measure: Measure) -> None:
    """Raises InputError where a part lacks what the measure looks at, or any score of the LLM."""
    for name, part in (("earlier", parts.fit), ("later", parts.held)):
        _check(name, part, measure)


def _check(name: str, part: LabelledRows, measure: Measure) -> None:
    missing = [needed for needed in measure.needs if needed not in part.inputs]
    if missing:
        raise InputError(f"the measure {measure.name} looks at the column input.{missing[0]}, which the log has not")
    if not part.known.any():
        raise InputError(f"llm: no row of the {name} part has the LLM's score; to show what asking "
                         "brings, take a sample of its answers down (`serve --shadow`)")  # fmt: skip


def _held(part: LabelledRows, wanted: Wanted) -> HeldOut:
    return HeldOut(part, measured(part, wanted.measure), wanted.fusion, wanted.draws)


def unheard(rows: LabelledRows, rule: Fusion) -> bool:
    """Whether a routed row's score is the same whatever the LLM answers."""
    no, yes = (rule(rows.crm, np.full(len(rows), answer), rows.inputs) for answer in (0.0, 1.0))
    return np.array_equal(no, yes)


def _enough(held: HeldOut, threshold: float, gain: float, rule: Fusion) -> Enough:
    """Raises InputError, which says how many rows would be enough."""
    chosen = held.chosen(threshold)
    if not chosen.any():  # what the LLM alone gains is all there is to see
        chosen = held.chosen(-math.inf)
    difference = None
    if not unheard(held.judged, rule) and not np.array_equal(held.answer(chosen), held.alone):
        figures, crm = held.judge(held.answer(chosen))["auc"], held.judge(held.alone)["auc"]
        difference = Sampled(figures.value - crm.value, figures.draws - crm.draws)
    found = enough(held.judged, difference, gain)
    if not found.holds:
        raise InputError(f"too few rows: {found}; {found.advice}")
    return found


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
        "models": {"crm": shown(held.judge(crm)), "llm": shown(held.judge(np.where(known, held.judged.llm, crm)))},
        "curve": curve(held, thresholds, wanted.cost),
        "policy": point(held, threshold, wanted.cost),
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


def _doubts(wanted: Wanted, bend: float | None, rows: LabelledRows, by_llm: Json | None) -> list[str]:
    found, asked = [], int(rows.known.sum())
    if unheard(rows, wanted.fusion):
        found.append("the fusion that the earlier rows have fitted gives the LLM's score no weight: what it answers "
                     "changes nothing, so ask about nothing (--share 0), or train a better LLM")  # fmt: skip
    elif (
        by_llm is not None and not (by_llm["auc"]["low"] or 0.0) > 0.0 and not (by_llm["logloss"]["high"] or 0.0) < 0.0
    ):
        found.append("what the policy gains is not shown to come from the LLM: the same fusion, fitted without its "
                     "answers, gains as much")  # fmt: skip
    new = is_new(rows)
    for name, of in (("known", ~new), ("new", new)) if wanted.fusion.new_items is not None else ():
        if not unheard(rows, wanted.fusion) and unheard(rows.take(of), wanted.fusion):
            found.append(f"the fusion gives the LLM's score no weight where the item is a {name} one: asking about "
                         "such candidates changes nothing")  # fmt: skip
    if wanted.share is None and bend is None:
        found.append("no share of the earlier part gains any AUC by asking the LLM: the policy asks it about nothing")
    if wanted.miss is not None and asked < Reach.least(wanted.miss):
        found.append(f"how far asking moves a score, at miss {wanted.miss:g}, takes {Reach.least(wanted.miss):,} rows "
                     f"of the earlier part with the LLM's score, and {asked:,} have one: requests with top_k will ask "
                     "about every routed candidate")  # fmt: skip
    elif wanted.miss is not None and unequal(rows.take(rows.known)) is not None:
        found.append("how far asking moves a score is not fitted on rows of which some stand for more than others: "
                     "requests with top_k will ask about every routed candidate")  # fmt: skip
    return found


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


def moment(seconds: float) -> str:
    """A Unix time as ISO 8601 in UTC; a number where the calendar does not reach."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


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
        "probabilities": np.quantile(fit.crm, np.linspace(0.0, 1.0, QUANTILES)).tolist(),
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
