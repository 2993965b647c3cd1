"""A small catalogue, and a schema with a field of every kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from corella_edge.catalog import Catalog
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Field, Schema, Vocabulary

# More than one 64-bit word of genres; g0 and g64 have the same place in their words.
GENRES = [f"g{i}" for i in range(100)]
MATCH = {"mean": 3.0, "scale": 1.25, "strength": 5.0, "attribute": "genres", "vocab": "item_genres"}


@dataclass(frozen=True)
class World:
    schema: Schema
    catalog: Catalog
    encoder: FeatureEncoder


@pytest.fixture(scope="session")
def world() -> World:
    catalog = Catalog(
        ["a", "b", "c", "d", "cold"],
        [
            {"title": "Alpha", "genres": ["g0", "g1"], "year": "1999", "price": 2.0},
            {"title": "Beta", "genres": ["g1", "g99"], "year": "2001", "price": 4.0},
            {"title": "Gamma", "genres": ["g64"], "year": None, "price": None},
            {"title": "", "genres": [], "year": "1999", "price": 0.0},
            {"title": "New", "genres": ["never"], "year": "2050", "price": 9.0},
        ],
    )
    catalog.vectors = (np.arange(10, dtype=np.float16) / 8 - 0.5).reshape(5, 2)
    return World(make_schema(), catalog, FeatureEncoder(make_schema(), catalog))


def make_schema() -> Schema:
    names = {
        "user_id": ["u1", "u2"], "user_job": ["clerk", "None"], "item_id": ["a", "b", "c", "d"],
        "item_genres": GENRES, "item_year": ["1999", "2001"], "rating": ["1", "2", "3", "3.5", "5"],
    }  # fmt: skip
    number = {"mean": 3.0, "scale": 2.0}
    fields = (
        Field("user_id", "categorical", "user", "id", "user_id"),
        Field("user_job", "categorical", "user", "job", "user_job"),
        Field("user_spend", "numeric", "user", "spend", args=number),
        Field("item_id", "categorical", "item", "id", "item_id"),
        Field("item_genres", "multi", "item", "genres", "item_genres", 3),
        Field("item_year", "categorical", "item", "year", "item_year"),
        Field("item_price", "numeric", "item", "price", args=number),
        Field("history_items", "sequence", "user", "item", "item_id", 3),
        Field("history_ratings", "sequence", "user", "rating", "rating", 3),
        Field("profile", "derived", "user", "history_profile", length=5, args=MATCH),
        Field("match", "derived", "item", "history_match", length=4, args=MATCH),
        Field("item_text", "vector", "item", "text", length=2, args={"attributes": ["title", "year"]}),
        Field("history_text", "vectors", "user", "text", length=3, args={"width": 2}),
    )
    return Schema(fields, {name: Vocabulary(name, values) for name, values in names.items()})
