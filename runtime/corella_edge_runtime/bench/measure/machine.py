"""On what a benchmark ran, and what else ran there. Names no host and no path."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corella_edge_runtime.box import cpu_flags, cpu_model, cpu_name, system_text

PACKAGES = {"numpy": "numpy", "onnxruntime": "onnxruntime", "onnxruntime-gpu": "onnxruntime-gpu",
            "llama_cpp": "llama-cpp-python", "corella_edge": "corella-edge"}  # fmt: skip


def machine() -> dict[str, Any]:
    """CPU model with its strongest instruction set, usable cores, memory in bytes, operating system."""
    return {
        "cpu": cpu_name(cpu_model(), cpu_flags()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "architecture": platform.machine(),
        "os": _system(),
        "kernel": platform.release(),
    }


def versions(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Python and the packages that matter (`more`: name → distribution), as far as they are installed.

    Beside them, the kind of CPU that llama.cpp's library in use is for, if this process has loaded one.
    """
    found = {"python": platform.python_version()}
    for name, package in {**PACKAGES, **(more or {})}.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    build = sys.modules.get("corella_edge_runtime.llm.llama.build")
    if build is not None:
        found["llama_cpp_variant"] = build.variant(build.kernels())
    return found


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def peak_memory(proc: Path = Path("/proc")) -> int | None:
    """Greatest resident bytes so far of this process and its living descendants; None where nobody tells."""
    found = [peak_of(pid, proc) for pid in (os.getpid(), *descendants(os.getpid(), proc))]
    return sum(one for one in found if one is not None) if found[0] is not None else None


def peak_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Greatest resident bytes so far of a process; None where nobody tells."""
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Living children of a process, and theirs, whichever thread started them."""
    found: list[int] = []
    for tasks in proc.glob(f"{pid}/task/*/children"):
        try:
            children = list(map(int, tasks.read_text().split()))
        except OSError:  # the thread has ended
            continue
        found += [one for child in children for one in (child, *descendants(child, proc))]
    return found


def governor(root: Path = Path("/")) -> str | None:
    """What sets the clock of the first usable core; None where the system does not tell."""
    core = min(os.sched_getaffinity(0))
    return system_text(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Seconds so far: wall clock, of the usable cores busy and stolen, of this process."""

    wall: float
    busy: float
    stolen: float
    own: float


def ticks(whole: bool = False) -> Ticks:
    """Now; zeros where the system does not tell. `whole`: the work of all descendants is this process's own."""
    busy = stolen = 0.0
    for core in _core_lines():
        user, nice, system, _idle, _wait, irq, soft, steal = core[:8]
        busy += user + nice + system + irq + soft
        stolen += steal
    hertz = os.sysconf("SC_CLK_TCK")
    times = os.times()
    own = times.user + times.system
    if whole:
        own += times.children_user + times.children_system + sum(map(_worked, descendants(os.getpid()))) / hertz
    return Ticks(time.perf_counter(), busy / hertz, stolen / hertz, own)


def _worked(pid: int, proc: Path = Path("/proc")) -> int:
    """Clock ticks that a living process has used; 0 if it is gone."""
    try:
        # The name in brackets may hold spaces.
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _core_lines() -> list[list[int]]:
    wanted = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return []
    return [list(map(int, line[1:])) for line in lines if line and line[0] in wanted and len(line) >= 9]


def disturbance(before: Ticks, after: Ticks) -> dict[str, float]:
    """Shares of the usable cores' time that other processes, and other virtual machines, took: from 0 to 1.

    The clocks that they are read from tick at different moments, so that a difference may leave that range a little.
    """
    total = max(1e-9, (after.wall - before.wall) * len(os.sched_getaffinity(0)))
    foreign = (after.busy - before.busy) - (after.own - before.own)
    return {"foreign": min(1.0, max(0.0, foreign / total)), "steal": (after.stolen - before.stolen) / total}
