"""The self-test's own process: `python -m corella_edge_runtime.llm.llama.selftest.trial STEPS`, started by `trust`.

STEPS is a JSON list of [type, extra]: decode the tiny model of that type, with llama.cpp's extra buffer types (AMX,
repacked weights) or without. A line of JSON says what is begun and what came of it: whatever ends the process, it is
known at what.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.llama import build, trust
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.own_thread import claim
from corella_edge_runtime.llm.llama.selftest import tiny
from corella_edge_runtime.llm.llama.tree import TokenRows

# One token alone, then many: llama.cpp has kernels for each. 47 rows are no multiple of any tile.
_DECODES = (1, 47)
_ROWS = sum(_DECODES)


_TOKENS = np.random.default_rng(1).integers(0, tiny.VOCABULARY, _ROWS).tolist()


def error(kind: str, extra: bool) -> float:
    """How far llama.cpp's logits are from plain arithmetic, as a share of their size; nan if it computes nan."""
    path, expected = _made(kind)
    model = Model(path, extra=extra)
    found = _decoded(model, _TOKENS)
    model.close()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@lru_cache(maxsize=1)
def _made(kind: str) -> tuple[Path, npt.NDArray[np.float64]]:
    """The tiny model, in memory until this process ends, and its logits by plain arithmetic."""
    path = _place()
    return path, tiny.logits(tiny.write(path, kind), _TOKENS)


def _place() -> Path:
    """A file in memory, or a temporary one where the system has no name for such a file (no /proc)."""
    path = Path(f"/proc/self/fd/{os.memfd_create('tiny')}")
    return path if path.exists() else Path(_folder().name, "tiny.gguf")


@lru_cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="corella-edge-trial-")


def _decoded(model: Model, tokens: Sequence[int]) -> tiny.Floats:
    # One thread: a barrier between several costs long where other work takes the cores.
    context = Context(model, tiny.CONTEXT, _ROWS, max(_DECODES), 1)
    found, start = list[list[float]](), 0
    for count in _DECODES:
        context.decode(_rows(tokens, start, count))
        found += context.logits(range(count), range(tiny.VOCABULARY))
        start += count
    context.close()
    return np.asarray(found, np.float32)


def _rows(tokens: Sequence[int], start: int, count: int) -> TokenRows:
    """Of one sequence, the logits of each read."""
    places = np.arange(start, start + count, dtype=np.int32)
    ones = np.ones(count, np.int32)
    return TokenRows(np.asarray(tokens, np.int32)[places], places, 0 * ones, ones, ones.astype(np.int8))


def main(steps: Sequence[tuple[str, bool]]) -> None:
    claim()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what kills it is told, not kept
    _say({"variant": build.variant(build.kernels())})
    # A decode that hangs is ended by the system, also where nobody waits any more.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for kind, extra in steps:
        _say({"begin": [kind, extra]})
        signal.setitimer(signal.ITIMER_REAL, trust.PATIENCE)
        _say({"error": error(kind, extra)})


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
