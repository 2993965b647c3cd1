"""Amazon reviews of any category in their three forms (2014, 2018, 2023), and Books as in the papers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import as_json_lines, first_line, pick, pick_all, quoted

LICENCE = "Amazon reviews, as published by their authors for research; no licence is stated"
_REVIEWS = ("reviews_*.json*", "[A-Z]*_5.json*", "[A-Z]*.json*")
_HEAD = """name = {name}
licence = {licence}
"""
_RATED = """
[label]
rating = {rating}
like_above = {like_above}
"""
_OLD_EVENTS = """
[events]
files = [{reviews}]
format = "jsonl"
user = "reviewerID"
item = "asin"
time = "unixReviewTime"
time_unit = "s"
repeats = "last"
"""
_OLD_ITEMS = """
[items]
files = [{metadata}]
format = "jsonl"
id = "asin"
title = "title"
missing_title = {missing}
attributes = {{ brand = "categorical", category = "multi" }}
"""
_TIME_SPLIT = """
[split]
rule = "time"
min_history = {min_history}
min_user = {min_user}
min_item = {min_item}
"""
_NEW_EVENTS = """
[events]
{files}
user = "user_id"
item = "parent_asin"
time = "timestamp"
time_unit = "ms"
repeats = "last"
"""
_NEW_ITEMS = """
[items]
files = [{metadata}]
id = "parent_asin"
title = "title"
missing_title = "id"
{attributes}
"""
_NO_ITEMS = """
[items]
missing_title = "id"
"""


def describe_2014(source: Path, work: Work) -> str:
    """Reviews and, where they are there, the metadata of 2014. Raises InputError for missing or malformed files."""
    return _old("amazon-2014", source, work)


def describe_2018(source: Path, work: Work) -> str:
    """The same of 2018."""
    return _old("amazon-2018", source, work)


def describe_books(source: Path, work: Work) -> str:
    """Books of 2014 or 2018 as ReLLa and CoReLLa cut them: 5 is a like, users of 60 reviews, items of 40."""
    return _old(
        "amazon-books", source, work, like_above=4, min_history=5, min_user=60, min_item=40, missing_title="drop"
    )


def describe_2023(source: Path, work: Work) -> str:
    """Reviews of 2023 by `parent_asin`: the raw JSON lines, or the published train, valid and test CSV files."""
    parts = {part: pick_all(source, f"*.{part}.csv*") for part in ("train", "valid", "test")}
    split = _TIME_SPLIT.format(min_history=1, min_user=1, min_item=1)
    if all(parts.values()):
        named = [f"{part} = {quoted([str(path) for path in paths])}" for part, paths in parts.items()]
        split, files = "\n".join(["", "[split]", 'rule = "files"', *named, ""]), ""
    else:
        reviews = pick(source, "reviews", "[A-Z]*.jsonl*")
        files = f"files = [{quoted(str(reviews))}]"
    rated = _RATED.format(rating='"rating"', like_above=3)
    return _head("amazon-2023") + _NEW_EVENTS.format(files=files) + rated + _new_items(source) + split


def _head(name: str) -> str:
    return _HEAD.format(name=quoted(name), licence=quoted(LICENCE))


def _old(
    name: str,
    source: Path,
    work: Work,
    like_above: int = 3,
    min_history: int = 1,
    min_user: int = 1,
    min_item: int = 1,
    missing_title: str = "id",
) -> str:
    reviews = _as_json(pick(source, "reviews", *_REVIEWS), work)
    metadata = pick_all(source, "meta_*.json*", "metadata.json*")
    if len(metadata) > 1:
        raise InputError(f"{source}: several files may hold the metadata; leave one of them in a folder of its own")
    items = _NO_ITEMS
    if metadata:
        rewritten = as_json_lines(metadata[0], work, _item)
        items = _OLD_ITEMS.format(metadata=quoted(str(rewritten)), missing=quoted(missing_title))
    events = _OLD_EVENTS.format(reviews=quoted(str(reviews)))
    rated = _RATED.format(rating='"overall"', like_above=like_above)
    split = _TIME_SPLIT.format(min_history=min_history, min_user=min_user, min_item=min_item)
    return _head(name) + events + rated + items + split


def _as_json(path: Path, work: Work) -> Path:
    """The file itself where its lines are JSON, as the 5-core files' are, else rewritten."""
    try:
        json.loads(first_line(path))
    except ValueError:
        return as_json_lines(path, work, _whole)
    return path


def _whole(value: Any) -> Iterator[Mapping[str, Any]]:
    yield value


def _item(value: Any) -> Iterator[Mapping[str, Any]]:
    """What the models may know of an item, in one form for 2014 (`categories`) and 2018 (`category`)."""
    if isinstance(value, dict):
        paths = value.get("categories") or [value.get("category") or []]
        names = dict.fromkeys(name for path in paths for name in path if isinstance(name, str) and len(name) <= 60)
        yield {
            "asin": value.get("asin"),
            "title": value.get("title") or None,
            "brand": value.get("brand") or None,
            "category": list(names),
        }


def _new_items(source: Path) -> str:
    """The official metadata, or a CSV table that somebody cut from it."""
    found = pick_all(source, "meta_*.jsonl*", "*meta*.csv*")
    if not found:
        return _NO_ITEMS
    raw = ".jsonl" in found[0].name
    attributes = 'attributes = { store = "categorical", categories = "multi" }' if raw else ""
    return _NEW_ITEMS.format(metadata=quoted(str(found[0])), attributes=attributes)


_2014 = "Amazon reviews of 2014, any category: reviews_*.json.gz and meta_*.json.gz"
_2018 = "Amazon reviews of 2018, any category: *_5.json.gz and meta_*.json.gz"
_2023 = "Amazon reviews of 2023, any category: *.jsonl.gz and meta_*.jsonl.gz, or the published CSV splits"
_BOOKS = "Amazon Books of 2014 or 2018 by ReLLa's rule: a rating of 5 is a like, users of 60 events, items of 40"

READERS = {
    "amazon-2014": Reader(None, _2014, describe=describe_2014),
    "amazon-2018": Reader(None, _2018, describe=describe_2018),
    "amazon-2023": Reader(None, _2023, describe=describe_2023),
    "amazon-books": Reader(None, _BOOKS, describe=describe_books),
}
