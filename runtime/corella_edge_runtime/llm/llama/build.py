"""What the installed llama.cpp was built for, and which of its libraries is in use."""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from functools import cache
from pathlib import Path

from corella_edge_runtime.llm.llama.library import C

_KERNELS = re.compile(r"/libggml-cpu(?:-([\w.]+?))?\.so(?:\.\d+)*$")
_COMPILER = re.compile(rb"GCC: \([^\0\n]*|[^\0\n]*clang version [^\0\n(]*")


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


def kernels(maps: Path = Path("/proc/self/maps")) -> Path | None:
    """The library whose kernels compute; None if the system does not tell."""
    load_kernels()
    try:
        lines = maps.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    paths = (line.split(maxsplit=5)[-1] for line in lines)
    return next((Path(path) for path in paths if _KERNELS.search(path)), None)


def variant(library: Path | None) -> str:
    """The kind of CPU that a library of kernels is for ("haswell"); "single" where one serves all."""
    match = _KERNELS.search(str(library))
    return (match and match.group(1)) or "single"


def compiler(library: Path | None) -> str:
    """The compiler, as its file names it; empty if it does not."""
    try:
        raw = library.read_bytes() if library else b""
    except OSError:
        return ""
    found = dict.fromkeys(match.group().decode("ascii", "replace").strip() for match in _COMPILER.finditer(raw))
    return ", ".join(found)


def facts() -> dict[str, object]:
    """For people: variant, compiler, instruction sets."""
    library = kernels()
    return {"variant": variant(library), "compiler": compiler(library), "features": features()}


if __name__ == "__main__":
    json.dump(facts(), sys.stdout)
