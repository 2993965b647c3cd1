"""Everything the study says of a trained variant, as JSON; the ablation table; and both over training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corella_edge.routing.log_odds import sigmoid
from corella_edge.routing.policy import RATIOS, Calibration
from corella_edge_export.evaluation.boundary import SHARE, boundary, calibration
from corella_edge_export.evaluation.fusion import routed
from corella_edge_export.evaluation.groups import about, by_user, parts, thirds
from corella_edge_export.evaluation.scored import (
    Figures,
    Floats,
    Json,
    ScoredJudge,
    ScoredRows,
    ScoredSplits,
    gains,
    percents,
    shown,
)
from corella_edge_export.evaluation.shares import CANDIDATES, curve, operating_point, operation, replaced

DRAWS = 2000
CLAIM = {"auc": 0.72, "accuracy": 1.08}  # the paper's lift over the best baseline, percent
RANKING = ("auc", "uauc")  # metrics that scores need be no probabilities for
MAX_SHARE = 0.3  # of test rows, for the claim to count


def analyse(pair: ScoredSplits, name: str, draws: int = DRAWS, seed: int = 0, ratios: Sequence[float] = RATIOS,
            candidates: Sequence[float] = CANDIDATES, share: float = SHARE) -> Json:  # fmt: skip
    """All figures of one trained variant on its test rows.

    Args:
        seed: of the draws of users and of random routing, not of the training.
        candidates: validation ratios among which the point of operation is chosen.
        share: validation ratio of the rows on which the boundary shift is measured.
    """
    judge, how = ScoredJudge(pair.test, draws, seed), operation(pair.valid, candidates)
    point = operating_point(pair, judge, how)
    models = {"base": pair.test.base, "crm": pair.test.crm, "llm": pair.test.llm_or_crm}
    return {
        "name": name, "draws": draws, "valid": about(pair.valid), "test": about(pair.test),
        "answered": float(pair.test.answered.mean()),
        "curve": curve(pair, judge, ratios, seed),
        "operating_point": point, "claim": claim(point),
        "users": by_user(pair.test, how, draws, seed, judge),
        "groups": thirds(pair.test, draws, seed),
        "boundary": boundary(pair, share, draws, seed),
        "calibration": {model: calibration(p, pair.test.labels) for model, p in models.items()},
    }  # fmt: skip


def against(pair: ScoredSplits, scores: Floats, draws: int = DRAWS, seed: int = 0,
            candidates: Sequence[float] = CANDIDATES) -> Json:  # fmt: skip
    """Another ranking of the test rows, scores float64 [n] of any scale, by part: its AUC and UAUC, what ours gain."""
    how = operation(pair.valid, candidates)
    final = how.scores(pair.test)
    found: Json = {}
    for name, mask in parts(pair.test).items():
        rows = pair.test.part(mask)
        judge = ScoredJudge(rows, draws, seed)
        other = {metric: figures for metric, figures in judge(sigmoid(scores[mask])).items() if metric in RANKING}
        ours = {"base": rows.base, "crm": rows.crm, "llm": rows.llm_or_crm, "routed": final[mask]}
        found[name] = {**about(rows), **shown(other)}
        for model, p in ours.items():
            figures = judge(p)
            found[name][f"{model}_over"] = gains({metric: figures[metric] for metric in RANKING}, other)
    return found


def claim(point: Json) -> Json:
    """The main claim: the relative lift over the stage-1 CRM, its interval above zero, the share small enough."""
    found: Json = {"share": point["share"], "within_share": point["share"] <= MAX_SHARE}
    for metric, target in CLAIM.items():
        percent = point["over_base_percent"][metric]
        value, low = percent["value"], percent["low"]
        found[metric] = {
            "gain": point["over_base"][metric], "percent": percent, "target": target,
            "above_zero": low is not None and low > 0, "reached": value is not None and value >= target,
        }  # fmt: skip
    return found


def ablation(rows: Mapping[str, ScoredSplits], draws: int = DRAWS, seed: int = 0,
             candidates: Sequence[float] = CANDIDATES) -> list[Json]:  # fmt: skip
    """One row a variant at its own point of operation, the full system first; then its models without routing.

    Gains over the full system and over its stage-1 CRM are paired; `over_crm` is what routing adds to a variant's CRM.

    Raises:
        ValueError: no variant, or variants with different test rows.
    """
    full = _same_rows(rows)
    judge = ScoredJudge(full, draws, seed)
    systems = [(name, pair.test, operation(pair.valid, candidates)) for name, pair in rows.items()]
    final = systems[0][2].scores(full)
    table = [_row(name, judge, how.scores(test), final, test.crm, how.about(test)) for name, test, how in systems]
    alone = {"without routing": (full.crm, 0.0), "LLM alone": (full.llm_or_crm, float(full.answered.mean())),
             "stage-1 CRM": (full.base, 0.0)}  # fmt: skip
    return table + [_row(name, judge, p, final, full.crm, {"share": share}) for name, (p, share) in alone.items()]


def by_variant(
    rows: Mapping[str, ScoredSplits], draws: int = DRAWS, seed: int = 0, share: float = SHARE
) -> dict[str, Json]:
    """Each variant's models alone, and `replace` at one validation ratio, beside the full system's and stage 1.

    Nothing is fitted: `stack` takes a shift of the LLM's scores back, here it shows. Gains are paired.

    Raises:
        ValueError: no variant, or variants with different test rows.
    """
    full = _same_rows(rows)
    judge = ScoredJudge(full, draws, seed)
    found = {name: _unfitted(pair, share) for name, pair in rows.items()}
    first = {model: judge(p) for model, p in next(iter(found.values())).items()}
    return {
        name: {model: _beside(judge(p), first[model], judge(full.base)) for model, p in scores.items()}
        for name, scores in found.items()
    }  # fmt: skip


def _unfitted(pair: ScoredSplits, share: float) -> dict[str, Floats]:
    chosen = routed(pair.test, Calibration.fit(pair.valid.entropies).threshold(share))
    return {"crm": pair.test.crm, "llm": pair.test.llm_or_crm, "replace": replaced(pair.test, chosen)}


def _beside(found: Figures, full: Figures, base: Figures) -> Json:
    return {**shown(found), "over_full": gains(found, full), "over_base": gains(found, base)}


def _same_rows(rows: Mapping[str, ScoredSplits]) -> ScoredRows:
    if not rows:
        raise ValueError("an ablation needs a variant, the full system first")
    first, *others = (pair.test for pair in rows.values())
    for other in others:
        if not (np.array_equal(other.labels, first.labels) and np.array_equal(other.users, first.users)):
            raise ValueError("all variants of an ablation need the same test rows in the same order")
    return first


def _row(name: str, judge: ScoredJudge, p: Floats, full: Floats, crm: Floats, how: Json) -> Json:
    found, base = judge(p), judge(judge.rows.base)
    return {
        "name": name, **how, **shown(found),
        "over_full": gains(found, judge(full)), "over_crm": gains(found, judge(crm)),
        "over_base": gains(found, base), "over_base_percent": percents(found, base),
    }  # fmt: skip


def combine(analyses: Mapping[str, Json]) -> Json:
    """Analyses of the same variant by training seed as one: of the same shape, with mean and sd in place of figures.

    An interval becomes {"value": mean, "sd", "low", "high"}, its ends the means of the seeds' ends; a number that
    differs becomes {"value": mean, "sd"}; words that differ are listed. The main claim of each seed is under "seeds".
    """
    found: Json = merged(list(analyses.values()))
    return {**found, "seeds": {seed: found["claim"] for seed, found in analyses.items()}}


def combine_ablations(tables: Sequence[list[Json]]) -> list[Json]:
    """Ablation tables of several training seeds as one, as `combine` does."""
    found: list[Json] = merged(list(tables))
    return found


def merged(parts: list[Any]) -> Any:
    """Figures of the same shape as one, as `combine` says."""
    first = parts[0]
    if all(isinstance(part, dict) for part in parts):
        if first.keys() == {"value", "low", "high"}:
            low, high = (_spread([part[end] for part in parts])["value"] for end in ("low", "high"))
            return {**_spread([part["value"] for part in parts]), "low": low, "high": high}
        keys = [key for key in first if all(key in part for part in parts)]
        return {key: merged([part[key] for part in parts]) for key in keys}
    if all(isinstance(part, list) and len(part) == len(first) for part in parts):
        return [merged(list(items)) for items in zip(*parts, strict=True)]
    if all(part == first for part in parts):
        return first
    if any(isinstance(part, float | int) and not isinstance(part, bool) for part in parts):
        return _spread(parts)
    return parts


def _spread(values: list[Any]) -> Json:
    """Mean and sd (n - 1) over seeds; null where a seed has no figure, or for the sd of one seed."""
    if not all(isinstance(value, float | int) for value in values):
        return {"value": None, "sd": None}
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"value": float(np.mean(values)), "sd": sd}
