"""Histories and splits: how many events came before a row, and whether it trains, validates or tests."""

from __future__ import annotations

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import one
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.data.table.description import SplitPlan
from corella_edge_export.data.table.draws import draw

_BUCKETS = 4096
_PARTS_PER_MILLION = 1_000_000

RULES = {
    "time": "in order of time, cut at two moments for everybody; the rows of one moment stay together",
    "per-user": "each user's rows in order of time, cut by shares of them; the rows of one moment stay together",
    "leave-one-out": "each user's last row is test, the one before it valid; a user with fewer than 3 rows only trains",
    "random": "drawn by seed",
    "files": "as the files are",
}
ORDER = "rows of a split are in the order of time, then user id, then place in the files"


def split_rows(db: duckdb.DuckDBPyConnection, plan: SplitPlan) -> None:
    """From `coded` make `rows(u, i, rating, label, ts, row, place, earlier, position, part)`.

    `place` is the event's index among its user's, `earlier` counts the user's events of earlier moments; `position`,
    the length of the row's history, is one of them by `ties`. `part` is the split, NULL where the history is shorter
    than `min_history`, so that the event only serves as history. The table `coded` is dropped.

    Raises:
        InputError: a split has no rows; the message has the counts and says what to change.
    """
    position = "earlier" if plan.ties == "exclude" else "place"
    db.execute(
        """CREATE TABLE placed AS SELECT u, i, rating, label, ts, "row", part AS file_part,
            (row_number() OVER (PARTITION BY u ORDER BY ts, "row") - 1)::INTEGER AS place,
            (rank() OVER (PARTITION BY u ORDER BY ts) - 1)::INTEGER AS earlier
        FROM coded"""
    )
    db.execute("DROP TABLE coded")
    eligible = f"{position} >= {plan.min_history}"
    total = int(one(db, f"SELECT count(*) FROM placed WHERE {eligible}")[0])
    if not total:
        raise InputError(
            f"[split] min_history = {plan.min_history}: no event has so many earlier ones of its user"
            f"{' (events of the same moment are not earlier)' if plan.ties == 'exclude' else ''}; lower it"
        )
    users = "placed"
    if plan.rule in ("per-user", "leave-one-out"):
        db.execute(
            f"""CREATE TABLE per_user AS
            SELECT u, count(*) AS events, count(*) FILTER ({eligible}) AS able FROM placed GROUP BY u"""
        )
        users = "placed JOIN per_user USING (u)"
    db.execute(
        f"""CREATE TABLE rows AS SELECT u, i, rating, label, ts, "row", place, earlier, {position} AS position,
            CASE WHEN {eligible} THEN {_part(db, plan, eligible, total)} END AS part
        FROM {users}"""
    )
    db.execute("DROP TABLE placed; DROP TABLE IF EXISTS per_user")
    _check_parts(db, plan, total)


def _part(db: duckdb.DuckDBPyConnection, plan: SplitPlan, eligible: str, total: int) -> str:
    """The split of an eligible row, as SQL."""
    if plan.rule == "files":
        return "file_part"
    if plan.rule == "leave-one-out":
        last = "able >= 3 AND place = events -"
        return f"CASE WHEN {last} 1 THEN 'test' WHEN {last} 2 THEN 'valid' ELSE 'train' END"
    if plan.rule == "per-user":
        return _by_share("greatest(0, earlier - (events - able))", "able", plan)
    if plan.rule == "random":
        number = draw(plan.seed, "split", '"row"') + "::BIGINT"
        first, second = (_value_at(db, number, eligible, count) for count in _counts(plan, total))
    else:
        number = "ts"
        first, second = _moments(db, eligible, plan, total)
    return f"CASE WHEN {number} < {first} THEN 'train' WHEN {number} < {second} THEN 'valid' ELSE 'test' END"


def _by_share(place: str, of: str, plan: SplitPlan) -> str:
    """Whole numbers alone, so that no rounding decides."""
    valid, test = (round(sum(plan.shares[:n]) * _PARTS_PER_MILLION) for n in (1, 2))
    where = f"({place})::BIGINT * {_PARTS_PER_MILLION}"
    return f"CASE WHEN {where} < {of} * {valid} THEN 'train' WHEN {where} < {of} * {test} THEN 'valid' ELSE 'test' END"


def _counts(plan: SplitPlan, total: int) -> tuple[int, int]:
    """How many rows come before valid and before test."""
    train, valid = (round(share * _PARTS_PER_MILLION) * total // _PARTS_PER_MILLION for share in plan.shares[:2])
    return train, train + valid


def _moments(db: duckdb.DuckDBPyConnection, eligible: str, plan: SplitPlan, total: int) -> tuple[int, int]:
    """The first moments of valid and of test: those that come nearest to the shares and leave each split rows."""
    train, both = _counts(plan, total)
    before, valid = _moment(db, eligible, train, 0, total)
    return valid, _moment(db, eligible, both, before, total)[1]


def _moment(db: duckdb.DuckDBPyConnection, eligible: str, wanted: int, least: int, total: int) -> tuple[int, int]:
    """(rows before it, moment): about `wanted` rows, more than `least` and not all, where there is such a moment."""
    moment = _value_at(db, "ts", eligible, min(wanted, total - 1))
    before = f"SELECT count(*) FILTER (ts < {moment}), count(*) FROM placed WHERE {eligible} AND ts <= {moment}"
    options = list(zip(one(db, before), (moment, moment + 1), strict=True))
    usable = [option for option in options if least < option[0] < total] or options
    return min(usable, key=lambda option: (abs(option[0] - wanted), option))


def _value_at(db: duckdb.DuckDBPyConnection, number: str, eligible: str, place: int) -> int:
    """The whole number at index `place` among the sorted ones of eligible rows.

    Counts by ever finer buckets, so that nothing is sorted or held in memory.
    """
    low, high = one(db, f"SELECT min({number}), max({number}) FROM placed WHERE {eligible}")
    while low < high:
        width = (high - low) // _BUCKETS + 1
        counts = db.execute(
            f"""SELECT ({number} - {low}) // {width} AS bucket, count(*) FROM placed
            WHERE {eligible} AND {number} BETWEEN {low} AND {high} GROUP BY bucket ORDER BY bucket"""
        ).fetchall()
        for bucket, count in counts:
            if place < count:
                low, high = low + bucket * width, min(high, low + (bucket + 1) * width - 1)
                break
            place -= count
        else:  # beyond the last row
            return int(high) + 1
    return int(low)


def part_counts(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Split → rows, for all three."""
    found = dict(db.execute("SELECT part, count(*) FROM rows WHERE part IS NOT NULL GROUP BY part").fetchall())
    return {part: found.get(part, 0) for part in SPLITS}


_REMEDIES = {
    "time": 'many rows share a moment, or there are too few; change `shares`, or use rule = "per-user"',
    "per-user": 'users have too few rows for these shares; change `shares`, or use rule = "time"',
    "leave-one-out": 'no user has 3 rows that count; lower `min_history`, or use rule = "time"',
    "random": "there are too few rows; change `shares`, or lower `min_history`",
    "files": "no row of its files counts; lower `min_history`, or look at the files",
}


def _check_parts(db: duckdb.DuckDBPyConnection, plan: SplitPlan, total: int) -> None:
    counts = part_counts(db)
    empty = [part for part, count in counts.items() if not count]
    if empty:
        told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        none = " and ".join(empty)
        least = f" (those with {plan.min_history} or more earlier events)" if plan.min_history else ""
        raise InputError(
            f'[split] rule = "{plan.rule}": {none} would have no rows. Of {total:,} rows{least}: {told}; '
            f"{_REMEDIES[plan.rule]}"
        )


def stamps(db: duckdb.DuckDBPyConnection, plan: SplitPlan, timeless: bool) -> list[str]:
    """What every report must say of figures that this split flatters."""
    found = []
    if plan.rule == "random":
        found.append(
            "random split: figures are optimistic, because training rows are from the same time as test rows, and "
            "histories hold events whose label is tested"
        )
    if plan.rule in ("leave-one-out", "per-user"):
        found.append(
            f"{plan.rule} split: figures are optimistic, because training rows of other users are later than many test "
            "rows: what becomes liked is already known"
        )
    if plan.rule == "files" and (share := _ahead(db)):
        found.append(
            f"split by files: figures are optimistic, because the histories of {share:.1%} of the training rows hold "
            "events of valid or test"
        )
    if timeless:
        found.append(
            'no times (time_unit = "none"): events count as older or newer by their place in the files, so figures are '
            "optimistic where that is not the order in which they happened"
        )
    if plan.ties == "include":
        found.append(
            'ties = "include": events of the same moment enter each other\'s history, so figures are optimistic where '
            "they were one act, such as a basket"
        )
    return found


def _ahead(db: duckdb.DuckDBPyConnection) -> float:
    """Share of training rows before which their user has an event that is tested or validated."""
    query = """
        WITH held AS (SELECT u, min(place) AS first FROM rows WHERE part IN ('valid', 'test') GROUP BY u)
        SELECT avg((position > coalesce(first, 2147483647))::INTEGER)
        FROM rows LEFT JOIN held USING (u) WHERE part = 'train'"""
    return float(one(db, query)[0] or 0.0)


def history_rule(plan: SplitPlan) -> str:
    """Which events a row's history holds, in words."""
    ties = (
        "events of the same moment are not among them"
        if plan.ties == "exclude"
        else "events of the same moment that stand earlier in the files are among them"
    )
    return (
        "all earlier events of the user, liked or not, those in no split included: the first `position` rows of that "
        f"user in interactions.parquet; {ties}"
    )
