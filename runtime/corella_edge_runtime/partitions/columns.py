"""A row of a table of requests ↔ the request that it is, and answers as columns. Knows no file and no library for one.

What a request may hold is decided by `request_message` alone: a row is put into the form of JSON and parsed as JSON is,
unless it is as rows are as a rule, which needs no objects.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.history import is_plain
from corella_edge.messages import MAX_FEATURES, MAX_ID_CHARS, MAX_TEXT_CHARS, MAX_VALUES
from corella_edge.request import NOBODY, Candidates, History, Request, User
from corella_edge.request_message import MAX_CANDIDATES, MAX_HISTORY, MAX_RATING
from corella_edge.scores import Scores
from corella_edge_runtime.batch import parse_checked

USER, ITEMS, RATINGS, TIMES = "user_id", "history_items", "history_ratings", "history_times"
CANDIDATES, OWN = "candidates", "candidate_features"
ADAPTER = "adapter"
OPTIONS = ("threshold", "top_k", "timeout_ms", ADAPTER)
# Every column that means the same in any table; others are features of the user, by their names.
KEYS = ("id", USER, ITEMS, RATINGS, TIMES, CANDIDATES, OWN, *OPTIONS)
# What tables of another shape call their columns; here it would change the meaning without a word.
_PAIRS = ("item_id", "item", "candidate", "movie_id", "product_id")
_NESTED = ("user", "history")
# Fields of a request that no column has; passed over, they would change the ranking without a word, too.
_SELECTIONS = ("exclude_seen", "filter", "exclude", "similar_to")
_VALUES = ("weights", "bonuses")
_MIXTURE = "adapters"
# Where a message says something is → the column that it stands in; `{}` is a place in a list.
_PLACES = (
    (re.compile(r"\buser\.history\[(\d+)\]\.item\b"), ITEMS + r"[\1]"),
    (re.compile(r"\buser\.history\[(\d+)\]\.rating\b"), RATINGS + r"[\1]"),
    (re.compile(r"\buser\.history\[(\d+)\]\.time\b"), TIMES + r"[\1]"),
    (re.compile(r"\buser\.history\b"), ITEMS),
    (re.compile(r"\bcandidates\[(\d+)\]\.item\b"), CANDIDATES + r"[\1]"),
    (re.compile(r"\bcandidates\[(\d+)\]\.features\b"), OWN + r"[\1]"),
    (re.compile(r"\buser\.features\."), ""),
    (re.compile(r"\buser\.id\b"), USER),
    (re.compile(r"^adapters(?=: )"), ADAPTER),
)
_ALIKE = 0.8  # of difflib: a slip of one or two letters


def chosen(names: Sequence[str], features: Iterable[str]) -> tuple[list[str], list[str]]:
    """The columns of a table that are read, and those that nothing reads.

    Args:
        names: the table's columns. features: what a bundle's models read of a user.

    Raises:
        InputError: the columns are not those of a table of requests; says what to do.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"column {twice[0]!r}: occurs twice; rename one, or leave it out")
    known = {*KEYS, *features}
    read, left = [n for n in names if n in known], [n for n in names if n not in known]
    for name in left:
        _check_left(name, read)
    if not {USER, ITEMS, *features} & {*read}:
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InputError(f"is no table of requests: it has neither {USER} nor {ITEMS}; its columns are {shown}")
    for name, wanted in ((RATINGS, ITEMS), (TIMES, ITEMS), (OWN, CANDIDATES)):
        if name in read and wanted not in read:
            raise InputError(f"column {name!r}: the column {wanted!r} that it belongs to is missing")
    return read, left


def _check_left(name: str, read: Sequence[str]) -> None:
    if name in _PAIRS and CANDIDATES not in read:
        what = f"a row is a request: collect the items of each user into lists, in the column {CANDIDATES!r}"
        raise InputError(f"column {name!r}: {what} (`corella-edge evaluate` scores the folders of `prepare`)")
    if name in _NESTED:
        raise InputError(f"column {name!r}: not known; the columns of a request are {', '.join(KEYS)}")
    if name in _SELECTIONS:
        what = f"tables select no items; score JSON lines, or list what remains in the column {CANDIDATES!r}"
        raise InputError(f"column {name!r}: {what}")
    if name in _VALUES:
        raise InputError(f"column {name!r}: tables rank by probability alone; score JSON lines, or rank the answers")
    if name == _MIXTURE:
        what = f"a row asks one adapter, by its name in the column {ADAPTER!r}; score JSON lines for weights of several"
        raise InputError(f"column {name!r}: {what}")
    missing = [key for key in KEYS if key not in read and key != "id"]
    if near := difflib.get_close_matches(name.lower(), missing, 1, _ALIKE):
        raise InputError(f"column {name!r}: not known; did you mean {near[0]!r}? Rename it, or leave it out")


def request_of(row: Mapping[str, Any], features: Sequence[str]) -> Request:
    """The request in a row.

    Args:
        row: column → its value; None where there is none. features: the columns that are features of the user.

    Raises:
        InputError: names the column, the place in its list, and the value.
    """
    if (plain := _plain(row, features)) is not None:
        return plain
    try:
        return parse_checked(message_of(row, features))
    except InputError as error:
        raise InputError(in_columns(str(error))) from None


def in_columns(text: str) -> str:
    """A sentence about a request with the columns' names in place of the fields'."""
    for pattern, column in _PLACES:
        text = pattern.sub(column, text)
    return text


def _plain(row: Mapping[str, Any], features: Sequence[str]) -> Request | None:
    """The request that `parse_request` makes of a row without gaps and oddities; None for any other row."""
    user_id, request_id, items = row.get(USER), row.get("id"), row.get(ITEMS) or []
    candidates, ratings, times = row.get(CANDIDATES), row.get(RATINGS), row.get(TIMES)
    given = {name: value for name in features if (value := row[name]) is not None}
    if not (
        all(row.get(name) is None for name in (OWN, *OPTIONS))
        and candidates
        and _are_ids(candidates, MAX_CANDIDATES)
        and (not items or _are_ids(items, MAX_HISTORY))
        and _are_ids([text for text in (user_id, request_id) if text is not None] or ["-"], 2)
        and (ratings is None or (len(ratings) == len(items) and _are_ratings(ratings)))
        and (times is None or (len(times) == len(items) and None not in times and is_plain(times)))
        and len(given) <= MAX_FEATURES
        and all(map(_is_plain_feature, given.values()))
    ):
        return None
    history = History(items, [*map(float, ratings)] if ratings else None, times or None) if items else NOBODY
    return Request(User(user_id, given, history), Candidates(candidates), request_id)


def _is_plain_feature(value: Any) -> bool:
    if type(value) is list:
        return len(value) <= MAX_VALUES and all(type(one) is str and len(one) <= MAX_TEXT_CHARS for one in value)
    return type(value) is str and len(value) <= MAX_TEXT_CHARS


def _are_ids(texts: Sequence[Any], most: int) -> bool:
    try:
        "".join(texts)
    except TypeError:  # something else is among them
        return False
    return len(texts) <= most and min(map(len, texts)) >= 1 and max(map(len, texts)) <= MAX_ID_CHARS


def _are_ratings(values: Sequence[Any]) -> bool:
    try:
        total = sum(values)
    except TypeError:  # None is among them
        return False
    # nan and the infinities stay in a sum, and nan has no order.
    return math.isfinite(total) and (not values or (min(values) >= -MAX_RATING and max(values) <= MAX_RATING))


def message_of(row: Mapping[str, Any], features: Sequence[str]) -> dict[str, Any]:
    """The row in the form of JSON; what is null is left out.

    Raises:
        InputError: lists that go together are of different lengths.
    """
    user: dict[str, Any] = {"features": {n: value for n in features if (value := _known(row[n])) is not None}}
    if row.get(USER) is not None:
        user["id"] = row[USER]
    if row.get(ITEMS) is not None:
        user["history"] = list(_history(row))
    made: dict[str, Any] = {"user": user}
    made |= {name: row[name] for name in ("id", *OPTIONS) if _known(row.get(name)) is not None}
    if row.get(CANDIDATES) is not None:
        made["candidates"] = list(_candidates(row))
    return made


def _known(value: Any) -> Any:
    """A value, None for nan: tables made of numpy's arrays know no other way to leave a number out."""
    if type(value) is list:
        return [None if v != v else v for v in value]
    return None if value != value else value


def _history(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    items = row[ITEMS]
    ratings, times = (_beside(row, name, ITEMS) for name in (RATINGS, TIMES))
    for item, rating, time in zip(items, ratings, times, strict=False):
        event = {"item": item}
        if rating is not None and rating == rating:
            event["rating"] = rating
        if time is not None and time == time:
            event["time"] = time
        yield event


def _candidates(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item, own in zip(row[CANDIDATES], _beside(row, OWN, CANDIDATES), strict=False):
        # Every value of a column has all its fields: null stands for what a candidate does not bring.
        given = {name: _known(value) for name, value in (own or {}).items() if _known(value) is not None}
        yield {"item": item, "features": given} if given else {"item": item}


def _beside(row: Mapping[str, Any], name: str, of: str) -> Iterable[Any]:
    """A list that goes with another, place by place; nothing for each where there is none."""
    values = row.get(name)
    if values is None:
        return repeat(None)
    if len(values) != len(row[of]):
        raise InputError(f"{name}: expected {len(row[of])} values, as many as {of} has, got {len(values)}")
    return values  # type: ignore[no-any-return]


@dataclass(slots=True)
class AnswerColumns:
    """Answers to rows that follow each other, a value a candidate and column.

    Attributes:
        row: place of the request in its partition, from 0; `id` and `user_id` are its own, None where it has none.
        llm: nan where the LLM was not asked or did not answer.
        The others are an answer's, of the same name (docs/serve.md).
    """

    row: list[int] = field(default_factory=list)
    id: list[str | None] = field(default_factory=list)
    user_id: list[str | None] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    rank: list[np.ndarray] = field(default_factory=list)
    probability: list[np.ndarray] = field(default_factory=list)
    crm: list[np.ndarray] = field(default_factory=list)
    llm: list[np.ndarray] = field(default_factory=list)
    entropy: list[np.ndarray] = field(default_factory=list)
    routed: list[np.ndarray] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    unknown: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, row: int, request: Request, scores: Scores) -> None:
        """The answer to one request, cut to its `top_k`."""
        rank, items = scores.rank, scores.items
        kept: Any = slice(None)
        reasons, unknown = scores.reason, scores.unknown
        if request.top_k is not None and request.top_k < len(items):
            kept = np.flatnonzero(rank <= request.top_k)
            items, reasons, unknown = ([of[i] for i in kept] for of in (items, reasons, unknown))  # type: ignore[assignment]
        self.row += [row] * len(items)
        self.id += [request.id] * len(items)
        self.user_id += [request.user.id] * len(items)
        self.item += items
        self.reason += reasons
        self.unknown += unknown
        for column, values in self._numbers(scores, rank):
            column.append(values[kept])

    def _numbers(self, scores: Scores, rank: np.ndarray) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
        yield self.rank, rank
        for name in ("probability", "crm", "llm", "entropy", "routed"):
            yield getattr(self, name), getattr(scores, name)

    def __len__(self) -> int:
        return len(self.row)
