"""Book-Crossing: ratings from 1 to 10, where 0 says only that a person had the book."""

from __future__ import annotations

from pathlib import Path

from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import first_line, pick, quoted

_FORM = """name = "book-crossing"
licence = "research use, no licence is stated"

[events]
files = [{ratings}]
separator = ";"
escape = "\\\\"
{ratings_header}
encoding = "latin-1"
user = {user}
item = {item}
time_unit = "none"

[label]
rating = {rating}
like_above = 7
ignore = [0]

[items]
files = [{books}]
separator = ";"
{books_dialect}
encoding = "latin-1"
id = {isbn}
title = {title}
missing_title = "id"
min_join = 0.75
attributes.author = {{ column = {author}, kind = "categorical" }}
attributes.publisher = {{ column = {publisher}, kind = "categorical" }}

[split]
rule = "random"
min_history = 0
"""


def describe(source: Path, work: Work) -> str:
    """BX-Book-Ratings.csv and BX-Books.csv, as published or saved again without their headers."""
    ratings, books = pick(source, "ratings", "BX-Book-Ratings.csv*"), pick(source, "books", "BX-Books.csv*")
    published = "User-ID" in first_line(ratings), "ISBN" in first_line(books)
    rated = ["User-ID", "ISBN", "Book-Rating"]
    header = "header = true" if published[0] else f"header = false\ncolumns = {quoted(rated)}"
    # As published, \ escapes quotation marks, and in three lines also the ends of values; saved again, it is a letter.
    dialect = 'escape = "\\\\"\nbad_rows = "drop"' if published[1] else "header = true"
    titled = ["ISBN", "Book-Title", "Book-Author", "Publisher"] if published[1] else ["0", "1", "2", "4"]
    names = dict(zip(("isbn", "title", "author", "publisher"), map(quoted, titled), strict=True))
    roles = dict(zip(("user", "item", "rating"), map(quoted, rated), strict=True))
    files = {"ratings": quoted(str(ratings)), "books": quoted(str(books))}
    return _FORM.format(**(files | names | roles), ratings_header=header, books_dialect=dialect)


READERS = {"book-crossing": Reader(None, "Book-Crossing: BX-Book-Ratings.csv and BX-Books.csv", describe=describe)}
