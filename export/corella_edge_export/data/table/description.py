"""What a `data.toml` says: which files hold the events, what their columns mean, and how rows become samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Format = Literal["csv", "jsonl", "parquet"]
AttributeKind = Literal["categorical", "multi", "numeric", "text", "sequence"]
SplitRule = Literal["time", "per-user", "leave-one-out", "random", "files"]
# What `time_unit` may be; anything else is a strptime pattern. "timestamp": a time or date by its own type, in Parquet.
TIMES = ("s", "ms", "us", "ns", "excel", "iso", "timestamp", "none")


@dataclass(frozen=True)
class Files:
    """Where a table lies and how its text is read.

    Attributes:
        paths: the files, read one after the other as one table; relative paths start at the data.toml's folder.
        format: what the files are once unpacked; gzip and zstd are told by a file's first bytes.
        separator, quote, escape: of CSV; an empty quote or escape means that there is none.
        header: whether the first line of each CSV file names its columns; else `columns` names them.
        encoding: of CSV and JSON lines, a name that Python's `codecs` knows.
        missing: texts that stand for a missing value in any column, beside the empty text.
        bad_rows: whether a row that cannot be read ends the reading, or is dropped and counted.
        decimal: the sign before the decimals of numbers in text.
    """

    paths: tuple[Path, ...]
    format: Format = "csv"
    separator: str = ","
    quote: str = '"'
    escape: str = ""
    header: bool = True
    columns: tuple[str, ...] = ()
    encoding: str = "utf-8"
    missing: tuple[str, ...] = ()
    bad_rows: Literal["stop", "drop"] = "stop"
    decimal: Literal[".", ","] = "."


@dataclass(frozen=True)
class Events:
    """The table of interactions, one a row.

    Attributes:
        time: the column of the time, None if `time_unit` is "none". time_unit: one of TIMES, or a strptime pattern.
        timezone: of times that name none themselves.
        require: roles ("user", "item", "time", "rating", "label") whose missing value drops the row, instead of ending
            the reading.
        drop: column → rule; a row is dropped if any rule holds: "^C" (a regular expression that is searched for) or
            a comparison with a number, such as "<=0".
        repeats: of rows with the same user, item, time, label and kind of event: "keep", "first" or "last".
        event_type: a column with the kind of an event ("view", "purchase"); quantity: a column with a count.
    """

    files: Files
    user: str
    item: str
    time: str | None
    time_unit: str
    timezone: str = "UTC"
    require: tuple[str, ...] = ()
    drop: Mapping[str, str] = field(default_factory=dict)
    repeats: Literal["keep", "first", "last"] = "keep"
    event_type: str | None = None
    quantity: str | None = None


@dataclass(frozen=True)
class Label:
    """How a row gets its label: exactly one of `rating`, `column` and `positives_only` is set.

    Attributes:
        rating: a column of numbers; a value above `like_above` is a like. ignore: values of it that say nothing
            (Book-Crossing's 0); their rows are dropped and counted.
        column: a column of 0 and 1.
        positives_only: every event is a like; `[negatives]` then says where the others come from, or that there are
            none.
    """

    rating: str | None = None
    like_above: float | None = None
    ignore: tuple[float, ...] = ()
    column: str | None = None
    positives_only: bool = False


@dataclass(frozen=True)
class Negatives:
    """Rows with label 0, drawn for positives.

    Attributes:
        per_positive: how many for each positive row.
        from_: "seen-before": items that somebody had an event with before the positive's time; "catalogue": any item
            of the item table.
        weight: "popularity-before": by the number of earlier events of the item, or "uniform".
        unlike_drawn: positives that no negative can be like, because their user had the item at an earlier moment or,
            with "seen-before", nobody had: "keep" them as rows, or let them only serve as "history".
    """

    per_positive: int = 4
    from_: Literal["seen-before", "catalogue"] = "seen-before"
    weight: Literal["popularity-before", "uniform"] = "popularity-before"
    seed: int = 1
    unlike_drawn: Literal["keep", "history"] = "keep"


@dataclass(frozen=True)
class Entities:
    """The table of items or of users.

    Attributes:
        files: its own files; None = the columns stand in the events' table.
        id: the column of the id. title: the items' title; None for users.
        attributes: name → kind. columns: name → the columns that hold it, where that is not the one column of its
            name. A multi-value attribute of several columns has as values the names of those that hold 1.
        separators: name → what stands between the values of a multi-value attribute or a sequence; one without a
            separator is a list in Parquet, an array in JSON.
        unescape: whether HTML entities and tags in titles and texts are resolved.
        allow_leaks: columns that are used although their names say that they may know the label, or follow from it.
        missing_title: whether an item without title ends the reading, is named by its id, or is dropped with its
            events.
        min_join: the least share of the events' ids that must be found in `files`.
    """

    files: Files | None
    id: str
    title: str | None = None
    attributes: Mapping[str, AttributeKind] = field(default_factory=dict)
    missing_title: Literal["stop", "id", "drop"] = "stop"
    unescape: bool = True
    allow_leaks: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    separators: Mapping[str, str] = field(default_factory=dict)
    min_join: float = 0.95


@dataclass(frozen=True)
class SplitPlan:
    """How rows are split and which count.

    Attributes:
        rule: "time" (one moment for everybody), "per-user" (each user's latest), "leave-one-out", "random", or
            "files": `parts` names the events' files of each split.
        shares: of train, valid and test. ties: whether events of the row's own moment are kept out of its history.
        min_history: fewer earlier events than this make a row serve as history only.
        min_user, min_item: users and items with fewer events are dropped, repeatedly until none is left (k-core).
        hide_items: the share of items, drawn by `seed`, that get no training row (`hiding`); None = none. Folders that
            were prepared before there was this key have none.
    """

    rule: SplitRule = "time"
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    min_history: int = 1
    min_user: int = 1
    min_item: int = 1
    ties: Literal["exclude", "include"] = "exclude"
    seed: int = 1
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hide_items: float | None = None


@dataclass(frozen=True)
class Description:
    """A whole `data.toml`. `users` None = no attributes of users; `negatives` None = none are drawn."""

    name: str
    events: Events
    label: Label
    items: Entities
    split: SplitPlan
    users: Entities | None = None
    negatives: Negatives | None = None
    licence: str = "not stated"
    redistributable: bool = False
