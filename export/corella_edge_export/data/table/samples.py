"""From tables of events, items and users to the prepared folder: codes, histories, splits, negatives, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from corella_edge import __version__
from corella_edge.atomic import new_folder
from corella_edge.errors import InputError
from corella_edge_export.data.database import MEMORY, literal, one, plain_path, readable_errors
from corella_edge_export.data.database import name as sql_name
from corella_edge_export.data.finish import PARQUET_OPTIONS, finish
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import FORMAT_VERSION, SPLITS
from corella_edge_export.data.table import hiding, leakage, negatives, restart, splitting
from corella_edge_export.data.table.coding import code_events
from corella_edge_export.data.table.description import Description, Entities

Progress = Callable[[str], None]
NEARLY_ONE_LABEL = 0.01
POSITIVES_ONLY = (
    "every row has label 1 and none was drawn beside: the next item can be learnt from that, how probable a like is "
    "cannot; figures that need both labels (AUC, log-loss, accuracy) say nothing"
)


def write(
    description: Description,
    db: duckdb.DuckDBPyConnection,
    ledger: Ledger,
    out: Path,
    *,
    seed: int = 0,
    requests: int = 1000,
    progress: Progress | None = None,
    memory: int = MEMORY,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
    joined: Mapping[str, float] | None = None,
    settle: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write the prepared folder `out`, complete or not at all; returns dataset.json's content.

    Args:
        db: has the tables `events(row BIGINT, part VARCHAR, user_id VARCHAR, item_id VARCHAR, rating FLOAT, label
            TINYINT, timestamp BIGINT, ...)`, `items(item_id, title, attributes...)` and, if the description has
            users, `users(user_id, attributes...)`; further tables are made in it.
        ledger: what reading has counted; what is dropped here is added.
        seed: draws the requests. memory: the database's limit in bytes.
        sources: as `restart.source_hashes`, which is asked if this is None. notes: what reading has to say.
        joined: "items", "users" → share of the events' ids that their table has, where it has files of its own.
        settle: called once `rows(row, part, ...)` says which events train, and before attributes are looked at.

    Raises:
        InputError: nothing is left, a split or label is empty, an attribute knows the label, negatives are impossible,
            or `out` is taken. The message says what to change.
    """
    say = progress or (lambda message: None)
    leakage.check_names(description)
    if description.negatives is not None:
        negatives.check_plan(description.negatives)
    with new_folder(out) as folder, plain_path(folder) as plain, readable_errors(out):
        hidden, drawn = _make_rows(description, db, ledger, memory, say)
        settle()
        label_notes = _check_labels(db, description)
        say("looking for attributes that know the label")
        aucs = leakage.check_aucs(db, description)
        leaks = leakage.doubts(db, description, aucs)
        _write_tables(db, description, plain, say)
        about = _about(description, db, ledger, seed, requests)
        about["sources"] = dict(sources if sources is not None else restart.source_hashes(description))
        about["negatives"] = None if drawn is None else drawn.to_json()
        about |= {"hidden": hidden.to_json()} if hidden else {}
        about["attribute_auc"] = aucs
        about["joined"] = dict(joined or {})
        more = [*(drawn.notes() if drawn else []), *([hidden.note()] if hidden else [])]
        about["notes"] += [*notes, *label_notes, *leaks, *more]
        history_only = int(one(db, "SELECT count(*) FROM rows WHERE part IS NULL")[0])
        return finish(db, folder, about, history_only=history_only, requests=requests, seed=seed, say=say)


def _make_rows(
    description: Description, db: duckdb.DuckDBPyConnection, ledger: Ledger, memory: int, say: Progress
) -> tuple[hiding.Hidden | None, negatives.Drawn | None]:
    """The tables `rows`, `hidden` and `labelled(u, i, label, rating, ts, row, position, part)`, what splits hold."""
    say("numbering users and items")
    code_events(db, description.split, ledger)
    say("splitting")
    splitting.split_rows(db, description.split)
    hidden = hiding.hide_items(db, description.split, ledger)
    drawn, more = None, ""
    if description.negatives is not None:
        drawn = negatives.draw_negatives(db, description.negatives, memory, say)
        more = 'UNION ALL SELECT u, i, 0::TINYINT, NULL::FLOAT, ts, "row", position, part FROM drawn'
    db.execute(
        f"""CREATE VIEW labelled AS
        SELECT u, i, label, rating, ts, "row", position, part FROM rows WHERE part IS NOT NULL {more}"""
    )
    return hidden, drawn


def _check_labels(db: duckdb.DuckDBPyConnection, description: Description) -> list[str]:
    """Notes on labels that are nearly all the same. Raises InputError where training rows have one label only."""
    found = dict(db.execute("SELECT part, avg(label) FROM labelled GROUP BY part").fetchall())
    share = found["train"]
    if description.label.positives_only and description.negatives is None:
        return [POSITIVES_ONLY]
    if share in (0, 1):
        label = description.label
        remedy = (
            f"lower like_above = {label.like_above:g}" if share == 0 and label.like_above is not None
            else f"raise like_above = {label.like_above:g}" if label.like_above is not None
            else "look at the column of the label, or write positives_only = true with [negatives]"
        )  # fmt: skip
        raise InputError(f"[label] every training row has the label {int(share)}, so nothing can be learnt; {remedy}")
    return [
        f"{part}: {share:.1%} of the rows have label 1; figures of so few of the other label are uncertain"
        for part, share in sorted(found.items())
        if not NEARLY_ONE_LABEL <= share <= 1 - NEARLY_ONE_LABEL
    ]


def _write_tables(db: duckdb.DuckDBPyConnection, description: Description, folder: Path, say: Progress) -> None:
    """The six Parquet files. The last step of each is its order, which no join then disturbs."""
    decoded = "JOIN user_codes USING (u) JOIN item_codes USING (i)"
    columns = 'user_id, item_id, label, rating, ts AS "timestamp"'
    queries = {
        name: f"SELECT {columns}, position FROM (FROM labelled WHERE part = '{name}') {decoded} "
        'ORDER BY ts, u, "row", i'
        for name in SPLITS
    }
    queries["interactions"] = f"SELECT {columns}, place AS position FROM rows {decoded} ORDER BY u, place"
    queries["users"] = (
        f"SELECT user_id{_attributes(description.users)} FROM user_codes "
        f"{'LEFT JOIN users USING (user_id)' if description.users else ''} ORDER BY u"
    )
    queries["items"] = (
        f"SELECT item_id, title{_attributes(description.items)} FROM item_codes JOIN items USING (item_id) ORDER BY i"
    )
    for name, query in queries.items():
        say(f"writing {name}.parquet")
        db.execute(f"COPY ({query}) TO {literal(str(folder / f'{name}.parquet'))} {PARQUET_OPTIONS}")


def _attributes(entities: Entities | None) -> str:
    return "".join(f", {sql_name(column)}" for column in entities.attributes) if entities else ""


def _about(
    description: Description, db: duckdb.DuckDBPyConnection, ledger: Ledger, seed: int, requests: int
) -> dict[str, Any]:
    """The entries of dataset.json that its files do not tell; `notes` are what every report must say."""
    plan, users = description.split, description.users
    timeless = description.events.time is None
    return {
        "format_version": FORMAT_VERSION,
        "name": description.name,
        "written_by": f"corella-edge {__version__}",
        "seed": seed,
        "licence": description.licence,
        "redistributable": description.redistributable,
        "notes": [*splitting.stamps(db, plan, timeless), *leakage.allowed_notes(description)],
        "generator": None,
        "like": _like(description),
        "split": {
            "rule": f"{splitting.RULES[plan.rule]}; rows with fewer than {plan.min_history} earlier events of their "
            f"user only serve as history; {splitting.ORDER}",
            "name": plan.rule, "min_history": plan.min_history, "shares": list(plan.shares),
        },
        "history": {
            "events": "all", "ties": plan.ties, "rows_in_log": _rows_in_log(db, description),
            "rule": splitting.history_rule(plan), **_types(db, description),
        },
        "attributes": {
            "users": dict(users.attributes) if users else {}, "items": dict(description.items.attributes)
        },
        "ledger": ledger.to_json(),
        "settings": restart.settings(description, seed=seed, requests=requests),
        "duckdb": duckdb.__version__,
    }  # fmt: skip


def _types(db: duckdb.DuckDBPyConnection, description: Description) -> dict[str, list[str]]:
    """The types of the events that form histories, which a server then takes for events, too; {} where none has one."""
    if description.events.event_type is None:
        return {}
    found = db.execute("SELECT DISTINCT event_type FROM events WHERE event_type IS NOT NULL ORDER BY 1").fetchall()
    return {"types": [name for (name,) in found]} if found else {}


def _like(description: Description) -> dict[str, Any]:
    label = description.label
    if label.rating is not None:
        return {"above": label.like_above, "rule": f"{label.rating} > {label.like_above:g}"}
    return {"above": None, "rule": f"{label.column} is 1" if label.column else "every event is a like"}


def _rows_in_log(db: duckdb.DuckDBPyConnection, description: Description) -> bool:
    """Whether each row is its user's event number `position` itself: none is drawn, none shares a moment."""
    if description.negatives is not None:
        return False
    return bool(one(db, "SELECT count(*) = 0 FROM rows WHERE part IS NOT NULL AND position != place")[0])
