"""What a study says of a recipe without an LLM: its base model alone, on all rows and in parts, beside no learning."""

from __future__ import annotations

from collections.abc import Mapping

from corella_edge.routing.log_odds import sigmoid
from corella_edge_export.evaluation.boundary import calibration
from corella_edge_export.evaluation.groups import about, parts
from corella_edge_export.evaluation.scored import Floats, Json, ScoredJudge, ScoredRows, gains, shown
from corella_edge_export.study.analysis import DRAWS, RANKING, merged


def analyse(rows: ScoredRows, name: str, plain: Mapping[str, Floats], draws: int = DRAWS, seed: int = 0) -> Json:
    """Figures of one trained base model, `rows.crm`.

    Args:
        plain: scores float64 [n] of any scale, of rankings without learning, by name.
        seed: of the draws of users, not of the training.
    """
    found: Json = {}
    for part, mask in parts(rows).items():
        judge = ScoredJudge(rows.part(mask), draws, seed)
        own = judge(judge.rows.crm)
        found[part] = {**about(judge.rows), "crm": shown(own)}
        for of, scores in plain.items():
            other = {metric: judge(sigmoid(scores[mask]))[metric] for metric in RANKING}
            over = gains({metric: own[metric] for metric in RANKING}, other)
            found[part][of] = {**shown(other), "crm_over": over}
    return {
        "name": name, "draws": draws, "test": about(rows), "parts": found,
        "calibration": {"crm": calibration(rows.crm, rows.labels)},
    }  # fmt: skip


def combine(analyses: Mapping[str, Json]) -> Json:
    """Analyses by training seed as one, as `analysis.combine` does; there is no claim to list."""
    return {**merged(list(analyses.values())), "seeds": {seed: {} for seed in analyses}}
