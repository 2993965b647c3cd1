"""MIND: news, and impressions of several of them with a click or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import pick, quoted, rows_of, write_json_lines

_FORM = """name = "mind"
licence = "Microsoft Research License: research use"

[events]
files = [{events}]
user = "user"
item = "item"
time = "time"
time_unit = "%m/%d/%Y %I:%M:%S %p"

[label]
column = "click"

[items]
files = [{news}]
separator = "\\t"
quote = ""
header = false
columns = ["item", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
id = "item"
title = "title"
missing_title = "{missing}"
min_join = {min_join}
attributes = {{ category = "categorical", subcategory = "categorical" }}
text = ["abstract"]

[split]
rule = "time"
min_history = 0
"""


def describe(source: Path, work: Work) -> str:
    """behaviors.tsv and news.tsv. Raises InputError for missing or malformed files."""
    behaviours, news = pick(source, "impressions", "behaviors.tsv*"), pick(source, "news", "news.tsv*")
    events = write_json_lines(behaviours, work, _events(behaviours))
    return _FORM.format(events=quoted(str(events)), news=quoted(str(news)), missing="stop", min_join=0.95)


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """One event an item shown. What the user read before the log began has no time, and is left out."""
    for number, (_, user, time, _, shown) in rows_of(path, width=5):
        for pair in shown.split():
            item, dash, click = pair.rpartition("-")
            if not dash or click not in ("0", "1"):
                raise InputError(f"{path} line {number}: {pair!r} is not an item with -0 or -1; get the file again")
            yield {"user": user, "item": item, "time": time, "click": click}


READERS = {"mind": Reader(None, "MIND: behaviors.tsv and news.tsv", describe=describe)}
