"""A fault for the LLM's process: while the file named by CORELLA_EDGE_FAULT_NAN exists, its logits are no numbers.

Python runs this file at its start if the folder is on PYTHONPATH: PYTHONPATH=benchmarks/faults corella-edge serve …
"""

from __future__ import annotations

import math
import os
import sys
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


if "corella_edge_runtime.llm.backends.process.child" in sys.orig_argv and "CORELLA_EDGE_FAULT_NAN" in os.environ:
    spoil(Path(os.environ["CORELLA_EDGE_FAULT_NAN"]))
