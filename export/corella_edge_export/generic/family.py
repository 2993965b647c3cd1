"""Which family of CRM the recipe `generic` trains, and what each family is given: its sizes and its history."""

from __future__ import annotations

from corella_edge_export.crm.recipe import section_of
from corella_edge_export.generic.choice import Choice, Table, by_rows, power_of_two, share, step
from corella_edge_export.generic.facts import TOLD, Facts

# From these on a transformer over the events is worth its weights. They rest on three data sets of one domain, the
# smallest of 8,000 rows (docs/decisions.md has the figures).
SEQUENCE_ROWS = 5_000  # training rows
SEQUENCE_EVENTS = 20  # earlier events that nine in ten training rows have at most
MOSTLY_NEW = 0.5  # of validation rows that are of new users, from which an id of a user is learnt for nobody
TAUGHT_ROWS = 300_000  # training rows above which ratings and the next item are learnt beside the labels
CATALOGUE = 2_000  # liked items up to which each step tells the next one from all of them
DRAWN = 512  # items that it is told from where there are more
STEPS = 150  # of an epoch, about


def kind(facts: Facts) -> Choice:
    """The family that the facts speak for."""
    if facts.likes_alone:
        return Choice("sequence", "every training row is a like; what is learnt is which item comes next")
    seen = f"{facts.train:,} training rows, nine in ten with at most {facts.events:.0f} earlier events"
    if not facts.timed:
        return Choice("dcnv2", "without times the order of events is not known for sure")
    if facts.train >= SEQUENCE_ROWS and facts.events >= SEQUENCE_EVENTS:
        return Choice("sequence", f"{seen}: enough to read the events in their order")
    few = facts.train < SEQUENCE_ROWS
    why = f"too few rows (below {SEQUENCE_ROWS:,})" if few else f"too short histories (below {SEQUENCE_EVENTS})"
    return Choice("dcnv2", f"{seen}: {why} to read the events in their order")


def in_order(kind: str) -> bool:
    """Whether the family reads users whole, event after event."""
    return kind in ("sequence", "text-sequence")


def ranks(facts: Facts, kind: str) -> bool:
    """Whether the family learns which item comes next, as there are no labels or it knows items by words."""
    return kind == "text-sequence" or (kind == "sequence" and facts.likes_alone)


def crm(facts: Facts, kind: str) -> Table:
    """What of section [crm] hangs on the family, the family's own section among it."""
    rows, ranked = facts.train, ranks(facts, kind)
    strong = 5_000 if in_order(kind) else 30_000
    few = Choice(step(rows, (strong, 0.1), (300_000, 0.01), above=1e-4), "few rows are learnt by heart")
    found: Table = {
        "members": 1 if ranked else Choice(step(rows, (20_000, 3), above=1), f"{by_rows(rows)}: {_members(rows)}"),
        "oov_rate": _oov(facts, kind),
        "learning_rate": 5e-3 if ranked else 2e-3 if in_order(kind) else 1e-3,
        "weight_decay": 0.0 if ranked else few,
        "epochs": Choice(_epochs(rows, kind, ranked), "at most; the best of them is kept"),
        "evaluations": 1 if ranked else 2,
        "patience": 4,
        section_of(kind): SECTIONS[kind](facts),
    }
    return found if in_order(kind) else {"batch_size": _batch(rows, 16), **found}


def _members(rows: int) -> str:
    return "several models, since one varies much from start to start" if rows <= 20_000 else "one model is steady"


def _epochs(rows: int, kind: str, ranked: bool) -> int:
    if ranked:
        return int(step(rows, (30_000, 20), (300_000, 10), (3_000_000, 4), above=2))
    if in_order(kind):
        return int(step(rows, (5_000, 16), (30_000, 8), (3_000_000, 3), above=2))
    return int(step(rows, (5_000, 16), (30_000, 8), (300_000, 3), (3_000_000, 2), above=1))


def _batch(count: int, least: int) -> Choice:
    found = power_of_two(count / STEPS, least, 2048)
    return Choice(found, f"about {STEPS} steps an epoch" if found > least else f"{least} at least")


def _oov(facts: Facts, kind: str) -> Choice:
    """Ids are hidden about as often as they are unknown, within limits: both rows are to be trained."""
    items = f"validation rows: {share(facts.new_items)} of new items"
    if ranks(facts, kind):
        return Choice(round(min(0.5, facts.new_items), 2), items)
    if not user_ids(facts, kind):
        return Choice(round(min(0.5, max(0.1, facts.new_items)), 2), items)
    both = (facts.new_users + facts.new_items) / 2
    told = f"validation rows: {share(facts.new_users)} of new users, {share(facts.new_items)} of new items"
    return Choice(round(min(0.5, max(0.1, both)), 2), told)


def user_ids(facts: Facts, kind: str) -> bool:
    """Whether who a user is says something of him; to the one who reads events in order it does only where known."""
    return not (ranks(facts, kind) or (in_order(kind) and facts.new_users >= MOSTLY_NEW))


def history(facts: Facts, kind: str) -> Table:
    """How many events the family reads, and what of the users it knows."""
    ordered, ranked = in_order(kind), ranks(facts, kind)
    most = 100 if ordered and not ranked else 50
    events = int(min(most, max(5, round(facts.events))))
    found: Table = {
        "history": Choice(events, f"nine in ten training rows have at most {facts.events:.0f} earlier events"),
        "window": 1 if ranked else Choice(2 * events, "twice the history"),
    }
    if not ordered:
        return found
    ids = user_ids(facts, kind)
    why = "the events say who a user is" if ranked else f"{share(facts.new_users)} of the validation rows: new users"
    block = Choice(max(1, 2 * events // 5), "a history moves on in such steps; between them what was read stays of use")
    return {"user_ids": Choice(ids, why), **found, "history_block": block}


def _dcnv2(facts: Facts) -> Table:
    return {**_common(facts), "cross_layers": 2, "pooling": "attention"}


def _din(facts: Facts) -> Table:
    return {**_common(facts), "in_order": True}


def _common(facts: Facts) -> Table:
    """What DCNv2 and DIN share."""
    rows = facts.train
    return {
        "embedding_dim": Choice(step(rows, (5_000, 8), (300_000, 16), above=32), by_rows(rows)),
        "embedding_std": Choice(step(rows, (30_000, 0.01), above=0.05), "ids of few rows are to say little"),
        **_deep(rows),
    }


def _deep(rows: int) -> Table:
    return {
        "hidden": Choice(step(rows, (5_000, [32, 16]), (300_000, [64, 32]), above=[200, 80]), by_rows(rows)),
        "dropout": Choice(step(rows, (300_000, 0.2), above=0.1), by_rows(rows)),
    }


def _sequence(facts: Facts) -> Table:
    rows = facts.train
    width = Choice(step(rows, (30_000, 16), (150_000, 32), above=64), by_rows(rows))
    found = {"embedding_dim": width, "blocks": 2, "heads": 2, "inner": Choice(2 * width.value, "twice the width")}
    if facts.likes_alone:
        return {**found, "dropout": 0.3, "head": "dot", "loss": "softmax", **_next(facts)}
    return {**found, **_deep(rows), "batch_events": _batch(2 * rows, 512), **_beside(facts)}


def _beside(facts: Facts) -> Table:
    """What the events learn beside labels: exact ratings, and which item comes next, where it is an event."""
    rows = facts.train
    if rows <= TAUGHT_ROWS:
        return {}
    found: Table = {}
    if facts.told_by == "ratings" and 2 < facts.steps <= TOLD:
        found["rating_weight"] = Choice(1.0, f"{facts.steps} different ratings say more than the labels")
    if facts.rows_in_log:
        found |= {"next_weight": Choice(0.1, f"{by_rows(rows)}: enough to learn what comes next, too"), **_told(facts)}
    return found


def _text_sequence(facts: Facts) -> Table:
    return _next(facts)


def _next(facts: Facts) -> Table:
    """What the next item is told from."""
    return {**_told(facts), "batch_events": _batch(2 * facts.train, 512)}


def _told(facts: Facts) -> Table:
    every = facts.items <= CATALOGUE
    why = f"{facts.items:,} items: told from {'all of them' if every else 'some that are drawn'}"
    return {"negatives": Choice(0 if every else DRAWN, why)}


SECTIONS = {"dcnv2": _dcnv2, "din": _din, "sequence": _sequence, "text-sequence": _text_sequence}
