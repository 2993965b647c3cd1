"""routing.json of a bundle: thresholds as quantiles of validation rows, and the fusion rule fitted on them."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from corella_edge import metrics
from corella_edge.errors import ExportError, InputError
from corella_edge.routing.calibrated import Wanted, calibrated, check_parts, fused, record
from corella_edge.routing.fit import choose
from corella_edge.routing.fit import fitting as fitting_rows
from corella_edge.routing.forms import OWN, parse_threshold
from corella_edge.routing.fusion import REPLACE, RULES, Fusion, fuse
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import BY_ENTROPY, NEVER, Entropy, Inputs, Measure
from corella_edge.routing.parts import by_time as cut_by_time
from corella_edge.routing.policy import RATIOS, UNASKABLE, Calibration, Policy, Routing
from corella_edge.routing.routing_file import calibration_json, parse_routing
from corella_edge_export.evaluation.fusion import fitting, fusion, routed
from corella_edge_export.evaluation.scored import Json, ScoredRows, number
from corella_edge_export.evaluation.shares import CANDIDATES

# `stack` is fitted on at least this share of the validation rows, the largest that the study may choose. Among the
# hardest 5 % the CRM's logit hardly differs: its weight is noise there, and requests with a wider threshold meet it.
FIT_SHARE = CANDIDATES[-1]


BEST = "best"
FUSIONS = (*RULES, BEST)
MEASURES = ("entropy", "centred")
QUANTILES = 1001  # of the base model's probability
DRAWS = 500  # of the bootstrap, a quarter of a report's: an export waits for it


def routing(policy: str, rule_name: str, valid: ScoredRows, log: LabelledRows, measure_name: str = "entropy") -> Json:
    """What routing.json holds.

    Args:
        policy: the bundle's own threshold, as a recipe writes it.
        rule_name: how both scores of a routed row become one; `BEST`: whatever rows that fitted nothing like best.
        valid: the calibration rows. log: the same, as fits take them.
        measure_name: "centred": the entropy, with its greatest value at the rows' base rate.

    Raises:
        ExportError: no rows to fit the rule on, or of one class where a base rate is needed.
    """
    rate = float(valid.labels.mean())
    measure = BY_ENTROPY if measure_name == "entropy" else _centred(rate)
    known = _known(policy, measure, valid)
    own = parse_threshold(OWN.prefix, known)
    fusions, best = _fusions(log, own)
    rule, about = best if rule_name == BEST else rule_for(rule_name, policy, valid)
    assert known.calibration is not None
    return {
        "threshold": policy, **about, **_measured(known), "calibration": calibration_json(known.calibration),
        "table": [_table_row(ratio, valid, rule, known, log.inputs) for ratio in RATIOS],
        "rows": len(valid), "base_rate": rate, **fusions,
        "probabilities": np.quantile(valid.crm, np.linspace(0.0, 1.0, QUANTILES)).tolist(),
    }  # fmt: skip


def by_time(made: Json, rule_name: str, log: LabelledRows) -> Json:
    """What `calibrate` would report of the validation rows: fitted on the earlier half, figures of the later.

    The bundle's own thresholds and fusion stay those of all rows. Too few rows: why there is no report.

    Args:
        made: routing.json so far.
    """
    known = parse_routing(made)
    policy = parse_threshold(OWN.prefix, replace(known, cost=UNASKABLE))
    wanted = Wanted(known.measure, known.fusion, None if policy.budget else known.share(policy), draws=DRAWS)
    try:
        parts = cut_by_time(log)
        check_parts(parts, wanted.measure)
        wanted, _ = fused(parts, wanted, rule_name)
        return record(calibrated(parts.fit, wanted, parts.held).result)
    except InputError as error:
        return {"refused": str(error).partition("; collect more")[0]}  # an export takes the rows that there are


def _centred(rate: float) -> Measure:
    if not 0.0 < rate < 1.0:
        raise ExportError("measure: centred needs calibration rows of both classes; take entropy")
    return Entropy(rate)


def _known(policy: str, measure: Measure, valid: ScoredRows) -> Routing:
    """By which thresholds become policies; what asking costs is not known here, so that no budget pays for it."""
    values = None if measure is BY_ENTROPY else Calibration.fit(measure(valid.crm), least=measure.least)
    return Routing(policy, Calibration.fit(valid.entropies), measure, values, cost=UNASKABLE)


def _measured(known: Routing) -> Json:
    """The object `policy` of another measure than the entropy."""
    if known.values is None:
        return {}
    return {"policy": {"measure": known.measure.to_json(), **calibration_json(known.values)}}


def _fusions(log: LabelledRows, own: Policy) -> tuple[Json, tuple[Fusion, Json]]:
    """Every rule behind every map, judged out of fold, for routing.json; and the best, with what is told of its fit."""
    if not log.known.any():
        return {}, (REPLACE, {})
    found = choose(log, own)
    fit = {"split": "valid", "rows": int(fitting_rows(log, own).sum()), "chosen_by": "log-loss, out of fold",
           "new_items": found.about_new_items}  # fmt: skip
    return {"fusions": found.table}, (found.policy.fusion, {"fusion": {**found.policy.fusion.to_json(), "fit": fit}})


def _table_row(ratio: float, valid: ScoredRows, rule: Fusion, known: Routing, inputs: Inputs) -> Json:
    """What routing the `ratio` hardest of the calibration rows gives."""
    policy = parse_threshold(f"ratio:{ratio:g}", known)
    chosen = np.zeros(len(valid), np.bool_)
    chosen[policy.route(valid.crm)[0]] = True
    chosen &= valid.answered
    found = metrics.quality(fuse(valid.crm, valid.llm, chosen, rule, inputs), valid.labels)
    figures = {name: number(value) for name, value in asdict(found).items()}  # rows of one class have no AUC
    return {"ratio": ratio, "threshold": number(policy.threshold), "share": float(chosen.mean()), **figures}


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
    own = parse_threshold(policy, Routing(calibration=calibration, cost=UNASKABLE))
    threshold = fitting(valid, min(NEVER if own.nats is None else own.nats, calibration.threshold(FIT_SHARE)))
    rows = routed(valid, threshold)
    if len(np.unique(valid.labels[rows])) < 2:
        raise ExportError("fusion: stack needs calibration rows of both classes that the LLM answers; take blend")
    rule = fusion("stack", valid, threshold)
    fit = {"split": "valid", "rows": int(rows.sum()), "threshold": threshold}
    return rule, {"fusion": {**rule.to_json(), "fit": fit}}
