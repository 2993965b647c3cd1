"""All that is found out about a person's files, before a word of the data.toml is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose import known, words
from corella_edge_export.data.table.propose.attributes import (
    AttributeVerdict,
    find_title,
    judge,
    judge_own,
    list_of_ids,
    listed,
    rates_of_events,
)
from corella_edge_export.data.table.propose.columns import as_float
from corella_edge_export.data.table.propose.labels import Labels, find_labels
from corella_edge_export.data.table.propose.moments import Moments
from corella_edge_export.data.table.propose.roles import RoleChoice, Roles, find_roles
from corella_edge_export.data.table.propose.rows import SampleRows, count_rows, find_drops, made_up_step
from corella_edge_export.data.table.propose.sheet import NoTableError, Sheet, read
from corella_edge_export.data.table.propose.splits import SplitProposal, propose_split
from corella_edge_export.data.table.propose.tables import FileTable, group

Progress = Callable[[str], None]
MOST_FILES = 1_000  # of a folder that is looked at
_ONE_A_ROW = "a data.toml describes one event a row"


@dataclass(frozen=True)
class FilesSurvey:
    """What is known of the files.

    Attributes:
        time: the column of the time, several if it is not decisive, None if there is none. moments: how it is written.
        title: (column, evidence) in the items' table, or in the events if there is no such table.
        of_items, of_users, of_events: verdicts on the columns without a role.
        drops: column → (rule, evidence). form: the publisher's form. skipped: files that are no
            tables.
    """

    roles: Roles
    time: RoleChoice | None
    moments: Moments | None
    labels: Labels
    rows: SampleRows
    split: SplitProposal
    drops: dict[str, tuple[str, str]]
    title: tuple[str, str] | None
    of_items: list[AttributeVerdict]
    of_users: list[AttributeVerdict]
    of_events: list[AttributeVerdict]
    form: str | None
    skipped: tuple[str, ...]

    @property
    def events(self) -> FileTable:
        return self.roles.events


def survey(paths: Sequence[Path], progress: Progress) -> FilesSurvey:
    """Look at the files; folders stand for the files in them.

    Raises:
        InputError: a file cannot be read, or the files hold no events; the message says what to do.
    """
    sheets, skipped = _read(paths, progress)
    form = known.recognise(sheets)
    _refuse_shown(sheets, form)
    progress("looking for users, items and times")
    tables = group(sheets)
    roles = find_roles(tables)
    _refuse_sequences(roles, form)
    return _of_roles(roles, form, skipped)


def _read(paths: Sequence[Path], progress: Progress) -> tuple[list[Sheet], tuple[str, ...]]:
    sheets, skipped = [], []
    for path, named in _files(paths):
        if not str(path).isprintable():
            raise InputError(f"{str(path)!r}: such a name cannot stand in a data.toml; name the file otherwise")
        progress(f"reading {path}")
        try:
            sheets.append(read(path))
        except NoTableError:
            if named:
                raise
            skipped.append(f"{path.name} is no table")
    if not sheets:
        raise InputError(f"{paths[0]}: holds no file with a table; name CSV, JSON lines or Parquet files")
    return sheets, tuple(skipped)


def _files(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """(file, whether it was named itself), each once."""
    found: dict[Path, tuple[Path, bool]] = {}
    for path in paths:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: is not a regular file; copy it to one")
        inside = sorted(entry for entry in path.iterdir() if _is_data(entry)) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: the folder holds no file with data; name the files")
        if len(inside) > MOST_FILES:
            many = f"the folder holds {len(inside):,} files, more than {MOST_FILES:,}"
            raise InputError(f"{path}: {many}; name those of the tables")
        for entry in inside:
            found.setdefault(entry.resolve(), (entry, not path.is_dir()))
    return list(found.values())


def _is_data(path: Path) -> bool:
    documents = (".md", ".rst", ".html", ".pdf", ".toml", ".py", ".sh", ".ipynb")
    # Spark leaves _SUCCESS and the like beside its parts.
    return (
        path.is_file()
        and path.stat().st_size > 0
        and not path.name.startswith((".", "_"))
        and path.suffix.lower() not in documents
    )


def _refuse_shown(sheets: Sequence[Sheet], form: str | None) -> None:
    for sheet in sheets:
        if column := known.shown_column(sheet):
            place = list(sheet.frame.columns).index(column) + 1
            what = f"column {place} lists all that was shown in one row (a-0 b-1 …)"
            raise InputError(f"{sheet.path}: {what}; {_ONE_A_ROW}: {_instead(form)}")


def _instead(form: str | None) -> str:
    from corella_edge_export.data import registry

    if form in registry.known():
        return f"corella-edge prepare {form} --source DIR --out DIR reads this form"
    return "write one row for each user, item and 0 or 1"


def _refuse_sequences(roles: Roles, form: str | None) -> None:
    """Rows that are a user's whole sequence: most of the listed items are no rows of their own."""
    events, user, item = roles.events, roles.user.column, roles.item.column
    ids = _ids(roles)
    for name, column in events.columns.items():
        parts = listed(column.values) if name not in (user, item) and list_of_ids(column, ids) > 0.5 else None
        if parts is None:
            continue
        pairs = pl.DataFrame({"user": events.frame[user], "item": parts}).head(2000).explode("item").drop_nulls()
        rows = events.frame.select(pl.col(user).alias("user"), pl.col(item).alias("item")).unique()
        here = pairs.join(rows, on=["user", "item"], how="semi").height / pairs.height
        if here < 0.3:
            what = f"column {name!r} lists a user's items, and only {here:.0%} of them are rows of their own"
            raise InputError(f"{events.sheets[0].path}: {what}; {_ONE_A_ROW}: {_instead(form)}")


def _ids(roles: Roles) -> pl.Series:
    """The items' ids: of their table, else of the events."""
    join = roles.items
    values = join.table.frame[join.key] if join else roles.events.frame[roles.item.column]
    return values.drop_nulls().unique()


def _of_roles(roles: Roles, form: str | None, skipped: tuple[str, ...]) -> FilesSurvey:
    events, user, item = roles.events, roles.user.column, roles.item.column
    time, moments = find_time(events, (*roles.user.options, *roles.item.options))
    taken = [*roles.user.options, *roles.item.options, *(time.options if time else ())]
    labels = find_labels(events, taken, item)
    seconds = moments.seconds if moments else None
    title = _title(roles, [*taken, *labels.used])
    twins = [name for name in events.moments if time and len(time.options) == 1 and name in time.why]
    own = _own(roles, [*taken, *twins, *labels.used, *([title[0]] if title and not roles.items else [])])
    step = made_up_step(events.frame[user], seconds) if seconds is not None else None
    return FilesSurvey(
        roles=roles, time=time, moments=moments, labels=labels, rows=count_rows(events, user, item, seconds),
        split=propose_split(events.sheets, events.frame[user], seconds, step),
        drops=find_drops(events, labels.counts, user), title=title,
        of_items=_of_items(roles, title, labels) if roles.items else own["item"],
        of_users=_of_users(roles) if roles.users else own["user"],
        of_events=own["event"] if roles.items is None else [*own["event"], *map(_elsewhere, own["item"])],
        form=form, skipped=skipped,
    )  # fmt: skip


def find_time(events: FileTable, others: Sequence[str]) -> tuple[RoleChoice | None, Moments | None]:
    """The column of the time: of several the finest if they say the same, else a question."""
    found = {name: moments for name, moments in events.moments.items() if name not in others}
    if not found:
        return None, None
    names = sorted(
        found, key=lambda n: (-found[n].seconds.n_unique(), not words.has(n, words.TIME), not found[n].zoned)
    )
    best = names[0]
    apart = [name for name in names[1:] if not _same_days(found[best].seconds, found[name].seconds)]
    if not apart:
        same = f"; {', '.join(names[1:])} says the same" if names[1:] else ""
        return RoleChoice((best,), f"{found[best].seconds.n_unique():,} different moments{same}"), found[best]
    told = "which one is the moment of the event? " + ", ".join(f"{n}: {found[n].why}" for n in (best, *apart))
    return RoleChoice((best, *apart), told), found[best]


def _same_days(one: pl.Series, other: pl.Series) -> bool:
    near = ((one // 86_400) - (other // 86_400)).abs() <= 1
    return as_float(near.mean()) > 0.99


def _title(roles: Roles, taken: Sequence[str]) -> tuple[str, str] | None:
    if roles.items:
        return find_title(roles.items.table, [roles.items.key], roles.items.key)
    item = roles.events.columns[roles.item.column]
    if item.spaced > 0.3:
        return item.name, "the items are named by their titles"
    return find_title(roles.events, taken, roles.item.column)


def _own(roles: Roles, taken: Sequence[str]) -> dict[str, list[AttributeVerdict]]:
    found: dict[str, list[AttributeVerdict]] = {"item": [], "user": [], "event": []}
    for whose, verdict in judge_own(roles.events, roles.user.column, roles.item.column, taken, _ids(roles)):
        found[whose if verdict.kind else "event"].append(verdict)
    return found


def _elsewhere(verdict: AttributeVerdict) -> AttributeVerdict:
    return AttributeVerdict(verdict.name, "", "of the items, which have a table of their own")


def _of_items(roles: Roles, title: tuple[str, str] | None, labels: Labels) -> list[AttributeVerdict]:
    join = roles.items
    assert join
    events = roles.events.frame
    rating = events[labels.ratings[0]].cast(pl.Float64, strict=False) if labels.ratings else None
    rates = rates_of_events(join.table, join.key, events[join.column], rating)
    others = [join.key, *([title[0]] if title else [])]
    return judge(join.table, others, rates, _ids(roles))


def _of_users(roles: Roles) -> list[AttributeVerdict]:
    join = roles.users
    assert join
    return judge(join.table, [join.key], {}, None, users=True)
