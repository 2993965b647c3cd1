"""What it costs to choose the items of a request over a large catalogue, beside ranking them.

    python benchmarks/slates.py [--items 100000] [--out …/results/slates.json]

A catalogue of generated items (20 categories, 1,000 brands, a price) is chosen from as a request does: a filter by
three attributes, a user's 300 seen items, 10,000 items out of stock. Times are medians of single calls; `first` is
the first filter by an attribute, which makes its arrays.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.request import Request
from corella_edge.request_message import parse_request
from corella_edge.scores import Scores, answer_json
from corella_edge.selection import Stock
from corella_edge_runtime.slate.choose import Slates

CALLS = 50
FILTER = {"category": ["c1", "c2", "c3"], "brand": {"not": [f"b{n}" for n in range(50)]}, "price": {"max": 50}}


def catalogue(items: int) -> Catalog:
    rng = np.random.default_rng(1)
    rows = zip(rng.integers(0, 20, items), rng.integers(0, 1000, items), rng.gamma(2.0, 20.0, items), strict=True)
    records = [{"title": f"Item {n}", "category": f"c{c}", "brand": f"b{b}", "price": round(float(p), 2)}
               for n, (c, b, p) in enumerate(rows)]  # fmt: skip
    return Catalog([f"i{n}" for n in range(items)], records)


def milliseconds(call: Callable[[], object], times: int = CALLS) -> float:
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        spent.append(1000.0 * (time.perf_counter() - started))
    return round(median(spent), 3)


def measured(items: int) -> dict[str, Any]:
    catalog = catalogue(items)
    slates = Slates(cast(Bundle, SimpleNamespace(has=lambda name: False)), catalog)
    seen = [{"item": f"i{n}"} for n in range(0, items, max(1, items // 300))]
    user = {"id": "u", "history": seen}
    plain = parse_request({"user": {}})
    filtered = parse_request({"user": {}, "filter": FILTER})
    stocked = Request(parse_request({"user": user}).user, stock=Stock(False, frozenset(catalog.ids[: items // 10])))
    everything = Request(stocked.user, selection=filtered.selection, stock=stocked.stock)
    found = {"items": items, "first": milliseconds(lambda: slates.of(filtered), 1)}
    for name, request in (("all", plain), ("filter", filtered), ("seen+stock", stocked), ("together", everything)):
        found[name] = milliseconds(partial(slates.of, request))
    found["left"] = len(slates.of(everything).candidates)
    top = parse_request({"user": {}, "top_k": 10})
    p = np.random.default_rng(2).random(items)
    scores = Scores(tuple(catalog.ids), p, np.full(items, np.nan), np.zeros(items, bool), ("",) * items, ((),) * items)
    found["answer, top_k 10"] = milliseconds(lambda: answer_json(top, scores, "b@1"), 9)
    found["answer, all"] = milliseconds(lambda: answer_json(plain, scores, "b@1"), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measured(given.items)
    for name, value in found.items():
        print(f"{name:<18} {value:>12,}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
