"""Films found among abstracts by title and year."""

from __future__ import annotations

import polars as pl
import pytest

from corella_edge_export.data.readers.movielens_abstracts import find, keys

ABSTRACTS = pl.DataFrame(
    [("The Matrix", 1999), ("Il Postino", 1994), ("City of Lost Children", 1995), ("M", 1931), ("M", 1951)],
    schema=["title", "year"],
    orient="row",
)


@pytest.mark.parametrize(
    ("title", "year", "place"),
    [
        ("Matrix, The", 1999, 0),
        ("MATRIX, the!", 1999, None),  # the article is moved only where it is written as one
        ("Matrix, The", 2000, 0),
        ("Matrix, The", 2001, None),
        ("Postino, Il (The Postman)", 1994, 1),
        ("Cité des enfants perdus, La (a.k.a. City of Lost Children)", 1995, 2),
        ("M", 1931, 3),
        ("M", 1950, 4),
        ("", 1999, None),
    ],
)
def test_find(title: str, year: int, place: int | None) -> None:
    assert find(ABSTRACTS, [(title, year)]) == [place]


def test_the_very_year_wins_over_a_neighbour() -> None:
    films = pl.DataFrame({"title": ["Emma", "Emma"], "year": [1995, 1996]})
    assert find(films, [("Emma", 1996), ("Emma", 1995), ("Emma", 1997)]) == [1, 0, 1]


def test_of_two_with_one_name_the_first_counts() -> None:
    films = pl.DataFrame({"title": ["Emma", "emma"], "year": [1996, 1996]})
    assert find(films, [("Emma", 1996)]) == [0]


def test_keys_are_plain() -> None:
    assert list(keys("Bonnie & Clyde")) == ["bonnie and clyde", "bonnie and clyde"]
    assert next(keys("Avventura, L'")) == "lavventura"
