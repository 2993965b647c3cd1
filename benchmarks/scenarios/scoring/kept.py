"""A result file that grows by parts, all of one machine; each part and kept row tells of which commit it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_runtime.bench.measure.machine import machine, versions
from harness.report import targets
from harness.results import stamp
from scenarios.scoring.blocks import cold_best

Row = dict[str, Any]
PLACE = itemgetter("model", "shape")
ONCE, LISTS = ("product", "start", "memory"), ("blocks", "ceilings", "parity", "memory_of_files")


def stamped(result: Row) -> Row:
    """The figures, each part with time and commit."""
    made = stamp()
    once = {name: {**result[name], **made} for name in ONCE if name in result}
    return {**result, **once, **{name: [{**row, **made} for row in result[name]] for name in LISTS}}


def check(path: Path, threads: int) -> None:
    """Whether figures of this machine and so many threads may join those at `path`, if there are any.

    Raises:
        InputError: they are of another machine, of other threads or of another llama.cpp, or no such figures.
    """
    if not path.exists():
        return
    try:
        old = json.loads(path.read_text("utf-8"))
        there = _about(old["machine"], old["versions"], old["threads"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--out {path}: holds no figures of this benchmark; name another file") from error
    here = _about(machine(), versions(), threads)
    other = [f"{name} {there.get(name)}, not {here[name]}" for name in here if there.get(name) != here[name]]
    if other:
        raise InputError(f"--out {path}: its figures are of {'; '.join(other)}: name another file")


def _about(found: Row, tools: Row, threads: int) -> Row:
    return {**found, "threads": threads, "llama_cpp": tools.get("llama_cpp")}


def merged(path: Path, result: Row, say: Callable[[str], None]) -> Row:
    """The new figures, and what of the file at `path` this run did not measure: parts, and rows of a block.

    Raises:
        InputError: see `check`.
    """
    if not path.exists():
        return result
    check(path, result["threads"])
    old = json.loads(path.read_text("utf-8"))
    found = {**{name: old[name] for name in ONCE if name in old}, **result}
    found["blocks"] = _joined(old["blocks"], _completed(old["blocks"], result["blocks"], say), PLACE)
    found["parity"] = _joined(old["parity"], result["parity"], itemgetter("model"))
    benches = {one["model"]: one["llama_bench"] for one in old["ceilings"]}
    new = [{**one, "llama_bench": benches.get(one["model"], {}) | one["llama_bench"]} for one in result["ceilings"]]
    found["ceilings"] = _joined(old["ceilings"], new, itemgetter("model"))
    files = old.get("memory_of_files", []), result["memory_of_files"]
    found["memory_of_files"] = _joined(*files, itemgetter("model", "type"))
    return {**found, "targets": targets(found)}


def _joined(old: Sequence[Row], new: list[Row], key: Callable[[Row], Any]) -> list[Row]:
    fresh = {key(row) for row in new}
    return [row for row in old if key(row) not in fresh] + new


def _completed(old: Sequence[Row], new: Sequence[Row], say: Callable[[str], None]) -> list[Row]:
    """The new blocks, with the rows of those sides in the old ones that were not measured again."""
    before = {PLACE(block): block for block in old}
    found = []
    for block in new:
        kept = kept_rows(before.get(PLACE(block), {"rows": []}), block)
        if kept:
            names = ", ".join(sorted({side(row) for row in kept}))
            say(f"{block['model']} {block['shape']}: not measured now, kept as they were: {names}")
        rows = [*block["rows"], *kept]
        found.append({**block, "rows": rows, **({"cold": cold_best(rows)} if "cold" in block else {})})
    return found


def kept_rows(old: Row, new: Row) -> list[Row]:
    """Rows of the old block whose side is not in the new one. `kept` in them: time, commit and plan of their run."""
    fresh = {side(row) for row in new["rows"]}
    source = {name: old[name] for name in ("made", "commit", "plan") if name in old}
    return [{"kept": source, **row} for row in old["rows"] if side(row) not in fresh]


def side(row: Row) -> str:
    """What is measured by itself in a block: a peer, of bulk prompts a type; of returning users all at once."""
    return str(row["ours_type"] if row["shape"] == "b" else row.get("peer", ""))
