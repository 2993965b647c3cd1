"""This machine: its CPU, and the folder for what belongs to it."""

from __future__ import annotations

import os
import platform
from collections.abc import Set
from pathlib import Path

from corella_edge.errors import InputError

# Clouds hide a CPU's model ("AMD EPYC" is five of them); what matters to these models is its strongest instruction set.
_STRENGTHS = {
    "amx_int8": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX",
    "sve": "SVE", "i8mm": "i8mm", "asimddp": "dot products", "asimd": "NEON",
}  # fmt: skip


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name; on ARM, which has none, the numbers of its maker and part."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text("utf-8", "replace").splitlines()]
    except OSError:
        lines = []
    values = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    parts = [values[key] for key in ("CPU implementer", "CPU part") if key in values]
    return values.get("model name") or " ".join([platform.machine(), *parts])


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Flags of the first CPU; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    return next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )


def cpu_name(model: str, flags: Set[str]) -> str:
    """`AMD EPYC, AVX2`: the model, and the strongest of the instruction sets among its flags."""
    return ", ".join([model, *[name for flag, name in _STRENGTHS.items() if flag in flags][:1]])


def state_folder() -> Path:
    """What belongs to this machine lies here: below $XDG_STATE_HOME, or ~/.local/state where that is not set.

    Raises:
        InputError: neither is known.
    """
    return _below("XDG_STATE_HOME", ".local/state")


def cache_folder() -> Path:
    """What can be had again lies here, finished wheels and fetched checkpoints: below $XDG_CACHE_HOME, or ~/.cache.

    Raises:
        InputError: neither is known.
    """
    return _below("XDG_CACHE_HOME", ".cache")


def _below(variable: str, usual: str) -> Path:
    # The standard says that a path which is not absolute is to be ignored.
    named = Path(os.environ.get(variable, ""))
    try:
        return (named if named.is_absolute() else Path.home() / usual) / "corella-edge"
    except RuntimeError:
        raise InputError(f"this user has no home folder; set HOME or {variable}") from None
