"""Films with the columns of MovieLens-1M and of CoLLM's split: few, random, and with a taste to be learnt."""

from __future__ import annotations

import numpy as np
import polars as pl

from corella_edge_export.data.contract import RawData

GENRES = ["Action", "Comedy", "Film-Noir"]
USERS, FILMS, EACH = 40, 30, 14


def films() -> RawData:
    """40 users with 14 of 30 films each; the first genre says what a user likes."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(USERS):
        for t, film in enumerate(rng.permutation(FILMS)[:EACH].tolist()):
            liked = (film % 3 == user % 3) != (rng.random() < 0.1)
            rating = float(rng.integers(4, 6) if liked else rng.integers(1, 4))
            rows.append((str(user), str(film), rating, 40 * t + user))
    columns = dict(zip(("user_id", "item_id", "rating", "timestamp"), zip(*rows, strict=True), strict=True))
    interactions = pl.DataFrame(columns, schema_overrides={"rating": pl.Float32})
    interactions = interactions.with_columns((pl.col("rating") > 3).cast(pl.Int8).alias("label"))
    users = pl.DataFrame({"user_id": [str(u) for u in range(USERS)], "gender": ["F", "M"] * (USERS // 2),
                          "age": ["25-34"] * USERS, "occupation": ["writer", "clerk"] * (USERS // 2)})  # fmt: skip
    items = pl.DataFrame(
        {
            "item_id": [str(i) for i in range(FILMS)],
            "title": [f"Misérables {i}, Les" for i in range(FILMS)],
            "genres": [[GENRES[i % 3], "Drama"] for i in range(FILMS)],
            "year": [str(1960 + i) for i in range(FILMS)],
            "abstract": [f"A film of {GENRES[i % 3]} number {i}." for i in range(FILMS)],
        }
    )
    of_users = dict.fromkeys(("gender", "age", "occupation"), "categorical")
    of_items = {"genres": "multi", "year": "categorical", "abstract": "text"}
    return RawData("films", interactions, users, items, of_users, of_items, 3.0, "none", True)
