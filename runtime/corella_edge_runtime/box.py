"""This machine: its CPU, how much memory it grants, and the folder for what belongs to it."""

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
# Of control groups, version 2 and 1: limit, use, and the file and name that tell what is kept of files.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


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


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the control group grants, of version 2 or 1; None = no limit, or nobody tells."""
    found = _limited(root)
    return None if found is None else found[0]


def memory_left(root: Path = Path("/")) -> int | None:
    """Bytes of that limit that are not in use, None as there. What is kept of files that were read, and not looked at
    since, makes room for whatever needs it, and is not in use."""
    found = _limited(root)
    if found is None:
        return None
    limit, used, stat, unused = found
    rows = [line.split() for line in (system_text(stat) or "").splitlines()]
    kept = next((row[1] for row in rows if row[0] == unused and len(row) == 2), None)
    return min(limit, max(0, limit - (_count(system_text(used)) or 0) + (_count(kept) or 0)))


def _limited(root: Path) -> tuple[int, Path, Path, str] | None:
    """The limit, and where stands what is in use, and what is kept of files, under which name."""
    for name, used, stat, unused in _MEMORY:
        group = root / "sys/fs/cgroup"
        limit = _count(system_text(group / name))
        if limit is not None and limit < 1 << 60:  # version 1 says a huge number for none
            return limit, group / used, group / stat, unused
    return None


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def system_text(file: Path) -> str | None:
    """What a file of the system says, without space around it; None where there is none, or nothing in it."""
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


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
