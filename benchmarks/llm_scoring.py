"""The LLM side against its peers: same weights, same token ids, same threads, by turns in one run.

    CORELLA_EDGE_LLAMA_SERVER=… CORELLA_EDGE_LLAMA_BENCH=… python benchmarks/llm_scoring.py --work runs/scoring \\
        --trained BUNDLE --threads 2 --out benchmarks/results/llm-scoring.json

peers/README.md says how to build the two binaries. Without --models, --shapes or --peers the 135M shape is measured on
everything, the 0.5B shape and the trained model on less (DEFAULTS below). An --out file that is already there keeps
what this run does not measure, rows of other peers in the same block included; it must be of this machine, of as many
threads and of the same llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from corella_edge.errors import CorellaError, InputError
from harness import report
from harness.models import TYPES, Subject, subject
from harness.options import check_words, words
from harness.process import memory, start_up
from harness.results import write
from peers.table import KNOWN, check_names
from scenarios.scoring.blocks import MeasuringPlan, block
from scenarios.scoring.bulk import bulk, ceilings_of
from scenarios.scoring.kept import check as check_kept
from scenarios.scoring.kept import merged, stamped
from scenarios.scoring.parity import parity
from scenarios.scoring.product import product
from scenarios.scoring.returning import returning

SHAPES = ("a1", "a2", "b", "c", "d", "m")
FEW = ("completion-reuse", "eval", "server", "torch-bf16", "torch-bf16-shared")
# model → shapes, peers and types where the command line names none
DEFAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "135m": (("a1", "a2", "b", "c", "m"), tuple(KNOWN), TYPES),
    "0.5b": (("a2", "m"), FEW, ("BF16", "Q8_0")),
    "trained": (("a2", "c", "d"), FEW, ("F16", "BF16", "Q8_0")),
}
STARTS, MEMORY_REQUESTS, FILE_REQUESTS = 7, 40, 4


def main() -> int:
    options = parse()
    try:
        result = measure(options)
    except CorellaError as error:
        print(f"llm_scoring: {error}", file=sys.stderr)
        return error.exit_code
    result["targets"] = report.targets(result)
    print(report.targets_table(result["targets"]))
    print(json.dumps(result))
    if options.out:
        write(options.out, merged(options.out, result, say))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the models; made once, about 5 GB")
    parser.add_argument("--models", type=words, help="135m,0.5b,trained (default: those that can be made)")
    parser.add_argument("--shapes", type=words, help=",".join(SHAPES) + "; m = memory of the files")
    parser.add_argument("--peers", type=words, help=",".join(KNOWN))
    parser.add_argument("--types", type=words, help=",".join(TYPES))
    parser.add_argument("--trained", type=Path, help="a bundle, or a run (with --data)")
    parser.add_argument("--data", type=Path, help="prepared data of the run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=15, help="rounds at the best types")
    parser.add_argument("--scan", type=int, default=2, help="rounds at every type, which choose the best")
    parser.add_argument("--retries", type=int, default=1, help="how often a disturbed stage is measured again")
    parser.add_argument("--users", type=int, default=120, help="users of shape d")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for.

    Raises:
        InputError: a name that is not known, a binary that is not there, an --out of another machine.
    """
    check(options)
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"what": "LLM scoring side by side", "threads": options.threads, "ceilings": [],
                              "blocks": [], "parity": [], "memory_of_files": []}  # fmt: skip
    for name in options.models or (("135m", "0.5b") + (("trained",) if options.trained else ())):
        of_model(name, options, result)
    return stamped(result)


def check(options: argparse.Namespace) -> None:
    """Names before any work is done."""
    check_names(options.peers or ())
    check_words(options, {"models": tuple(DEFAULTS), "shapes": SHAPES, "types": TYPES})
    for option in ("threads", "pairs", "scan", "users"):
        if getattr(options, option) < 1:
            raise InputError(f"--{option} {getattr(options, option)}: at least 1 is needed")
    if options.retries < 0:
        raise InputError(f"--retries {options.retries}: 0 or more are needed")
    if options.out:
        check_kept(options.out, options.threads)


def of_model(name: str, options: argparse.Namespace, result: dict[str, Any]) -> None:
    """One model: ceilings first, then its shapes."""
    shapes, peers, types = (given or usual for given, usual in zip(
        (options.shapes, options.peers, options.types), DEFAULTS[name], strict=True))  # fmt: skip
    plan = MeasuringPlan(options.threads, options.pairs, options.scan, types, options.retries)
    if set(shapes) - {"d"}:  # a file is needed
        made = subject(name, options.work, types, options.trained, options.data)
        if "b" in shapes or {"a1", "a2"} & set(shapes):
            result["ceilings"].append(ceilings_of(made, plan))
            print(report.ceilings_table(result["ceilings"][-1:]), flush=True)
        for shape in shapes:
            of_shape(shape, made, peers, plan, result)
        if "m" in shapes:
            result["memory_of_files"] += [file_memory(made, kind, plan.threads) for kind in types]
        if "F16" in types:
            result["parity"].append(parity(made, options.threads))
    if "d" in shapes and name == "trained":
        of_bundle(options, result)


def of_shape(shape: str, made: Subject, peers: tuple[str, ...], plan: MeasuringPlan, result: dict[str, Any]) -> None:
    """One block, printed when it is done."""
    if shape in ("d", "m"):
        return
    if shape == "b":
        found = bulk(made, result["ceilings"][-1], plan, say)
    elif shape == "c":
        found = returning(made, plan, say)
    else:
        found = block(made, shape, peers, plan, say)
    result["blocks"].append({**found, "plan": asdict(plan)})
    print(report.block_table(found), flush=True)


def file_memory(made: Subject, kind: str, threads: int) -> dict[str, Any]:
    """A scorer on one file in a process of its own."""
    found = {"model": made.name, "type": kind, **memory(made.files[kind], threads, FILE_REQUESTS)}
    print(f"memory {json.dumps(found)}", flush=True)
    return found


def of_bundle(options: argparse.Namespace, result: dict[str, Any]) -> None:
    """What only a bundle has: the product's latency, start-up and memory."""
    if not (options.trained / "manifest.json").is_file():
        raise InputError(f"--shapes d: --trained {options.trained} is not a bundle")
    # As the runtime plans it: a core is left to the CRM.
    result["product"] = product(options.trained, max(1, options.threads - 1), options.users, say)
    result["start"] = start_up(options.trained, options.threads, STARTS)
    result["memory"] = memory(options.trained, options.threads, MEMORY_REQUESTS)
    for part in ("product", "start", "memory"):
        print(f"{part}: {json.dumps(result[part])}", flush=True)


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
