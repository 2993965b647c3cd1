"""A command started again and again, each time ended by a signal at a random moment, until it gets through.

python under_fire.py SIGNAL SEED SECONDS OUT ARG...   OUT: what must never exist half-written, or "-"

Everything is imported first and each start is a fork, so that a moment falls into the work and not into imports.
Prints one JSON object: starts, and for each ended start its wait status, its stderr, and whether OUT was there.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from corella_edge.cli import COMMANDS, main
from corella_edge_export.training import loop

TRAINING = ("corella_edge_export.training.stages", "transformers.models.llama.modeling_llama")
EXPORT = (
    "corella_edge_export.bundling.write", "corella_edge_export.evaluation.evaluate", "torch.onnx",
    "optimum.exporters.onnx",
)  # fmt: skip


def child(args: list[str], errors: int) -> None:
    """The command; it must leave by `os._exit`, the parent's clean-up is not the child's."""
    os.dup2(errors, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    code = 0
    try:
        main(args)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def once(number: int, args: list[str], seconds: float) -> tuple[int, str]:
    """(exit code, negative if by a signal, stderr) of one start."""
    with tempfile.TemporaryFile() as errors:
        process = os.fork()
        if process == 0:
            child(args, errors.fileno())
        time.sleep(seconds)
        os.kill(process, number)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        errors.seek(0)
        return code, errors.read().decode()


def under_fire(number: int, seed: int, seconds: float, out: Path, args: list[str]) -> list[dict[str, object]]:
    """What became of each start; the last one got through."""
    rng, ends = random.Random(seed), []
    while not ends or ends[-1]["code"] != 0:
        assert len(ends) < 60, ends
        # Ever later on average, so that a slow machine gets through as well.
        code, text = once(number, args, rng.uniform(0.02, seconds * (1 + len(ends))))
        ends.append({"code": code, "stderr": text, "there": out.exists()})
        if ends[-1]["there"]:
            break
    return ends


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = 0.1
    signal_name, seed_text, seconds_text, out_text, *rest = sys.argv[1:]
    for name in (f"corella_edge.cli.{COMMANDS[rest[0]][0]}", *TRAINING, *(() if rest[0] == "train" else EXPORT)):
        importlib.import_module(name)
    found = under_fire(signal.Signals[signal_name], int(seed_text), float(seconds_text), Path(out_text), rest)
    print(json.dumps(found))
