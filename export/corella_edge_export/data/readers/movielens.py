"""MovieLens-1M from the publisher's files: ratings.dat, users.dat, movies.dat (latin-1, `::`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from corella_edge_export.data.contract import RawData, Reader
from corella_edge_export.data.readers import titles
from corella_edge_export.data.readers.delimited import Column, Table, read_table

LICENCE = (
    "GroupLens, University of Minnesota: research use; no redistribution and no commercial use without "
    "permission (see the data set's README)"
)
PUBLISHED = (1_000_209, 6_040, 3_883)  # ratings, users, movies
AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
# The words of the official README, in the order of their codes.
OCCUPATIONS = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
GENRES = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)

_ID = r"[1-9][0-9]{0,9}"
_GENRE = "|".join(GENRES)
_USER_ID = Column("UserID", _ID, "a positive integer")
_MOVIE_ID = Column("MovieID", _ID, "a positive integer")
RATINGS = (
    _USER_ID,
    _MOVIE_ID,
    Column("Rating", r"[1-5]", "an integer from 1 to 5"),
    Column("Timestamp", r"[0-9]{1,10}", "a Unix time in seconds"),
)
USERS = (
    _USER_ID,
    Column("Gender", r"[FM]", "F or M"),
    Column("Age", "|".join(AGES), f"one of the codes {', '.join(AGES)}"),
    Column("Occupation", r"1?[0-9]|20", "a code from 0 to 20"),
    Column("Zip", r"[0-9]{5}[0-9-]{0,5}", "a US zip code"),
)
MOVIES = (
    _MOVIE_ID,
    Column("Title", titles.PATTERN, titles.EXPECTED),
    Column("Genres", rf"(?:{_GENRE})(?:\|(?:{_GENRE}))*", "a |-separated list of the official genres"),
)


def read(source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Read the three official files of the folder `source`; `options` change nothing.

    Raises:
        InputError: names the file and the line of the first missing, malformed, cut or contradictory entry.
    """
    assert source is not None  # the registry sees to it
    users = read_table(source / "users.dat", USERS)
    movies = read_table(source / "movies.dat", MOVIES)
    ratings = read_table(source / "ratings.dat", RATINGS)
    _check_unique(users, movies, ratings)
    return RawData(
        name="ml-1m",
        interactions=_interactions(ratings.frame),
        users=_users(users.frame),
        items=_items(movies.frame),
        user_attributes=dict.fromkeys(("gender", "age", "occupation", "zip_region"), "categorical"),
        item_attributes={"genres": "multi", "year": "categorical", "decade": "categorical"},
        like_above=3.0,
        licence=LICENCE,
        redistributable=False,
        sources={table.path.name: table.source for table in (ratings, users, movies)},
        notes=_notes(ratings.frame, users.frame, movies.frame),
    )


READERS = {"ml-1m": Reader(read, "MovieLens-1M: ratings.dat, users.dat and movies.dat")}


def _check_unique(users: Table, movies: Table, ratings: Table) -> None:
    users.refuse(~users.frame["UserID"].is_first_distinct(), "the user {UserID} is listed before")
    movies.refuse(~movies.frame["MovieID"].is_first_distinct(), "the movie {MovieID} is listed before")
    known_users, known_movies = users.frame["UserID"].implode(), movies.frame["MovieID"].implode()
    frame = ratings.frame
    ratings.refuse(~frame["UserID"].is_in(known_users), "the user {UserID} is not in users.dat")
    ratings.refuse(~frame["MovieID"].is_in(known_movies), "the movie {MovieID} is not in movies.dat")
    pair = frame.select(pair=pl.struct("UserID", "MovieID"))["pair"]
    ratings.refuse(~pair.is_first_distinct(), "user {UserID} rates movie {MovieID} a second time")


def _notes(ratings: pl.DataFrame, users: pl.DataFrame, movies: pl.DataFrame) -> tuple[str, ...]:
    """A file cut exactly at a line end looks whole, so a departure from the published counts is told."""
    found = (len(ratings), len(users), len(movies))
    if found == PUBLISHED:
        return ()
    words = "{:,} ratings, {:,} users and {:,} movies"
    return (f"not the whole of MovieLens-1M: {words.format(*found)} instead of {words.format(*PUBLISHED)}",)


def _interactions(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(
        user_id="UserID",
        item_id="MovieID",
        rating=pl.col("Rating").cast(pl.Float32),
        timestamp=pl.col("Timestamp").cast(pl.Int64),
    )


def _users(frame: pl.DataFrame) -> pl.DataFrame:
    """Of the zip only the first digit stays (ten regions of the US): 3,439 zips, or 678 three-digit areas,
    are too few users each to learn from, and most users to be scored are new."""
    occupations = {str(code): word for code, word in enumerate(OCCUPATIONS)}
    return frame.select(
        user_id="UserID",
        gender="Gender",
        age=pl.col("Age").replace_strict(AGES),
        occupation=pl.col("Occupation").replace_strict(occupations),
        zip_region=pl.col("Zip").str.head(1),
    )


def _items(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(
        item_id="MovieID",
        title=titles.title("Title"),
        genres=pl.col("Genres").str.split("|"),
        year=titles.year("Title"),
        decade=titles.decade("Title"),
    )
