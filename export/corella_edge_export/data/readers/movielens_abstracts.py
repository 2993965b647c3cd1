"""Abstracts of MovieLens items from an encyclopaedia, found by title and year."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import polars as pl

_ARTICLES = "The|An|A|La|Le|Les|L'|El|Los|Las|Il|Lo|Das|Der|Die"
_MOVED = re.compile(rf"^(.*), ({_ARTICLES})$")
_YEARS = (0, -1, 1)  # a film's year may be that of its first showing


def keys(title: str) -> Iterator[str]:
    """The forms in which a MovieLens title without its year may stand elsewhere, the likeliest first.

    >>> list(keys("Postino, Il (The Postman)"))
    ['il postino', 'the postman', 'postino il the postman']
    """
    main = title.split("(")[0].strip()
    for form in (main, *re.findall(r"\(([^)]*)\)", title)):
        form = form.removeprefix("a.k.a. ")
        moved = _MOVED.match(form)
        yield _plain(f"{moved[2]} {moved[1]}".replace("L' ", "L'") if moved else form)
    yield _plain(title)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w ]+", "", text.lower().replace("&", "and")).split())


def find(abstracts: pl.DataFrame, films: Iterable[tuple[str, int]]) -> list[int | None]:
    """For each (title, year) its row among the abstracts' `title` and `year`, which may be off by one; or None."""
    places: dict[tuple[str, int], int] = {}
    for place, (title, year) in enumerate(abstracts.select("title", "year").iter_rows()):
        places.setdefault((_plain(title), year), place)
    return [_place(places, title, year) for title, year in films]


def _place(places: dict[tuple[str, int], int], title: str, year: int) -> int | None:
    found = (places.get((key, year + step)) for step in _YEARS for key in keys(title))
    return next((place for place in found if place is not None), None)
