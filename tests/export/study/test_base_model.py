"""A study of a recipe without an LLM: the base model's own figures, in parts, over seeds, and as tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corella_edge import metrics
from corella_edge_export.evaluation import tables
from corella_edge_export.evaluation.scored import ScoredRows
from corella_edge_export.study import base_model
from study_rows import rows


def alone(seed: int) -> ScoredRows:
    made = rows(seed=seed)
    return replace(made, base=made.crm, llm=np.full(len(made), np.nan), new_items=np.arange(len(made)) % 9 == 0)


def popular(made: ScoredRows) -> np.ndarray:
    return np.random.default_rng(0).normal(size=len(made)) + made.labels


def analysis(seed: int) -> dict:
    made = alone(seed)
    return base_model.analyse(made, "full", {"popularity": popular(made)}, draws=40)


def test_figures_by_hand() -> None:
    made, found = alone(1), analysis(1)
    assert list(found["parts"]) == ["all", "seen", "unseen", "unseen items"]
    for name, mask in {"all": made.labels >= 0, "seen": made.seen, "unseen items": made.new_items}.items():
        assert mask is not None
        part, own = found["parts"][name], made.part(mask)
        auc, plain = metrics.auc(own.crm, own.labels), metrics.auc(popular(made)[mask], own.labels)
        assert part["rows"] == mask.sum()
        assert part["crm"]["auc"]["value"] == pytest.approx(auc, abs=1e-12)
        assert part["popularity"]["auc"]["value"] == pytest.approx(plain, abs=1e-12)
        assert part["popularity"]["crm_over"]["auc"]["value"] == pytest.approx(auc - plain, abs=1e-12)
    json.dumps(found, allow_nan=False)


def test_seeds_become_one_and_tables_show_every_part() -> None:
    by_seed = {str(seed): analysis(seed) for seed in (1, 2, 3)}
    both = base_model.combine(by_seed)
    aucs = [found["parts"]["all"]["crm"]["auc"]["value"] for found in by_seed.values()]
    assert both["parts"]["all"]["crm"]["auc"]["value"] == pytest.approx(np.mean(aucs))
    assert both["parts"]["all"]["crm"]["auc"]["sd"] == pytest.approx(np.std(aucs, ddof=1))
    for result in (by_seed["1"], both):
        text = tables.markdown(result)
        assert text.count("\n## ") == 1
        assert "## The base model alone\n" in text
        for part in ("all", "seen", "unseen", "unseen items"):
            assert f"| {part} (" in text
        assert "AUC - items by likes |" in text
        assert "like rates" not in text
    assert "3 seeds" in tables.markdown(both)


def test_one_class_has_no_auc_and_is_no_error() -> None:
    made = replace(alone(1), labels=np.ones(600, dtype=np.int8))
    found = base_model.analyse(made, "full", {"popularity": popular(made)}, draws=40)
    assert found["parts"]["all"]["crm"]["auc"]["value"] is None
    assert "n/a" in tables.markdown(found)
