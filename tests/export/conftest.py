"""Small prepared data sets: a synthetic one, one with every kind of attribute and gap, baskets with drawn dislikes;
and a tiny sentence encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tiny_run
from corella_edge.features.encoder import FeatureEncoder
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema
from corella_edge_export.crm.recipe import FeaturesRecipe
from corella_edge_export.data.contract import RawData
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate
from corella_edge_export.data.table.description import Negatives, SplitPlan
from tables import Event, prepared

FEATURES = FeaturesRecipe(history=7, window=11, history_pace=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """40 users and 50 items, synthetic; a folder of the module's own."""
    return tiny_run.prepared(tmp_path_factory.mktemp("prepared") / "small")


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, its weights random."""
    from encoders import make_encoder

    return make_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@dataclass(frozen=True)
class Fitted:
    data: PreparedData
    encoder: FeatureEncoder


@pytest.fixture(scope="session", params=["synthetic", "gaps", "baskets"])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("prepared") / request.param
    if request.param == "baskets":
        data = baskets(folder)
    else:
        config = SyntheticConfig(seed=3, users=40, items=50, genres=2, events=16.0)
        write_prepared(generate(config) if request.param == "synthetic" else with_gaps(), folder, requests=5)
        data = PreparedData.open(folder)
    return Fitted(data, FeatureEncoder(fit_schema(data, FEATURES), catalog_of(data)))


def baskets(folder: Path) -> PreparedData:
    """Rows that are no events of the log: some share their user's moment, and every dislike was drawn."""
    rng = np.random.default_rng(11)
    items = [f"i{i}" for i in range(30)]
    events = [
        Event(f"u{rng.integers(12)}", item, 1_500_000_000 + 500 * basket, rating=float(rng.choice([4.0, 4.5])))
        for basket in range(80)
        for item in rng.choice(items, size=rng.integers(1, 4), replace=False)
    ]
    genres = {item: [f"g{i % 3}", f"g{i % 5}"] for i, item in enumerate(items)}
    found = prepared(folder, events, SplitPlan(), Negatives(2), items={"genres": ("multi", genres)}, more_items=items)
    assert not found.rows_in_log
    return found


def with_gaps() -> RawData:
    """Attributes of every kind; ratings and attributes missing here and there."""
    rng = np.random.default_rng(5)
    rows = [(f"u{u}", f"i{i}", t) for u in range(12) for t, i in enumerate(rng.permutation(30)[: 8 + u])]
    n = len(rows)
    ratings = [None if rng.random() < 0.3 else float(rng.choice([0.1, 10 / 3, 4.0])) for _ in rows]
    interactions = pl.DataFrame(
        {
            "user_id": [user for user, _, _ in rows], "item_id": [item for _, item, _ in rows],
            "rating": pl.Series(ratings, dtype=pl.Float32), "timestamp": [t * 1000 for _, _, t in rows],
            "label": pl.Series(rng.integers(0, 2, n), dtype=pl.Int8),
        }
    )  # fmt: skip
    users = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in range(12)],
            "job": [None if u % 4 == 0 else f"job {u % 3}" for u in range(12)],
            "age": [None if u % 5 == 0 else float(20 + u) for u in range(12)],
            "likes": [None if u % 6 == 0 else [f"l{k}" for k in range(u % 4)] for u in range(12)],
            "visits": [None if u % 7 == 0 else [f"p{(u * k) % 5}" for k in range(u % 9)] for u in range(12)],
        }
    )
    items = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(30)],
            "title": [f"Title {i}" for i in range(30)],
            "genres": [None if i % 7 == 0 else [f"g{k}" for k in range(i % 5)] for i in range(30)],
            "price": [None if i % 6 == 0 else i / 3 for i in range(30)],
            "blurb": [None if i % 8 == 0 else f"A {'bold' if i % 2 else 'quiet'} one, no. {i % 4}" for i in range(30)],
        }
    )
    return RawData(
        "gaps", interactions, users, items,
        {"job": "categorical", "age": "numeric", "likes": "multi", "visits": "sequence"},
        {"genres": "multi", "price": "numeric", "blurb": "text"}, 3.0, "none", True,
    )  # fmt: skip
