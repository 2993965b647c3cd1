"""What the installed llama.cpp was built for."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from functools import cache

from corella_edge.errors import MissingExtraError

try:
    from llama_cpp import llama_cpp as C
except ImportError as error:
    raise MissingExtraError("asking the LLM", "llm") from error


@cache
def load_kernels() -> None:
    """Of a build that has one library for each kind of CPU, load the best one that this CPU can run.

    llama.cpp would otherwise look for them in the working directory. Other builds have nothing to load.
    """
    load = getattr(C._lib, "ggml_backend_load_all_from_path", None)
    if load is not None:
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(os.fsencode(C._base_path))


def features() -> list[str]:
    """Names of the instruction sets and parts compiled in, as `llama_print_system_info` gives them."""
    load_kernels()
    text = C.llama_print_system_info().decode("utf-8", "replace")
    pairs = (part.rpartition(":")[2].partition("=") for part in text.split("|"))
    return [name.strip() for name, _, value in pairs if value.strip() not in ("", "0")]


if __name__ == "__main__":
    json.dump(features(), sys.stdout)
