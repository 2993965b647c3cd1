"""A million items and users: how long a server takes to open them, what each process holds, what a request costs.

    python benchmarks/vocabulary_scale.py [--items 1000000] [--processes 4] [--out …/results/vocabulary-scale.json]

Schema, vocabularies and catalogue (titles, brands, hashed words of a description, prices) are written in both forms:
JSON, which each process parses, and mapped tables, which processes share. Each form is opened in fresh processes, by
turns; then one process of either form encodes the same 1,000 candidates by turns, items it has not been asked for
("new") and the same again ("warm"). Encoding is CPU time, so that the figures hold on a machine that is not quiet, too;
what else ran is told, and a run beside other load is marked void.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from corella_edge.bundle import schema_files
from corella_edge.catalog import LINES, Catalog
from corella_edge.features.schema import Field, Schema, Vocabulary
from corella_edge.formats.text_table import LARGE
from harness.checkout import HERE, ModuleProcess, asked
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void
from harness.report import bounded, judged, targets_table
from harness.results import write

CHILD = "harness.scale_child"
FORMS = ("json", "mapped")
LIMIT_US = 1000.0  # for 1,000 candidates
WORDS = ("cotton", "steel", "blue", "large", "classic", "garden", "kitchen", "summer", "leather", "small")
Row = dict[str, Any]


def child(folder: Path) -> AbstractContextManager[ModuleProcess]:
    """A process that has a folder to open."""
    return asked(HERE, CHILD, folder)


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        folders = {form: Path(work) / form for form in FORMS}
        written = write_both(folders, options.items)
        watch = Watch()
        figures: Row = {"what": "vocabulary-scale", "items": options.items, "users": options.items, "files": written}
        figures["open"] = [opening(folders, number) for number in range(options.opens)]
        figures["shared"] = {form: shared(folders[form], options.processes) for form in FORMS}
        figures["encode"] = encoding(folders, options.pairs)
        figures["load"] = load = watch.read()
    figures["void"] = is_void(load)
    figures["targets"] = targets(figures)
    print(table(figures))
    print(targets_table(figures["targets"]))
    if options.out:
        write(options.out, figures)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="items, and as many users")
    parser.add_argument("--processes", type=int, default=4, help="server processes that share one map")
    parser.add_argument("--opens", type=int, default=3, help="fresh processes of either form")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--work", type=Path, help="folder for the files, 2 GB of a million items")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def world(n: int) -> tuple[Schema, Catalog]:
    """Fields of every kind over n items and n users; the last hundredth of the items is new."""
    rng = np.random.default_rng(1)
    ids = [f"B{(i * 7919) % 10**9:09d}" for i in range(n)]
    brands, words = rng.integers(0, 5000, n).tolist(), rng.integers(0, len(WORDS), (n, 4)).tolist()
    prices = rng.uniform(1, 500, n).round(2).tolist()
    records = [
        {"title": f"{' '.join(WORDS[k] for k in w)} {i}", "brand": f"brand {b}", "price": p if i % 9 else None}
        for i, (b, w, p) in enumerate(zip(brands, words, prices, strict=True))
    ]
    vocabularies = [
        Vocabulary("user_id", [f"U{i:09d}" for i in range(n)]), Vocabulary("item_id", ids[: n - n // 100]),
        Vocabulary("item_brand", sorted({f"brand {b}" for b in brands})), Vocabulary("item_title", [], 4096),
        Vocabulary("rating", ["1", "2", "3", "4", "5"]),
    ]  # fmt: skip
    number = {"mean": 250.0, "scale": 144.0, "missing": True}
    fields = (
        Field("user_id", "categorical", "user", "id", "user_id"),
        Field("item_id", "categorical", "item", "id", "item_id"),
        Field("item_brand", "categorical", "item", "brand", "item_brand"),
        Field("item_title", "text", "item", "title", "item_title", 8),
        Field("item_price", "numeric", "item", "price", args=number),
        Field("history_items", "sequence", "user", "item", "item_id", 30),
        Field("history_ratings", "sequence", "user", "rating", "rating", 30),
    )
    return Schema(fields, {v.name: v for v in vocabularies}), Catalog(ids, records)


def write_both(folders: dict[str, Path], n: int) -> Row:
    """Both forms of one world; MiB of each."""
    schema, catalog = world(n)
    sizes = {}
    for form, folder in folders.items():
        folder.mkdir()
        large = n + 1 if form == "json" else min(n - n // 100, LARGE)
        with patch.object(schema_files, "LARGE", large):
            schema_files.write_schema(folder, schema, catalog)
            schema_files.write_catalog_tables(folder, schema, catalog)
        parts = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.*")}
        sizes[form] = {name: round(size / 2**20, 1) for name, size in sorted(parts.items()) if name != LINES}
    return sizes


def opening(folders: dict[str, Path], number: int) -> Row:
    """Seconds and memory of a fresh process of either form, every second time the other first."""
    found: Row = {}
    for form in FORMS if number % 2 else FORMS[::-1]:
        with child(folders[form]) as one:
            before = one.ask("memory")["private_dirty"]
            found[form] = one.ask("open")
            found[form] |= {"private_mib": round(one.ask("memory")["private_dirty"] - before, 1)}
    return found


def shared(folder: Path, processes: int) -> list[Row]:
    """What each of several processes holds once all have opened the folder and answered."""
    with ExitStack() as stack:
        children = [stack.enter_context(child(folder)) for _ in range(processes)]
        for number, one in enumerate(children):
            one.ask("open")
            one.ask(f"encode {number}")
        return [one.ask("memory") for one in children]


def encoding(folders: dict[str, Path], pairs: int) -> Row:
    """Microseconds of either form for the same candidates, by turns."""
    times: dict[str, dict[str, list[float]]] = {form: {"new": [], "warm": []} for form in FORMS}
    with ExitStack() as stack:
        children = {form: stack.enter_context(child(folders[form])) for form in FORMS}
        for one in children.values():
            one.ask("open")
        for number in range(pairs):
            for form in FORMS if number % 2 else FORMS[::-1]:
                for what, spent in children[form].ask(f"encode {number + 1000}").items():
                    times[form][what].append(spent)
    return {
        what: {
            **{f"{form}_us": round(median(times[form][what]), 1) for form in FORMS},
            "mapped_each": ratio_of([us / LIMIT_US for us in times["mapped"][what]]).to_json(),
            "ratio": ratio_of(
                [a / b for a, b in zip(times["mapped"][what], times["json"][what], strict=True)]
            ).to_json(),
        }
        for what in ("new", "warm")
    }


def targets(figures: Row) -> list[Row]:
    void = figures["void"]
    found = [
        judged(f"1,000 candidates of {figures['items']:,}, {what}: milliseconds", row["mapped_each"], "<=", 1.0, void)
        for what, row in figures["encode"].items()
    ]
    slowest = max(row["mapped"]["cpu_seconds"] for row in figures["open"])
    return [*found, bounded("CPU seconds to open the mapped form", slowest, 1.0, void)]


def table(figures: Row) -> str:
    lines = []
    for form in FORMS:
        rows = [row[form] for row in figures["open"]]
        seconds, cpu, private = (median(row[key] for row in rows) for key in ("seconds", "cpu_seconds", "private_mib"))
        lines.append(f"{form:7} opens in {seconds:6.2f} s ({cpu:.2f} s of CPU), {private:8.1f} MiB of its own")
        each = figures["shared"][form]
        own = [row["private_dirty"] for row in each]
        lines.append(f"        {len(each)} processes: {min(own):.0f} to {max(own):.0f} MiB of its own each, "
                     f"{sum(row['pss'] for row in each):.0f} MiB in all")  # fmt: skip
    for what, row in figures["encode"].items():
        lines.append(
            f"1,000 candidates, {what:4}: JSON {row['json_us']:.0f} µs, mapped {row['mapped_us']:.0f} µs of CPU"
        )
    return "\n".join([*lines, f"foreign load {figures['load']['foreign']:.0%}{', VOID' if figures['void'] else ''}"])


if __name__ == "__main__":
    main()
