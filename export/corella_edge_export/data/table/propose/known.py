"""Publishers' forms that a reader of its own knows: recognised by names of files and columns, and said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from corella_edge_export.data.table.propose.columns import as_float
from corella_edge_export.data.table.propose.sheet import Sheet

_RECBOLE = re.compile(r"[^:]+:(token|token_seq|float|float_seq)")
_SHOWN = r"^\S+-[01]( \S+-[01])*$"  # what was shown, with 1 where it was clicked


def _has(sheet: Sheet, *names: str) -> bool:
    return set(names) <= set(sheet.frame.columns)


def _files(sheets: Sequence[Sheet]) -> set[str]:
    return {re.sub(r"\.(gz|zst)$", "", sheet.path.name.lower()) for sheet in sheets}


def _review(sheet: Sheet) -> bool:
    return _has(sheet, "reviewerID", "asin", "overall", "unixReviewTime")


def _movielens(sheets: Sequence[Sheet]) -> bool:
    return any(_has(sheet, "userId", "movieId", "rating", "timestamp") for sheet in sheets)


def _book_crossing(sheets: Sequence[Sheet]) -> bool:
    named = any(re.fullmatch(r"bx-.*\.csv", name) for name in _files(sheets))
    return named or any(_has(sheet, "User-ID", "ISBN") for sheet in sheets)


# In this order; the first that fits is the form. A later year's form has what an earlier one lacks.
_FORMS: dict[str, Callable[[Sequence[Sheet]], bool]] = {
    "collm-ml-1m": lambda sheets: any(_has(s, "uid", "iid", "label", "his", "not_cold") for s in sheets),
    "recbole": lambda sheets: any(all(_RECBOLE.fullmatch(name) for name in s.frame.columns) for s in sheets),
    "mind": lambda sheets: any(shown_column(s) for s in sheets),
    "amazon-2014": lambda sheets: any(_review(s) and _has(s, "helpful") for s in sheets),
    "amazon-2018": lambda sheets: any(_review(s) for s in sheets),
    "amazon-2023": lambda sheets: any(_has(s, "user_id", "parent_asin", "rating", "timestamp") for s in sheets),
    "ml-100k": lambda sheets: "u.data" in _files(sheets),
    "ml-1m": lambda sheets: any(s.dialect and s.dialect.separator == "::" and s.path.stem == "ratings" for s in sheets),
    "ml-csv": _movielens,
    "book-crossing": _book_crossing,
    "gorse": lambda sheets: any(_has(s, "FeedbackType", "UserId", "ItemId") for s in sheets),
}


def recognise(sheets: Sequence[Sheet]) -> str | None:
    """The publishers' form that the files have, by the name of its reader; None if of no known one."""
    return next((name for name, fits in _FORMS.items() if fits(sheets)), None)


def shown_column(sheet: Sheet) -> str | None:
    """A column that lists what a user was shown and what of it was clicked, as `N1-0 N2-1`."""
    for column in sheet.frame.head(200).iter_columns():
        filled = column.drop_nulls()
        if len(filled) and as_float(filled.str.contains(_SHOWN).mean()) > 0.9:
            return column.name
    return None
