"""What a request costs around its models, in this checkout and in another one, by turns.

    python benchmarks/messages.py BUNDLE [BUNDLE ...] --against CHECKOUT [--http] [--out …/results/messages.json]

Each checkout has a process of its own (`harness/messages_child.py`) that reads the same bodies of new users; a pair is
one turn of either. Compared are parse + encode + serialise of a request whose LLM is not asked, and `Engine.rank`
against a bare run of the CRM's session on the same arrays. With --http, `corella-edge serve` of either checkout answers
the same open load by turns: CPU seconds of the server a request, and the highest rate that it keeps up with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import CorellaError
from corella_edge.request_json import request_body
from corella_edge_runtime.bench.load.mix import Stream, mix
from harness.checkout import HERE, ModuleProcess, asked, environment
from harness.judged import at_least, at_most
from harness.load.saturation import saturation
from harness.load.server import Server
from harness.load.setting import ServerUnderLoad
from harness.load.traffic import TrafficSource, prepared
from harness.pairs import ratio_of
from harness.quiet import Watch, cpu_seconds, is_void
from harness.report import finish

CHILD = "harness.messages_child"
SIZES = (20, 100)
PARTS = ("parse", "encode", "serialise")
Row = dict[str, Any]
TARGETS: Row = {"messages": 0.4, "rank": {100: 1.5, 20: 2.0}, "saturation": 2.0}


def turn(child: ModuleProcess, what: str, candidates: int, bodies: int) -> Row:
    """One turn of a checkout at work on bodies."""
    return child.ask(json.dumps({"what": what, "candidates": candidates, "bodies": bodies}))


def main() -> None:
    options = arguments()
    watch = Watch()
    found = [bundle(root, options) for root in options.bundles]
    load = watch.read()
    figures: Row = {"what": "messages", "pairs": options.pairs, "load": load, "void": is_void(load), "bundles": found}
    figures["targets"] = list(targets(figures))
    print(table(figures))
    finish(figures, options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT", help="folder of the other checkout")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--requests", type=int, default=40, help="requests a turn")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of time: for a machine that is not quiet")
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second of an HTTP turn")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an HTTP turn")
    parser.add_argument("--searches", type=int, default=0, help="searches of the highest rate, of either server")
    parser.add_argument("--core", type=int, help="what the load generator is bound to")
    parser.add_argument("--work", type=Path, default=Path("runs/messages"), help="folder for bodies and logs")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def bundle(root: Path, options: argparse.Namespace) -> Row:
    """Every measurement of one bundle."""
    source, folder = TrafficSource.open(root), options.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for n in SIZES:
        bodies = [request_body(request).decode() for request in source.strangers(400, n, 1, "ratio:0")]
        (folder / f"bodies-{n}.json").write_text(json.dumps(bodies))
    sides = {"new": HERE, "old": options.against.resolve()}
    clock = ["cpu"] if options.cpu else []
    with ExitStack() as stack:
        children = {side: stack.enter_context(asked(path, CHILD, root, folder, *clock)) for side, path in sides.items()}
        rows = [compared(children, n, options) for n in SIZES]
    found: Row = {"bundle": root.name, "in_process": rows}
    if options.http:
        found["http"] = http(root, source, sides, options)
    return found


def targets(figures: Row) -> Iterator[Row]:
    """What is asked of each bundle, and whether it is met."""
    for found in figures["bundles"]:
        for row in found["in_process"]:
            what, n = f"{found['bundle']}, {row['candidates']} candidates", row["candidates"]
            if n == max(SIZES):
                name = f"{what}: parse, encode and serialise, to before"
                yield at_most(name, row["messages"], TARGETS["messages"], figures["void"])
            name = f"{what}, new user, nothing routed: Engine.rank to a bare run"
            yield at_most(name, row["rank_to_bare"]["new"], TARGETS["rank"][n], figures["void"])
        if "saturation" in found.get("http", {}):
            name = f"{found['bundle']}, 100 candidates: requests a second at saturation, to before"
            yield at_least(name, found["http"]["saturation"], TARGETS["saturation"], figures["void"])


def turns(number: int) -> Sequence[str]:
    """Every second pair begins with the other."""
    return ("old", "new") if number % 2 else ("new", "old")


def compared(children: Mapping[str, ModuleProcess], n: int, options: argparse.Namespace) -> Row:
    for one in children.values():
        turn(one, "messages", n, options.requests)
    times: dict[str, list[Row]] = {"new": [], "old": []}
    for number in range(options.pairs):
        for side in turns(number):
            found = turn(children[side], "messages", n, options.requests)
            found |= turn(children[side], "rank", n, options.requests)
            times[side].append(found)
    pairs = list(zip(times["new"], times["old"], strict=True))
    row: Row = {"candidates": n}
    row["messages"] = ratio_of([whole(new) / whole(old) for new, old in pairs]).to_json()
    row["rank_to_rank"] = ratio_of([new["rank"] / old["rank"] for new, old in pairs]).to_json()
    row["rank_to_bare"] = {side: ratio_of([t["rank"] / t["bare"] for t in of]).to_json() for side, of in times.items()}
    row["us"] = {side: {part: median([t[part] for t in of]) for part in (*PARTS, "rank", "bare")}
                 for side, of in times.items()}  # fmt: skip
    return row


def whole(found: Row) -> float:
    return float(sum(found[part] for part in PARTS))


def median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 1)


def http(root: Path, source: TrafficSource, sides: Mapping[str, Path], options: argparse.Namespace) -> Row:
    """Both servers run; one is asked at a time."""
    requests = prepared(source.strangers(400, 100, 2, "ratio:0"))
    with ExitStack() as stack:
        settings = {}
        for side, path in sides.items():
            log = options.work / f"{side}.log"
            server = stack.enter_context(Server(root, log, ["--no-llm"], environment(path)))
            server.wait_ready()
            settings[side] = ServerUnderLoad(server, source, options.core)
        costs: dict[str, list[float]] = {"new": [], "old": []}
        for number in range(-1, options.pairs):
            for side in turns(number):
                spent = cost(settings[side], requests, options, number)
                costs[side] += [spent] if number >= 0 else []
        best: dict[str, list[float]] = {"new": [], "old": []}
        for number in range(options.searches):
            for side in turns(number):
                best[side].append(saturation(settings[side], requests, 400.0, options.seconds, 50 + number)[0])
    ratios = [old / new for new, old in zip(costs["new"], costs["old"], strict=True)]
    found: Row = {"cpu_us": {side: median([1e6 * one for one in of]) for side, of in costs.items()},
                  "cpu_old_to_new": ratio_of(ratios).to_json(), "saturation_per_s": best}  # fmt: skip
    if options.searches:
        rates = zip(best["new"], best["old"], strict=True)
        found["saturation"] = ratio_of([new / old for new, old in rates]).to_json()
    return found


def cost(run: ServerUnderLoad, requests: list[bytes], options: argparse.Namespace, number: int) -> float:
    """CPU seconds of the server a request."""
    load = mix([Stream("easy", options.rate, requests)], options.seconds, 100 + number)
    before = cpu_seconds(run.server.pid)
    done = run.put(load)
    if (done.status != 200).any():
        raise CorellaError("a request failed")
    return (cpu_seconds(run.server.pid) - before) / len(load.moments)


def table(figures: Row) -> str:
    """The figures for reading."""
    lines = []
    for found in figures["bundles"]:
        for row in found["in_process"]:
            lines.append(f"{found['bundle']}, {row['candidates']} candidates: messages new / old {row['messages']}")
            lines.append(f"  rank / bare: {json.dumps(row['rank_to_bare'])}, rank new / old {row['rank_to_rank']}")
            lines.append(f"  µs: {json.dumps(row['us'])}")
        if "http" in found:
            lines.append(f"  http: {json.dumps(found['http'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except CorellaError as error:
        sys.exit(str(error))
