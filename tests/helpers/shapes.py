"""Small data of five shapes, none of them of films: what a recipe for any data must cope with."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from corella_edge_export.data.contract import INTERACTIONS, SPLIT_ROWS, PublishedSplits, RawData
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from made_once import copy_of

USERS, ITEMS, EVENTS = 24, 20, 14  # about 300 events
START = 1_700_000_000
KINDS = ("tea", "coffee", "mug")


def ratings() -> RawData:
    """1 to 10, liked above 6; users and items with attributes of several kinds."""
    items = [
        {"item_id": f"p{i}", "title": f"{KINDS[i % 3].title()} no. {i}", "kind": KINDS[i % 3],
         "uses": ["gift", "home"][: 1 + i % 2], "price": 1.5 * i, "code": f"x-{i}-{i * i}"}
        for i in range(ITEMS)
    ]  # fmt: skip
    users = [{"user_id": f"c{u}", "town": ("Bern", "Basel")[u % 2], "age": 20.0 + u % 5} for u in range(USERS)]
    kinds = {"kind": "categorical", "uses": "multi", "price": "numeric", "code": "categorical"}
    rows = [(user, item, float(1 + (3 * (user % 3 == item % 3) + item + noise) % 10), None, time)
            for user, item, noise, time in _events()]  # fmt: skip
    return _raw("ratings", rows, users, items, {"town": "categorical", "age": "numeric"}, kinds, like_above=6.0)


def clicks() -> RawData:
    """Shown and clicked, or not; no ratings."""
    items = [{"item_id": f"p{i}", "title": f"Story {i} of {KINDS[i % 3]}", "section": KINDS[i % 3]}
             for i in range(ITEMS)]  # fmt: skip
    rows = [(user, item, None, int(user % 3 == item % 3 or noise == 0), time) for user, item, noise, time in _events()]
    return _raw("clicks", rows, _users(), items, {}, {"section": "categorical"}, like_above=0.5)


def bare(timed: bool = True) -> RawData:
    """Ratings of items that have nothing but an id."""
    rows = [(user, item, float(1 + (2 * (user % 3 == item % 3) + noise) % 5), None, time)
            for user, item, noise, time in _events(timed)]  # fmt: skip
    items = [{"item_id": f"p{i}", "title": f"p{i}"} for i in range(ITEMS)]
    return _raw("bare" if timed else "untimed", rows, _users(), items, {}, {}, like_above=2.0)


def untimed() -> RawData:
    """Times are places in an order."""
    return bare(timed=False)


def purchases() -> RawData:
    """Purchases alone, and two drawn rows beside each that are in no history."""
    draw, made, bought = random.Random(1), [], {}
    events = [e for e in _events() if e[0] % 3 == e[1] % 3]
    for user, item, _, time in events:
        bought.setdefault(user, []).append((item, time))
    for user, log in bought.items():
        for place, (item, time) in enumerate(log[1:], 1):
            others = [i for i in range(ITEMS) if i not in {i for i, _ in log}]
            for label, thing in ((1, item), *((0, draw.choice(others)) for _ in range(2))):
                made.append((f"c{user}", f"p{thing}", label, None, time, place))
    table = pl.DataFrame(made, schema=SPLIT_ROWS, orient="row").sort("timestamp", maintain_order=True)
    first, second = int(0.7 * len(table)), int(0.85 * len(table))
    parts = {"train": table[:first], "valid": table[first:second], "test": table[second:]}
    published = PublishedSplits(parts, "cut by time, with two drawn rows a purchase", "liked", "earlier purchases")
    rows = [(user, item, None, 1, time) for user, log in bought.items() for item, time in log]
    items = [{"item_id": f"p{i}", "title": f"{KINDS[i % 3].title()} no. {i}", "about": "A long text about it. " * 5}
             for i in range(ITEMS)]  # fmt: skip
    return _raw("purchases", rows, _users(), items, {}, {"about": "categorical"}, 0.5, published)


SHAPES = {"ratings": ratings, "clicks": clicks, "purchases": purchases, "bare": bare, "untimed": untimed}


def prepared(name: str, folder: Path) -> PreparedData:
    """The data of a shape, prepared."""
    return PreparedData.open(copy_of(name, folder, lambda kept: write_prepared(SHAPES[name](), kept, requests=5)))


def _events(timed: bool = True) -> list[tuple[int, int, int, int]]:
    """(user, item, noise 0 to 2, time), each user's oldest first, users interleaved."""
    draw = random.Random(0)
    pairs = [(user, item) for user in range(USERS) for item in draw.sample(range(ITEMS), EVENTS)]
    draw.shuffle(pairs)
    first, step = (START, 4000) if timed else (0, 1)
    return [(user, item, draw.randint(0, 2), first + step * k) for k, (user, item) in enumerate(pairs)]


def _users() -> list[dict[str, Any]]:
    return [{"user_id": f"c{user}"} for user in range(USERS)]


def _raw(
    name: str, rows: Iterable[tuple[Any, ...]], users: list[dict[str, Any]], items: list[dict[str, Any]],
    of_users: dict[str, str], of_items: dict[str, str], like_above: float, published: PublishedSplits | None = None,
) -> RawData:  # fmt: skip
    """`rows` are (user, item, rating, label, time) by number; labels are a column where there are no ratings."""
    named = [(f"c{user}", f"p{item}", rating, time, label) for user, item, rating, label, time in rows]
    events = pl.DataFrame(named, schema={**INTERACTIONS, "label": pl.Int8}, orient="row")
    if events["rating"].null_count() == 0:
        events = events.drop("label")
    return RawData(name, events, pl.DataFrame(users), pl.DataFrame(items), of_users, of_items, like_above, "our own",
                   True, published=published)  # fmt: skip
