"""MovieLens 100K, the CSV releases (latest, 20M, 25M, 32M) by their real time stamps."""

from __future__ import annotations

from pathlib import Path

from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import pick, quoted
from corella_edge_export.data.readers.movielens import LICENCE

_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_100K = """name = "ml-100k"
licence = {licence}

[events]
files = [{ratings}]
separator = "\\t"
quote = ""
header = false
columns = ["user", "item", "rating", "time"]
user = "user"
item = "item"
time = "time"
time_unit = "s"

[label]
rating = "rating"
like_above = 3

[items]
files = [{items}]
separator = "|"
quote = ""
header = false
columns = {item_columns}
encoding = "latin-1"
id = "item"
title = "title"
attributes.genres = {{ kind = "multi", columns = {genres} }}

[users]
files = [{users}]
separator = "|"
quote = ""
header = false
columns = ["user", "age", "gender", "occupation", "zip"]
id = "user"
attributes = {{ age = "numeric", gender = "categorical", occupation = "categorical" }}

[split]
rule = "time"
min_history = 5
"""
_CSV = """name = {name}
licence = {licence}

[events]
files = [{ratings}]
user = "userId"
item = "movieId"
time = "timestamp"
time_unit = "s"

[label]
rating = "rating"
like_above = 3

[items]
files = [{items}]
id = "movieId"
title = "title"
attributes = {{ genres = "multi:|" }}

[split]
rule = "time"
min_history = 5
"""


def describe_100k(source: Path, work: Work) -> str:
    """u.data, u.item and u.user."""
    names = {name: quoted(str(pick(source, name, name))) for name in ("u.data", "u.item", "u.user")}
    columns = ["item", "title", "release", "video", "link", *_GENRES_100K]
    return _100K.format(
        licence=quoted(LICENCE),
        ratings=names["u.data"],
        items=names["u.item"],
        users=names["u.user"],
        item_columns=quoted(columns),
        genres=quoted(_GENRES_100K),
    )


def describe_csv(source: Path, work: Work) -> str:
    """ratings.csv and movies.csv."""
    ratings, items = pick(source, "ratings", "ratings.csv*"), pick(source, "items", "movies.csv*")
    return _CSV.format(
        name=quoted("ml-csv"), licence=quoted(LICENCE), ratings=quoted(str(ratings)), items=quoted(str(items))
    )


READERS = {
    "ml-100k": Reader(None, "MovieLens-100K: u.data, u.item and u.user", describe=describe_100k),
    "ml-csv": Reader(None, "MovieLens latest, 20M, 25M, 32M: ratings.csv and movies.csv", describe=describe_csv),
}
