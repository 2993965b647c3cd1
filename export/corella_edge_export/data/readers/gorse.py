"""Gorse's exports: users, items and feedback as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.data.contract import Reader, Work
from corella_edge_export.data.readers.described import as_json_lines, pick, pick_all, quoted

_FORM = """name = "gorse"

[events]
files = [{feedback}]
format = "jsonl"
user = "UserId"
item = "ItemId"
time = "Timestamp"
time_unit = "%Y-%m-%dT%H:%M:%S%z"
event_type = "FeedbackType"
drop = {{ FeedbackType = "^read$" }}

[label]
positives_only = true

[negatives]
per_positive = 4

[items]
files = [{items}]
format = "jsonl"
id = "ItemId"
title = "Comment"
missing_title = "id"
attributes = {{ Labels = "multi", Categories = "multi" }}
{users}
[split]
rule = "time"
"""
_USERS = """
[users]
files = [{users}]
format = "jsonl"
id = "UserId"
attributes = {{ Labels = "multi" }}
"""


def describe(source: Path, work: Work) -> str:
    """feedback, items and users, as `*.jsonl`. A feedback of the type "read" says only that the item was shown."""
    feedback = as_json_lines(pick(source, "feedback", "feedback*.json*"), work, _feedback)
    items = as_json_lines(pick(source, "items", "items*.json*"), work, _labelled)
    users = [as_json_lines(path, work, _labelled) for path in pick_all(source, "users*.json*")[:1]]
    return _FORM.format(
        feedback=quoted(str(feedback)),
        items=quoted(str(items)),
        users=_USERS.format(users=quoted(str(users[0]))) if users else "",
    )


def _feedback(value: Any) -> Iterator[dict[str, Any]]:
    """Times lose their fractions of a second; "Z" is +00:00."""
    time = str(value["Timestamp"]).replace("Z", "+00:00")
    whole, dot, rest = time.partition(".")
    yield value | {"Timestamp": whole + rest.lstrip("0123456789") if dot else time}


def _labelled(value: Any) -> Iterator[dict[str, Any]]:
    """Labels may be a list, or an object of lists and texts."""
    yield value | {"Labels": list(dict.fromkeys(_flat(value.get("Labels"))))}


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _flat(below)


READERS = {"gorse": Reader(None, "Gorse's export: feedback, items and users as JSON lines", describe=describe)}
