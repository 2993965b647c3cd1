"""Seconds a training step with and without another busy process, for several ways in which torch's threads wait.

    python benchmarks/busy_training.py --data runs/demo/data --out benchmarks/results/busy-training.json

Each setting is a child process that holds a stage of the recipe with fresh weights and repeats the same first steps.
The settings take turns of --steps steps, on the quiet machine and beside --busy processes that only count, in another
order every round; a figure is the median over rounds of a turn's mean step. "300000" is what libgomp takes by itself,
the product sets the other one (`corella_edge_export`). "two" are two children of one setting that train at once. A
figure counts where nothing else runs: "foreign" is the share of the machine that other work took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from corella_edge_export import SPIN
from harness.options import check_words, words
from harness.pairs import ENOUGH, median_ms, ratio_of
from harness.quiet import Watch, is_void
from harness.results import write

STAGES = ("crm", "llm", "joint", "continuation")
LIBGOMP = "300000"  # libgomp's own count where nobody says
WARM_UP = 3
COUNTING = "while True: pass"
Row = dict[str, Any]


def main() -> None:
    options = parse()
    check_words(options, {"stages": STAGES})
    if options.serve:
        serve(options)
        return
    found = {stage: measured(stage, options) for stage in options.stages}
    about = {"what": "training on a busy machine", "recipe": options.recipe, "cores": len(os.sched_getaffinity(0))}
    result = {**about, "busy": options.busy, "steps": options.steps, "rounds": options.rounds, "stages": found}
    if options.out:
        write(options.out, result)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data, such as the demo's")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--stages", type=words, default=("crm", "llm", "joint"))
    parser.add_argument("--spins", type=words, default=(LIBGOMP, SPIN), help="GOMP_SPINCOUNT, the old one first")
    parser.add_argument("--rounds", type=int, default=ENOUGH)
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--busy", type=int, default=1, help="processes that keep a core busy")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(stage: str, options: argparse.Namespace) -> Row:
    """The figures of one stage; prints them."""
    with ExitStack() as stack:
        children = [TrainingProcess(stack, stage, spin, options) for spin in options.spins for _ in range(2)]
        watch = Watch([child.process.pid for child in children])
        turns = [a_round(children, number, options) for number in range(options.rounds)]
        load = watch.read()
    # The processes that only count are ours, and not among the watched ones.
    row = {**figures(turns, options.spins), "load": load}
    print(stage, json.dumps(row), "(void)" if is_void(load) else "", flush=True)
    return row


def a_round(
    children: Sequence[TrainingProcess], number: int, options: argparse.Namespace
) -> dict[tuple[str, str], float]:
    """(setting, load) → mean seconds a step: "quiet", "busy", and "two" at once."""
    first, second = children[::2], children[1::2]
    order = list(zip(first, second, strict=True))[:: -1 if number % 2 else 1]
    found: dict[tuple[str, str], float] = {}
    for one, _ in order:
        found[one.spin, "quiet"] = together([one], options.steps)
    with busy(options.busy):
        for one, _ in order:
            found[one.spin, "busy"] = together([one], options.steps)
    for pair in order:
        found[pair[0].spin, "two"] = together(pair, options.steps)
    return found


def together(children: Sequence[TrainingProcess], steps: int) -> float:
    """Mean seconds a step of children that train at once."""
    for child in children:
        child.ask(steps)
    return sum(child.answer() for child in children) / len(children)


def figures(turns: Sequence[dict[tuple[str, str], float]], spins: Sequence[str]) -> Row:
    """Milliseconds a step, and ratios with their 95 % intervals."""
    found: Row = {}
    for spin in spins:
        times = {load: [turn[spin, load] for turn in turns] for load in ("quiet", "busy", "two")}
        found[spin] = {f"{load}_ms": median_ms(seconds) for load, seconds in times.items()}
        for load in ("busy", "two"):
            found[spin][f"{load}/quiet"] = over(turns, (spin, load), (spin, "quiet"))
        if spin != spins[0]:
            for load in times:
                found[spin][f"{load}/{spins[0]}"] = over(turns, (spin, load), (spins[0], load))
    return found


def over(turns: Sequence[dict[tuple[str, str], float]], one: tuple[str, str], other: tuple[str, str]) -> Row:
    """The ratio of two figures of the same round."""
    return ratio_of([turn[one] / turn[other] for turn in turns]).to_json()


class TrainingProcess:
    """A process that holds a stage and does steps when it is asked to."""

    def __init__(self, stack: ExitStack, stage: str, spin: str, options: argparse.Namespace) -> None:
        self.spin = spin
        command = [sys.executable, __file__, "--data", options.data, "--recipe", options.recipe, "--serve", stage]
        self.process = stack.enter_context(
            subprocess.Popen(
                command, env={**os.environ, "GOMP_SPINCOUNT": spin}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )
        )  # fmt: skip
        stack.callback(self.process.kill)
        self.ask(WARM_UP)
        self.answer()

    def ask(self, steps: int) -> None:
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)

    def answer(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that only count."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", COUNTING]))
            stack.callback(process.kill)
        time.sleep(0.1)
        yield


def serve(options: argparse.Namespace) -> None:
    """The child: for each number that is read, so many steps, and their mean seconds."""
    with tempfile.TemporaryDirectory() as folder:
        step = stepper(Path(folder), options)
        for line in sys.stdin:
            begun = time.perf_counter()
            for number in range(int(line)):
                step(number)
            print((time.perf_counter() - begun) / int(line), flush=True)


def stepper(folder: Path, options: argparse.Namespace) -> Callable[[int], object]:
    """Does the step of the batch with some number, on fresh weights: no other stage is trained before."""
    from accelerate import Accelerator

    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.recipe import load_recipe
    from corella_edge_export.training.loop import _Training
    from corella_edge_export.training.run import Run
    from corella_edge_export.training.stages import Stages

    recipe = load_recipe(options.recipe)
    alone = {name: replace(getattr(recipe, name), epochs=int(name == options.serve)) for name in STAGES}
    run = Run(folder, replace(recipe, **alone), PreparedData.open(options.data))
    task, schedule = Stages(run, quiet=True).task(options.serve)
    training, batches = _Training(task, schedule, folder / options.serve, Accelerator(), quiet=True), task.batches(0)
    training.total = len(batches)
    return lambda number: training._step(batches[number % len(batches)])


if __name__ == "__main__":
    main()
