"""Our prompt against the paper's: validation AUC, and milliseconds of 20 candidates.

    python benchmarks/template.py ml-1m-small --data data/ml-1m --work runs/template --parts auc \\
        --out benchmarks/results/template.json        (half an hour of one core a seed; it resumes)
    python benchmarks/template.py … --parts timing    (half a minute of a quiet machine)

For every training seed two models are trained (the recipe's [llm] stage, one epoch on the same rows). They differ in
prompt.item alone: ours puts every constant word before the candidate; the paper's puts the candidate in the middle,
30 constant tokens after it. A history line is short in both, as in the papers, so their prefixes are equal token by
token. The longer questions would fill the paper's training steps with fewer rows and so give it more steps: a step
holds as many rows of either form (--step tokens: as many tokens instead). An --out file that is already there keeps
the part that this run did not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from corella_edge.errors import CorellaError, InputError
from harness.options import check_words, numbers, words
from harness.pairs import ENOUGH
from harness.parts import merged, stamped
from harness.report import targets_table
from harness.results import write
from scenarios.wording import quality, timing
from scenarios.wording.training import study

WHAT = "our prompt against the paper's"
PARTS: dict[str, Any] = {"auc": quality, "timing": timing}


def main() -> int:
    options = parse()
    try:
        for name, part in measured(options):
            print(PARTS[name].table(part))
            print(targets_table(part["targets"]))
            print(json.dumps(part), flush=True)
            if options.out:
                write(options.out, merged(options.out, name, stamped(part), WHAT))
    except CorellaError as error:
        print(f"template: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--parts", type=words, default=tuple(PARTS), help=",".join(PARTS))
    parser.add_argument("--seeds", type=numbers, default=(1,), help="of training; the first one's models are timed")
    parser.add_argument("--rows", type=int, default=100_000, help="training rows, drawn as whole users")
    parser.add_argument("--valid-rows", type=int, default=0, help="validation rows, drawn as whole users (0 = all)")
    parser.add_argument("--step", choices=("rows", "tokens"), default="rows",
                        help="what a step of training holds as many of in both forms")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of training and of llama.cpp")
    parser.add_argument("--pairs", type=int, default=40, help="users that are timed, ours and the paper's by turns")
    parser.add_argument("--retries", type=int, default=1, help="how often a disturbed timing is repeated")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Numbers and names before any work is done.

    Raises:
        InputError: one that is too small or not known.
    """
    least = {"rows": 1, "valid_rows": 0, "threads": 1, "pairs": ENOUGH, "retries": 0}
    for name, number in least.items():
        if getattr(options, name) < number:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {number} is needed")
    check_words(options, {"parts": tuple(PARTS)})
    if not options.seeds:
        raise InputError("--seeds: at least one is needed")


def measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The parts that were asked for, with their targets, each when it is done.

    Raises:
        CorellaError: options, data or runs that do not fit.
    """
    check(options)
    torch.set_num_threads(options.threads)
    with study(options) as found:
        for name in options.parts:
            part = {**PARTS[name].measure(found, options), "note": options.note}
            yield name, {**part, "targets": PARTS[name].targets(part)}


if __name__ == "__main__":
    sys.exit(main())
