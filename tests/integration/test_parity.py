"""Exported equals trained: the runtime's scores of test rows against torch's, computed the way training does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from corella_edge.features.encoder import FeatureEncoder
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import RowSet, choose_users, history_needed
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks import crm as train_crm
from corella_edge_export.training.tasks import llm as train_llm
from corella_edge_runtime.engine import Engine


@dataclass
class Sides:
    """The run, all test rows, and the runtime's scores of them by file of the LLM."""

    run: Run
    rows: RowSet
    crm: np.ndarray
    llm: dict[str, np.ndarray]


def scores(bundle, rows, file):
    with Engine.open(bundle, threshold="ratio:1", require_llm=True, llm_threads=1, llm_file=file) as engine:
        found = [engine.rank(request) for request in rows.requests()]
    return np.array([s.crm[0] for s in found]), np.array([s.llm[0] for s in found])


@pytest.fixture(scope="module")
def sides(tiny):
    data = PreparedData.open(tiny.data)
    run = Run.open(tiny.run, data)
    schema, _ = run.fit_inputs()
    rows = choose_users(data, "test", 0, 0, history_needed(schema, run.recipe.prompt))
    crm, f16 = scores(tiny.bundle, rows, "llm.F16.gguf")
    _, q8 = scores(tiny.bundle, rows, "llm.gguf")
    return Sides(run, rows, crm, {"F16": f16, "Q8_0": q8})


def test_crm(sides):
    schema, catalog = sides.run.fit_inputs()
    encoded = EncodedRows(sides.run.data, "test", FeatureEncoder(schema, catalog))
    expected = train_crm.predict(sides.run.crm(), encoded)[sides.rows.indices]
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(sides.crm, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 5e-3), ("Q8_0", 3e-2)])
def test_llm(sides, kind, tolerance):
    builder = sides.run.builder()
    reader = sides.run.reader(sides.run.llm(), builder)
    split = sides.rows.split
    rows, probability = train_llm.predict(reader, builder.exact(split, np.unique(split.users).tolist()))
    by_row = dict(zip(rows.tolist(), probability.tolist(), strict=True))
    expected = np.array([by_row[row] for row in sides.rows.indices.tolist()])
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(sides.llm[kind], expected, rtol=0, atol=tolerance)


def test_the_calibration_routes_about_what_was_asked_for(sides, tiny):
    """On rows it was not made from, so roughly: the test period has new items."""
    with Engine.open(tiny.bundle, llm=None) as engine:
        thresholds = [engine.bundle.calibration().threshold(ratio) for ratio in (0.0, 0.2, 0.5, 1.0)]
    p = np.clip(sides.crm, 1e-12, 1 - 1e-12)
    entropies = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    shares = [(entropies >= t).mean() for t in thresholds]
    assert shares[0] == 0
    assert shares[3] == 1
    assert shares == sorted(shares)
    assert abs(shares[1] - 0.2) < 0.2
    assert abs(shares[2] - 0.5) < 0.3
