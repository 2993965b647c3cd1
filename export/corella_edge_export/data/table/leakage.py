"""Attributes that know the label: by their names before anything is read, by what they tell of training rows after."""

from __future__ import annotations

import re
from collections.abc import Iterator

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import name as sql_name
from corella_edge_export.data.database import one
from corella_edge_export.data.table.description import AttributeKind, Description, Entities

MOST_AUC = 0.98
DOUBTFUL_AUC = 0.9  # above, an attribute is let through with a note
DOUBTFUL_CORRELATION = 0.9  # of a number with the share of likes of its item or user
LEAST_ROWS = 20  # of each label, and of items or users with a value: fewer part by chance
_SMOOTHING = 1.0  # rows of the general share that are added to each value's

# Letters and digits of a column's name, in lower case → why it is no attribute.
_SNAPSHOT = "a snapshot of what people did, the tested rows included"
_TWIN = "it is what the label is made of, or its twin"
_ACTS = "rating|review|vote|like|click|sale|purchase|view"
_NAMES = {
    r"(average|avg|mean|overall|user|second|other|review|product|item|imdb)?(ratings?|stars?|scores?)": _TWIN,
    r"overall|label|liked?|clicked|purchased|bought": _TWIN,
    rf"({_ACTS})s?(number|count|num|total)?s?": _SNAPSHOT,
    rf"(num(ber)?(of)?|count(of)?|total|n)({_ACTS})s?": _SNAPSHOT,
    r"helpful(ness)?(votes?)?|(sales?)?rank|popularity|bestseller": _SNAPSHOT,
    r"also(buy|bought|view|viewed)|boughttogether|buyafterviewing|related|similaritems?": _SNAPSHOT,
}
_REVIEW = r"(review|comment|feedback)(text|title|body|summary|s)?|summary|opinions?"


def check_names(description: Description) -> None:
    """Refuse attributes that cannot be known when a row is to be scored, unless `allow_leaks` names them.

    Raises:
        InputError: names the column, the reason and the way out.
    """
    for table, entities in _tables(description):
        for attribute, kind in entities.attributes.items():
            reason = reason_against(attribute, kind, entities)
            if reason and attribute not in entities.allow_leaks:
                raise InputError(
                    f"[{table}] attributes: {attribute!r} is refused: {reason}. Leave it out, or write "
                    f"allow_leaks = [{attribute!r}] under [{table}] if it was known before the events"
                )
        title = entities.title
        if title and entities.files is None and title not in entities.allow_leaks and _matches(_REVIEW, title):
            raise InputError(
                f"[{table}] title: {title!r} stands in the events' file and is a review's text by its name: it tells "
                f"the label. Name the items' own title, or write allow_leaks = [{title!r}] under [{table}]"
            )


def reason_against(attribute: str, kind: AttributeKind, entities: Entities) -> str | None:
    """Why an attribute may know the label, by its name and its columns', in words; None where nothing speaks for it."""
    if entities.files is None and kind == "text":
        return "a text in the events' file is a review's, not an item's"
    names = (attribute, *entities.columns.get(attribute, ()))
    return next((why for pattern, why in _NAMES.items() if any(_matches(pattern, name) for name in names)), None)


def _matches(pattern: str, column: str) -> bool:
    return re.fullmatch(pattern, re.sub(r"[^a-z0-9]", "", column.lower())) is not None


def allowed_notes(description: Description) -> list[str]:
    """A sentence for reports where `allow_leaks` lets attributes through."""
    return [
        f"allow_leaks: {', '.join(entities.allow_leaks)} of [{table}] may know the label; figures are optimistic if so"
        for table, entities in _tables(description)
        if entities.allow_leaks
    ]


def _tables(description: Description) -> Iterator[tuple[str, Entities]]:
    yield "items", description.items
    if description.users is not None:
        yield "users", description.users


def check_aucs(db: duckdb.DuckDBPyConnection, description: Description) -> dict[str, dict[str, float]]:
    """The AUC of each single attribute on the training rows of `labelled(u, i, label, part)`.

    A numeric attribute is ranked by its value, in the better direction. A value of a categorical or multi-value one
    is ranked by the share of likes that the other half of the users (for an item's attribute; of the items for a
    user's) gives it, so that no row is judged by its own label. Rows without a value do not count. Attributes with
    fewer than 20 rows of each label, or 20 items or users, are left out: they part by chance.

    Returns:
        "items" and "users" → attribute → AUC.

    Raises:
        InputError: an AUC above 0.98, unless `allow_leaks` names the attribute.
    """
    found: dict[str, dict[str, float]] = {}
    for table, entities in _tables(description):
        found[table] = {}
        for attribute, kind in entities.attributes.items():
            if kind in ("text", "sequence"):
                continue
            auc = _auc(db, table, attribute, kind)
            if auc is None:
                continue
            found[table][attribute] = round(auc, 4)
            if auc > MOST_AUC and attribute not in entities.allow_leaks:
                raise InputError(
                    f"[{table}] attributes: {attribute!r} alone tells the label of the training rows: its AUC is "
                    f"{auc:.4f}, above {MOST_AUC}. It was probably written down after the label; leave it out, or "
                    f"write allow_leaks = [{attribute!r}] under [{table}]"
                )
    return found


def doubts(db: duckdb.DuckDBPyConnection, description: Description, aucs: dict[str, dict[str, float]]) -> list[str]:
    """A sentence for each attribute that tells much of the training labels, and is neither refused nor allowed.

    A number that goes with the share of likes of its item (or user) may have been computed from the labels, those of
    tested rows included. Its AUC alone does not show it: items of which half the people like are hard to rank by any.
    """
    notes = []
    for table, entities in _tables(description):
        for attribute, auc in aucs[table].items():
            if attribute in entities.allow_leaks:
                continue  # `allowed_notes` tells of it
            kind = entities.attributes[attribute]
            share = _correlation(db, table, attribute) if kind == "numeric" else 0.0
            if auc > DOUBTFUL_AUC or share > DOUBTFUL_CORRELATION:
                goes = f", its correlation with the share of likes of each of the {table} {share:.2f}" if share else ""
                notes.append(
                    f"{attribute} of [{table}] tells much of the label: its AUC alone is {auc:.2f}{goes}; was it known "
                    "before the events? If not, figures are optimistic: leave it out"
                )
    return notes


def _correlation(db: duckdb.DuckDBPyConnection, table: str, attribute: str) -> float:
    """Between a number and the share of likes, over items (or users), weighted by their training rows; its size."""
    _tell(db, table, attribute, "numeric")
    found = one(
        db,
        """WITH each AS (
            SELECT any_value(value) AS x, sum(likes) / sum(likes + dislikes) AS y, sum(likes + dislikes) AS w
            FROM told GROUP BY id),
        means AS (SELECT sum(w * x) / sum(w) AS mx, sum(w * y) / sum(w) AS my FROM each)
        SELECT sum(w * (x - mx) * (y - my)) / nullif(sqrt(sum(w * (x - mx) ** 2) * sum(w * (y - my) ** 2)), 0)
        FROM each, means""",
    )[0]
    return abs(float(found or 0.0))


def _auc(db: duckdb.DuckDBPyConnection, table: str, attribute: str, kind: AttributeKind) -> float | None:
    """None where there are too few rows."""
    _tell(db, table, attribute, kind)
    least = one(db, "SELECT least(sum(likes), sum(dislikes), count(DISTINCT id)) FROM told")[0]
    if (least or 0) < LEAST_ROWS:
        return None
    auc = float(one(db, _NUMERIC if kind == "numeric" else _BY_VALUE)[0])
    return max(auc, 1 - auc) if kind == "numeric" else auc


def _tell(db: duckdb.DuckDBPyConnection, table: str, attribute: str, kind: AttributeKind) -> None:
    """The table `told(id, half, value, likes, dislikes)` of training rows, by item or user and half of the others."""
    key, other = ("i", "u") if table == "items" else ("u", "i")
    value = f"unnest({sql_name(attribute)})" if kind == "multi" else sql_name(attribute)
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE told AS
        WITH counts AS (
            SELECT {key}, hash({other}) % 2 AS half, (count(*) FILTER (label = 1))::DOUBLE AS likes,
                (count(*) FILTER (label = 0))::DOUBLE AS dislikes
            FROM labelled WHERE part = 'train' GROUP BY ALL),
        known AS (SELECT {key}, {value} AS value FROM {table} JOIN {table[:-1]}_codes USING ({table[:-1]}_id))
        SELECT {key} AS id, half, value, likes, dislikes FROM counts JOIN known USING ({key}) WHERE value IS NOT NULL"""
    )


# The share of (like, dislike) pairs in the right order, ties counted half: steps of equal score, from the lowest on.
_AUC_OF = """
    steps AS (SELECT score, sum(likes) AS p, sum(dislikes) AS n FROM scored GROUP BY score),
    ranked AS (SELECT p, n, sum(n) OVER (ORDER BY score) - n AS below FROM steps)
    SELECT sum(p * (below + n / 2)) / (sum(p) * sum(n)) FROM ranked"""
_NUMERIC = f"WITH scored AS (SELECT value AS score, likes, dislikes FROM told), {_AUC_OF}"
_BY_VALUE = f"""
    WITH halves AS (SELECT half, sum(likes) / sum(likes + dislikes) AS share FROM told GROUP BY half),
    by_value AS (SELECT value, half, sum(likes) AS likes, sum(dislikes) AS dislikes FROM told GROUP BY value, half),
    scored AS (
        SELECT mine.likes, mine.dislikes, (coalesce(other.likes, 0) + {_SMOOTHING} * coalesce(share, 0.5))
            / (coalesce(other.likes + other.dislikes, 0) + {_SMOOTHING}) AS score
        FROM by_value mine LEFT JOIN by_value other ON mine.value = other.value AND mine.half != other.half
        LEFT JOIN halves ON mine.half != halves.half),
    {_AUC_OF}"""
