"""Microseconds that a routed prompt costs outside of llama.cpp, this checkout against another by turns.

    python benchmarks/prompt_time.py BUNDLE --against ../before --out benchmarks/results/prompt-time.json

Every candidate is routed (`ratio:1`); requests of 100, 8 and 1 candidates, of users new to the LLM and returning, with
llama.cpp in the process and in a child. Python = the whole request less the CRM's part, `llama_decode` and llama.cpp's
work on its cells; of a child only the whole is known.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import CorellaError, InputError
from harness.checkout import HERE, environment
from harness.judged import at_most
from harness.pairs import ENOUGH, OURS, Ratio, ratio_of
from harness.process import line_of
from harness.quiet import Watch, is_void
from harness.report import targets_table
from harness.results import write

COUNTS = (100, 8, 1)
BACKENDS = ("thread", "process")
USERS = ("new", "returning")
PARTS = ("whole", "crm", "decode", "cells", "python")
TARGET = 15.0  # microseconds of Python a prompt, 100 candidates in the process
Turn = dict[str, dict[str, float]]


def main() -> int:
    options = parse()
    try:
        check(options)
        rows = [row for backend in BACKENDS for row in measured(options, backend)]
    except CorellaError as error:
        print(f"prompt_time: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows))
    figures = {"what": "microseconds a routed prompt", "rows": rows, "note": options.note}
    figures["targets"] = list(targets(rows))
    print(targets_table(figures["targets"]))
    if options.out:
        write(options.out, figures)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--against", type=Path, required=True, help="another checkout of this repository")
    parser.add_argument("--pairs", type=int, default=30, help="users of each number of candidates")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Raises InputError for too few pairs, or a folder that is no checkout."""
    if options.pairs < ENOUGH:
        raise InputError(f"--pairs {options.pairs}: at least {ENOUGH} are needed")
    if not (options.against / "runtime" / "corella_edge_runtime").is_dir():
        raise InputError(f"--against {options.against}: no checkout of this repository")


def measured(options: argparse.Namespace, backend: str) -> Iterator[dict[str, Any]]:
    """A row for each number of candidates and kind of user."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(engine(root, options.bundle, backend))
                 for name, root in ((OURS, HERE), ("before", options.against))}  # fmt: skip
        for count in COUNTS:
            watch = Watch([side.pid for side in sides.values()])
            turns = by_turns(sides, count, options.pairs)
            load = watch.read()
            for user in USERS:
                row = {"backend": backend, "candidates": count, "user": user, **figures(turns, user)}
                yield {**row, "load": load, "void": is_void(load)}


@contextmanager
def engine(root: Path, bundle: Path, backend: str) -> Iterator[subprocess.Popen[str]]:
    """A checkout's engine in a process of its own; it ends when its standard input is closed."""
    command = [sys.executable, "-P", "-m", "harness.turns", str(bundle.resolve()), backend]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, **environment(root)},
    ) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()


def by_turns(sides: Mapping[str, subprocess.Popen[str]], count: int, pairs: int) -> dict[str, list[Turn]]:
    """The same user on both sides, who is first by turns; the first two users warm up."""
    found: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(pairs + 2):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            stream = sides[name].stdin
            assert stream is not None
            stream.write(f"{count} {number}\n")
            stream.flush()
            found[name].append(json.loads(line_of(sides[name])))
    return {name: turns[2:] for name, turns in found.items()}


def figures(turns: Mapping[str, Sequence[Turn]], user: str) -> dict[str, Any]:
    """Microseconds a prompt, median, of both sides; ours over the other's, pair by pair."""
    found = {name: [one[user] for one in side] for name, side in turns.items()}
    shown = {
        name: {part: round(float(np.median([1e6 * one[part] / one["routed"] for one in side])), 2) for part in PARTS}
        for name, side in found.items()
    }
    python = ratio_of([1e6 * one["python"] / one["routed"] for one in found[OURS]])
    ratios = {part: ratio(found, part).to_json() for part in ("whole", "python")}
    return {**shown, "python_us": python.to_json(), "to_before": ratios, "prompts": found[OURS][0]["routed"]}


def ratio(found: Mapping[str, Sequence[Mapping[str, float]]], part: str) -> Ratio:
    pairs = zip(found[OURS], found["before"], strict=True)
    return ratio_of([ours[part] / before[part] for ours, before in pairs])


def targets(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Python a prompt of 100 candidates in the process; small requests no slower than before."""
    for row in rows:
        name = f"{row['candidates']} candidates, {row['user']} user, LLM in a {row['backend']}"
        if row["candidates"] == 100 and row["backend"] == "thread":
            yield at_most(f"{name}: Python, µs a routed prompt", row["python_us"], TARGET, row["void"])
        elif row["candidates"] < 100:
            yield at_most(f"{name}: whole request, to before", row["to_before"]["whole"], 1.0, row["void"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    head = "| backend | candidates | user | side | whole | CRM | decode | cells | Python | to before |\n"
    lines = [head + "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        for side in (OURS, "before"):
            cells = " | ".join(f"{row[side][part]:.1f}" for part in PARTS)
            to = f"{row['to_before']['whole']['median']:.2f}" if side == OURS else ""
            lines.append(f"| {row['backend']} | {row['candidates']} | {row['user']} | {side} | {cells} | {to} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
