"""Which columns are attributes of items or users, of which kind; which are left out, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from corella_edge_export.data.table.propose import words
from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float
from corella_edge_export.data.table.propose.roles import determined, determines
from corella_edge_export.data.table.propose.tables import FileTable

FEW = 25  # numbers with no more different values may be codes


@dataclass(frozen=True)
class AttributeVerdict:
    """A column as an attribute: `kind` as the data.toml writes it, or "" if it is left out; and why.

    Attributes:
        columns: of one attribute that stands in several columns of 0 and 1.
    """

    name: str
    kind: str
    why: str
    columns: tuple[str, ...] = ()


def judge(
    table: FileTable,
    others: Sequence[str],
    rates: Mapping[str, tuple[str, float]],
    ids: pl.Series | None,
    users: bool = False,
) -> list[AttributeVerdict]:
    """A verdict on each column that has no role.

    Args:
        others: columns with a role. rates: column → (of what, correlation) with what later events make.
        ids: the items' ids, to know lists of items by. users: whether the rows are users.
    """
    columns = [column for name, column in table.columns.items() if name not in others]
    flags = _flags(columns, table)
    verdicts = [_judge(column, table, rates, ids, users) for column in columns if column.name not in flags]
    if flags:
        shown = ", ".join(flags[:2]) + (f" … {flags[-1]}" if len(flags) > 2 else "")
        verdicts.append(AttributeVerdict("flags", "multi", f"{len(flags)} columns of 0 and 1: {shown}", tuple(flags)))
    return verdicts


def _flags(columns: Sequence[ColumnFacts], table: FileTable) -> list[str]:
    """Three or more neighbouring columns of 0 and 1 are one attribute with several values."""
    names = list(table.columns)
    flags = [c.name for c in columns if c.flag and not words.has(c.name, words.SNAPSHOT | words.RATING)]
    beside = [n for n in flags if any(abs(names.index(n) - names.index(other)) == 1 for other in flags if other != n)]
    return beside if len(beside) >= 3 else []


def _judge(
    column: ColumnFacts, table: FileTable, rates: Mapping[str, tuple[str, float]], ids: pl.Series | None, users: bool
) -> AttributeVerdict:
    if reason := _leaks_by_name(column) or _useless(column) or _leaks(column, rates, ids) or _unreadable(column, table):
        return AttributeVerdict(column.name, "", reason)
    return _kind(column, users)


def _useless(column: ColumnFacts) -> str:
    filled, rows = len(column.filled), column.rows
    if not filled:
        return "empty in every row"
    if column.distinct == 1:
        return (
            f"has one value only ({column.filled[0][:40]})"
            if not column.missing
            else f"{column.missing:,} of {rows:,} are empty"
        )
    if filled < 0.1 * rows:
        return f"{column.missing:,} of {rows:,} are empty"
    if column.counted or (not column.name.strip() and column.unique):
        return "only counts the rows"
    if column.address:
        return "addresses; a model cannot follow them"
    return ""


def _leaks_by_name(column: ColumnFacts) -> str:
    if words.has(column.name, words.SNAPSHOT):
        return "leaks: a snapshot over all users, later events included"
    if words.has(column.name, words.RELATED) and column.numbers is None:
        return "leaks: lists other items, gathered from what users did later"
    if words.has(column.name, words.RATING) and not words.has(column.name, {"age", "content", "parental"}):
        return "leaks: made from ratings, later ones included"
    return ""


def _leaks(column: ColumnFacts, rates: Mapping[str, tuple[str, float]], ids: pl.Series | None) -> str:
    """Why a column would tell what came later, or ""."""
    listed = list_of_ids(column, ids) if ids is not None else 0.0
    if listed > 0.3:
        return f"leaks: {listed:.0%} of what it lists are items, gathered from what users did later"
    if column.name in rates:
        what, strength = rates[column.name]
        return f"leaks: goes with {what} (correlation {strength:.2f}), as a figure counted from the events does"
    return ""


def list_of_ids(column: ColumnFacts, ids: pl.Series) -> float:
    """Share of a column's listed parts that are ids; 0 if its fields are no lists."""
    parts = listed(column.sample.head(2000))
    if parts is None:
        return 0.0
    flat = parts.explode().drop_nulls()
    return as_float(flat.is_in(ids.implode()).mean())


def listed(values: pl.Series) -> pl.Series | None:
    """The parts of fields such as `a b c`, `a|b`, `["a", "b"]`; None if hardly a field has several parts."""
    bare = values.str.replace_all(r"[\[\]\"'{}]", "")
    parts = bare.str.replace_all(r"[\s,;|]+", " ").str.strip_chars().str.split(" ")
    return parts if len(parts) and as_float((parts.list.len() > 1).mean()) > 0.3 else None


def _unreadable(column: ColumnFacts, table: FileTable) -> str:
    if column.nested == "object":
        return "nested objects; write what you need of them as columns of their own"
    if column.nested == "list" and column.type != "list":
        return "lists as a program prints them; write them as text with a separator, such as a|b"
    if column.nested == "list" and not _short_lists(column):
        return "lists of long or ever different texts"
    if column.share(r"^\s*([$€£¥]|USD|EUR|GBP)\s*\d") > 0.5:
        return f'amounts as text ({column.filled[0][:20]}); write them as numbers to use them as "numeric"'
    if column.name in table.moments:
        return 'a date; write its year as a number to use it as "numeric"'
    return ""


def _short_lists(column: ColumnFacts) -> bool:
    parts = (
        column.sample.str.json_decode(pl.List(pl.String))
        if column.sample.str.starts_with('["').any()
        else listed(column.sample)
    )
    if parts is None:
        return False
    flat = parts.explode().drop_nulls()
    return len(flat) > 0 and flat.n_unique() <= max(2, 0.3 * len(flat)) and as_float(flat.str.len_chars().mean()) <= 40


def _kind(column: ColumnFacts, users: bool) -> AttributeVerdict:
    name, filled, distinct = column.name, len(column.filled), column.distinct
    gaps = f", {column.missing:,} empty" if column.missing else ""
    if column.nested == "list":
        return AttributeVerdict(name, "multi", f"lists{gaps}")
    if column.numbers is not None and column.share(r"^\s*0\d") == 0:
        return _of_numbers(column, gaps)
    if found := column.multi:
        top = ", ".join(value for value, _ in column.top[:2])
        return AttributeVerdict(
            name,
            f"multi:{found.separator}",
            f"{found.parts:,} different values, {found.each:.1f} in a field ({top}){gaps}",
        )
    if column.prose or (column.spaced > 0.8 and column.letters > 40 and distinct > 0.5 * filled):
        if users:
            return AttributeVerdict(name, "", "free text")
        return AttributeVerdict(name, "text", f"{column.letters:.0f} letters on average{gaps}")
    if distinct > max(0.5 * filled, FEW) or (distinct > 0.9 * filled and filled > 3):
        return AttributeVerdict(
            name, "", f"{distinct:,} different values in {filled:,} rows: nearly each row has its own"
        )
    return AttributeVerdict(
        name, "categorical", f"{distinct:,} different values ({', '.join(v[:30] for v, _ in column.top)}){gaps}"
    )


def _of_numbers(column: ColumnFacts, gaps: str) -> AttributeVerdict:
    assert column.numbers is not None
    low, high = column.range
    if column.whole and column.unique and column.distinct > FEW:
        return AttributeVerdict(column.name, "", "whole numbers that tell the rows apart, as an id does")
    if column.whole and column.distinct <= FEW:
        span = f"{column.distinct} different numbers from {low:g} to {high:g}"
        few = f'{span}; they may be codes. "numeric" if they measure'
        return AttributeVerdict(column.name, "categorical", few + gaps)
    zeros = int((column.numbers == 0).sum())
    rest = as_float(column.numbers.filter(column.numbers > 0).min())
    odd = f"; {zeros:,} are 0, far below the others, and may be missing" if zeros and low == 0 and rest > 100 else ""
    return AttributeVerdict(column.name, "numeric", f"{low:g} to {high:g}{gaps}{odd}")


def judge_own(
    events: FileTable, user: str, item: str, others: Sequence[str], ids: pl.Series
) -> Iterator[tuple[str, AttributeVerdict]]:
    """("item", "user" or "event", verdict) on the columns of the events that have no role.

    What one item always has is the item's, what one user always has the user's. The rest is known only with the event.
    """
    for name, column in events.columns.items():
        if name in others:
            continue
        if reason := _late(column) or _useless(column):
            yield "event", AttributeVerdict(name, "", reason)
        elif list_of_ids(column, ids) > 0.5:
            yield (
                "event",
                AttributeVerdict(name, "", "lists items: the user's others; prepare makes the histories itself"),
            )
        else:
            yield _whose(events, column, user, item, ids)


def _late(column: ColumnFacts) -> str:
    """Why a column of the events is known only afterwards, by its name."""
    if words.has(column.name, words.WRITTEN):
        return "leaks: written after the event, it tells what the user thought"
    if words.has(column.name, words.SNAPSHOT):
        return "leaks: given after the event, or a snapshot over all users"
    if words.has(column.name, words.RATING):
        return "leaks: a second rating of the same event"
    return ""


def _whose(
    events: FileTable, column: ColumnFacts, user: str, item: str, ids: pl.Series
) -> tuple[str, AttributeVerdict]:
    of_item, of_user = (determined(events.frame, who, column.name) for who in (item, user))
    repeated_item = events.columns[item].distinct < 0.9 * events.rows
    if of_user >= 0.99 and of_user >= of_item and not column.flag:
        if determines(events.frame, column.name, user):
            return "event", AttributeVerdict(column.name, "", f"another name of the user ({user})")
        return "user", _judge(_each(events, user, column), events, {}, None, True)
    if of_item >= 0.99 and repeated_item and not column.flag:
        return "item", _judge(_each(events, item, column), events, {}, ids, False)
    told = (
        "0 and 1"
        if column.flag
        else f"{1 - of_item:.0%} of the items and {1 - of_user:.0%} of the users have several values"
    )
    return "event", AttributeVerdict(column.name, "", f"known only with the event ({told})")


def _each(events: FileTable, who: str, column: ColumnFacts) -> ColumnFacts:
    """A column's value for each user or item, one a row."""
    frame = events.frame.select(pl.col(who).alias("who"), pl.col(column.name).alias("own")).drop_nulls("who")
    values = frame.group_by("who", maintain_order=True).agg(pl.col("own").drop_nulls().first())["own"]
    return ColumnFacts(column.name, values.rename(column.name), column.type)


def rates_of_events(
    items: FileTable, key: str, ids: pl.Series, rating: pl.Series | None
) -> dict[str, tuple[str, float]]:
    """Numeric columns of the items that go with the items' mean rating, or their number of events."""
    frame = pl.DataFrame(
        {"id": ids, "rating": rating if rating is not None else pl.repeat(None, len(ids), dtype=pl.Float64, eager=True)}
    )
    means = (
        frame.drop_nulls("id").group_by("id").agg(pl.len().cast(pl.Float64).alias("events"), pl.col("rating").mean())
    )
    means = means.filter(pl.col("events") >= 3)
    found = {}
    for name, column in items.columns.items():
        if name == key or column.numbers is None or column.distinct < 4:
            continue
        own = items.frame.select(pl.col(key).alias("id"), pl.col(name).cast(pl.Float64, strict=False).alias("own"))
        both = means.join(own, on="id").drop_nulls("own")
        for what, told in (("rating", "the items' mean rating"), ("events", "the items' number of events")):
            pairs = both.drop_nulls(what)
            strength = pairs.select(pl.corr("own", what, method="spearman")).item() if pairs.height >= 20 else None
            if strength is not None and strength == strength and strength > 0.85:
                found[name] = (told, float(strength))
    return found


def find_title(table: FileTable, others: Sequence[str], item: str) -> tuple[str, str] | None:
    """(column, evidence) of the items' titles: words, mostly different; names of columns decide among several."""
    candidates = [c for name, c in table.columns.items() if name not in others and _title_like(c, table, item)]
    if not candidates:
        return None
    best = max(candidates, key=_title_score)
    gaps = f", {best.missing:,} rows without" if best.missing else ""
    return best.name, f"{best.distinct:,} different texts of {best.letters:.0f} letters on average{gaps}"


def _title_like(column: ColumnFacts, table: FileTable, item: str) -> bool:
    if not len(column.filled) or column.nested or column.address or column.numbers is not None or column.letters > 250:
        return False
    named = any(word in words.words(column.name) for word in words.TITLE)
    if words.has(column.name, words.WRITTEN | words.USER) or column.name in table.moments or column.multi:
        return False
    enough = column.distinct > (0.3 if table.columns[item].unique else 0.0) * len(column.filled)
    own = table.columns[item].unique or determined(table.frame, item, column.name) > 0.7
    texts = column.spaced > 0.3 or (named and column.share(r"\pL\pL") > 0.5)
    return enough and own and texts and (named or column.letters < 120) and len(column.filled) > 0.5 * column.rows


def _title_score(column: ColumnFacts) -> float:
    named = [len(words.TITLE) - place for place, word in enumerate(words.TITLE) if word in words.words(column.name)]
    return max(named, default=0) + column.distinct / max(1, len(column.filled)) - column.letters / 250
