"""A catalogue of a shop, and bundles that know popular and similar items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundles import ITEMS, make_bundle, reseal
from corella_edge.bundle.artefact import EVENTS, POPULAR

# Item i7 is the most popular one, i0 is like i1 and i2, and the last ten were never chosen.
COUNTS = {f"i{n}": 10 + (n * 7) % 40 for n in range(ITEMS - 10)} | {"i7": 1000}
SIMILAR: dict[str, list[Any]] = {"i0": [["i1", 0.9], ["i2", 0.5], ["gone", 0.4]], "i1": [["i0", 0.9], ["i7", 0.2]]}


def make_shop(out: Path, *, llm: bool = False, types: list[str] | None = None, **options: Any) -> Path:
    """`make_bundle` with popular.jsonl and, if `types` are given, events.json."""
    make_bundle(out, llm=llm, **options)
    lines = [{"item": item, "count": count, "similar": SIMILAR.get(item, [])} for item, count in COUNTS.items()]
    (out / POPULAR).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    if types is not None:
        (out / EVENTS).write_text(json.dumps({"history": types}), "utf-8")
    reseal(out)
    return out
