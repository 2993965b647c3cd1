"""MovieLens titles ("Matrix, The (1999)") as title, year and decade."""

from __future__ import annotations

import polars as pl

PATTERN = r"[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*\([0-9]{4}\)"
EXPECTED = "a title that ends in its year, '(1999)'"
# "Matrix, The (1999)", "Avventura, L' (1960)", "Postino, Il (The Postman) (1994)": only the part before
# the first bracket moves.
_ARTICLE = r"^([^(]+), (The|An|A|La|Le|Les|L'|El|Los|Las|Il|Lo|Das|Der|Die) *(\(.*)$"


def title(column: str) -> pl.Expr:
    """The title with its article in front and without the year."""
    # The year is an attribute of its own: a title of fewer tokens is a cheaper prompt.
    moved = pl.col(column).str.replace(_ARTICLE, "${2} ${1} ${3}").str.replace(r"^L' ", "L'")
    return _without_year(moved)


def bare(column: str) -> pl.Expr:
    """The title without the year, its article where it was."""
    return _without_year(pl.col(column))


def _without_year(title: pl.Expr) -> pl.Expr:
    return title.str.replace(r" *\([0-9]{4}\)$", "").str.strip_chars()


def year(column: str) -> pl.Expr:
    """The year at the end, four digits."""
    return pl.col(column).str.extract(r"\(([0-9]{4})\)$")


def decade(column: str) -> pl.Expr:
    """The decade of the year: "1990s"."""
    return year(column).str.head(3) + "0s"
