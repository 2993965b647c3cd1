"""llama.cpp's C API as `C`. Importing it loads the library, after a process of its own has done so.

Built for another CPU, it would end the process that loads it without a word.
"""

from __future__ import annotations

import os
from typing import Any

from corella_edge.errors import ComputeError, MissingExtraError
from corella_edge_runtime.llm.llama import trust

__all__ = ["C"]


def _load() -> Any:
    """Raises MissingExtraError if it is not installed, ComputeError if it cannot be loaded."""
    trust.check_loads()
    # Idle OpenMP threads, of a build that has them, would wait awake for 8 ms after every decode; this is a third of
    # one. libgomp reads it when it is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from llama_cpp import llama_cpp
    except ImportError as error:
        raise MissingExtraError("asking the LLM", "llm") from error
    except (OSError, RuntimeError) as error:  # a library that it needs is not there, or not for this system
        why = str(error).splitlines()[0][:200]
        raise ComputeError(f"the installed llama.cpp cannot be loaded: {why}; {trust.REMEDY}") from error
    return llama_cpp


C = _load()
