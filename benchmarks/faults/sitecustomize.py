"""Faults for the LLM's process: while the file named by CORELLA_EDGE_FAULT_NAN exists, its logits are NaN; while the
one named by CORELLA_EDGE_FAULT_HANG exists, no decode comes to its end.

Python runs this file at its start if the folder is on PYTHONPATH: PYTHONPATH=benchmarks/faults corella-edge serve …
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def spoil(flag: Path) -> None:
    """Make every `Context.logits` of this process look for the file first."""
    from corella_edge_runtime.llm.llama.binding import Context

    sound = Context.logits

    def logits(self: Context, rows: Sequence[int], tokens: Sequence[int]) -> list[list[float]]:
        return [[math.nan] * len(tokens) for _ in rows] if flag.exists() else sound(self, rows, tokens)

    patched: Any = logits
    Context.logits = patched  # type: ignore[method-assign]


def hang(flag: Path) -> None:
    """Make every `Context.decode` of this process wait until the file is gone."""
    from corella_edge_runtime.llm.llama.binding import Context

    sound = Context.decode

    def decode(self: Context, rows: Any) -> None:
        while flag.exists():
            time.sleep(0.01)
        sound(self, rows)

    patched: Any = decode
    Context.decode = patched  # type: ignore[method-assign]


FAULTS = {"CORELLA_EDGE_FAULT_NAN": spoil, "CORELLA_EDGE_FAULT_HANG": hang}
if "corella_edge_runtime.llm.backends.process.child" in sys.orig_argv:
    for name, fault in FAULTS.items():
        if name in os.environ:
            fault(Path(os.environ[name]))
