"""`corella-edge init`: look at a person's files and write the data.toml that describes them and asks what is open."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_export.data import registry
from corella_edge_export.data.table.propose.entity_sections import items_sections, users_sections
from corella_edge_export.data.table.propose.event_sections import event_names, events_section, rows_shown, split_section
from corella_edge_export.data.table.propose.label_sections import label_section, negatives_section
from corella_edge_export.data.table.propose.survey import FilesSurvey, Progress, survey
from corella_edge_export.data.table.propose.tables import FileTable, mismatch
from corella_edge_export.data.table.propose.toml import CHOOSE, WrittenSection, render


@dataclass(frozen=True)
class Proposal:
    """What `init` found.

    Attributes:
        text: of the data.toml. rows: the first events, as lines of text. notes: what to know of the files.
        questions: "line 7: user: a | b — why", what a person has to decide. next: the command to type then.
    """

    text: str
    rows: list[str]
    notes: list[str]
    questions: list[str]
    next: str


def propose(paths: Sequence[Path], out: Path, progress: Progress) -> Proposal:
    """Look at the files and write `out`, which must not exist.

    Raises:
        InputError: `out` exists or cannot be written, or a file is no table that can be described.
    """
    check_new(out)
    proposal = describe(paths, out, progress)
    check_new(out)
    write_file(out, proposal.text.encode())
    return proposal


def check_new(out: Path) -> None:
    """Raise InputError unless a file can be written at `out` without replacing one."""
    if out.exists() or out.is_symlink():
        raise InputError(f"--out {out}: exists, and init replaces nothing; remove it or name another file")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it or name another one")


def describe(paths: Sequence[Path], out: Path, progress: Progress) -> Proposal:
    """The proposal for the files, as a data.toml at `out` would say it; nothing is written."""
    found = survey(paths, progress)
    progress("writing the description")
    names = event_names(found)
    folder = out.absolute().parent
    command = f"corella-edge prepare table --config {shlex.quote(str(out))} --dry"
    notes = _notes(found)
    sections = [_top(found, paths, notes), events_section(found, folder, names), label_section(found, names),
                negatives_section(found), *items_sections(found, folder, names), *users_sections(found, folder, names),
                split_section(found, folder)]  # fmt: skip
    last = WrittenSection("", ["", f"# Next: {command}"])
    text = render([section for section in (*sections, last) if section])
    return Proposal(text, rows_shown(found.events, names), notes, questions(text), command)


def _top(found: FilesSurvey, paths: Sequence[Path], notes: Sequence[str]) -> WrittenSection:
    section = WrittenSection("")
    section.say(
        "Written by `corella-edge init` from what the files hold. Read it, correct it, then type the last line."
    )
    section.say(f"A value that begins with {CHOOSE} is a question: put one of the answers in its place.")
    for note in notes:
        section.say(note)
    section.lines.append("")
    section.key("name", name_of(found, paths), "of the data set, in reports and bundles")
    section.key("licence", "not stated", "of the data; told in dataset.json and in the bundle")
    section.key("redistributable", False, "true if rows of it may travel in a bundle")
    return section


def name_of(found: FilesSurvey, paths: Sequence[Path]) -> str:
    """A name for the data set: of the one folder, or of the events' first file."""
    first = paths[0] if paths[0].is_dir() and len(paths) == 1 else found.events.sheets[0].path
    stem = first.resolve().name if first.is_dir() else first.name.partition(".")[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:64] or "table"


def _notes(found: FilesSurvey) -> list[str]:
    notes = []
    if found.form in registry.known():
        command = f"corella-edge prepare {found.form} --source DIR --out DIR"
        notes.append(
            f"These files have a publisher's form: `{command}` reads it by the publisher's rules, without this file."
        )
    notes += [f"Left out: {reason}." for reason in found.skipped]
    notes += [f"Left out: {_no_part(found, table)}." for table in found.roles.others]
    joins = [join for join in (found.roles.items, found.roles.users) if join and join.near]
    notes += [
        f"The ids of {join.table.names} are written otherwise than in the events: {mismatch(join)}." for join in joins
    ]
    if not found.events.whole:
        notes.append(
            f"The events are larger than what was looked at: figures are of their first {found.events.rows:,} rows."
        )
    return notes


def _no_part(found: FilesSurvey, table: FileTable) -> str:
    """Why a table has no part in it, as far as it is known."""
    shown = f"{table.names} ({', '.join(list(table.columns)[:4])})"
    roles = found.roles
    shared = [choice.column for choice in (roles.user, roles.item) if choice.column in table.columns]
    if len(shared) == 2:
        events = f"{shown} has the events' {' and '.join(shared)} and is of another form"
        return f"{events}; if these are events, too, give all files the same columns and separator"
    for name in shared:
        column, own = table.columns[name], set(roles.events.columns[name].filled.unique().to_list())
        if not column.unique and len(own & set(column.filled.unique().to_list())) > 0.5 * len(own):
            rows = f"{column.distinct:,} different values in {column.rows:,} rows"
            several = f"{shown} has the ids of {name!r} several times ({rows})"
            return f"{several}; if it is a table of them, leave one row for each"
    return f"{shown} has no part in it"


def questions(text: str) -> list[str]:
    """What the text of a data.toml leaves to decide, with the lines."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if f'"{CHOOSE}' in line and not line.startswith("#"):
            key, _, value = line.partition(" = ")
            asked = value[value.index(CHOOSE) + len(CHOOSE) :].rpartition('"')[0].strip().replace('\\"', '"')
            found.append(f"line {number}: {key}: {asked}")
    return found
