"""Which cores and how many threads each model gets: read from the machine, decided by one pure function.

llama.cpp's threads wait for the slowest of them at every layer, so a core that ONNX Runtime takes from one of them
costs all of them; and a thread that sleeps for want of CPU quota does the same. So the two get disjoint cores and
together no more threads than the process has CPU time for.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

from corella_edge.errors import InputError

_TOPOLOGY = "sys/devices/system/cpu/cpu{}/topology"
# The older name last; each lists the logical CPUs of one physical core.
_SIBLINGS = ("core_cpus_list", "thread_siblings_list")


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use.

    Attributes:
        physical: the logical CPUs of the affinity mask, those of one physical core together.
        quota: CPUs' worth of time that the control groups grant; None = no limit.
    """

    physical: tuple[tuple[int, ...], ...]
    quota: float | None = None

    @property
    def cores(self) -> tuple[int, ...]:
        """The logical CPUs, ascending."""
        return tuple(sorted(core for group in self.physical for core in group))

    @property
    def limit(self) -> int:
        """Most threads that can run all the time; at least 1."""
        return max(1, math.floor(min(len(self.cores), math.inf if self.quota is None else self.quota)))


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads of each model and the logical CPUs they may run on; no thread spins when it has nothing to do.

    The two sets are disjoint, except where `shared`; a set may be larger than the number of its threads.
    """

    crm_threads: int
    crm_cores: tuple[int, ...]
    llm_threads: int
    llm_cores: tuple[int, ...]
    reasons: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether both models run on the same cores."""
        return bool(set(self.crm_cores) & set(self.llm_cores))


def plan_threads(machine: Machine, crm: int | None = None, llm: int | None = None) -> ThreadPlan:
    """Disjoint cores for both models, whole physical ones where there are enough.

    Args:
        crm: threads wished for the CRM; None = 1, which is enough for a thousand candidates in milliseconds.
        llm: threads wished for the LLM; None = one a physical core that the CRM leaves, within the quota.

    Raises:
        InputError: a wish that the affinity or the quota does not allow.
    """
    check_wishes(machine, crm, llm)
    _check_sum(machine, crm, llm)
    cores = machine.cores
    if machine.limit < 2:
        return ThreadPlan(1, cores, 1, cores, (*_found(machine), "too little for two: both models share it"))
    crm_threads = crm or 1
    llm_threads = llm or _default_llm(machine, crm_threads)
    order = [core for group in machine.physical for core in group]
    place = min(range(crm_threads, len(order) - llm_threads + 1), key=_Cost(machine, crm_threads, llm_threads))
    crm_cores, llm_cores = tuple(sorted(order[:place])), tuple(sorted(order[place:]))
    reasons = (*_found(machine), *_why(machine, place, crm is None, llm is None))
    return ThreadPlan(crm_threads, crm_cores, llm_threads, llm_cores, reasons)


def check_wishes(machine: Machine, crm: int | None, llm: int | None) -> None:
    """Raises InputError for fewer than one thread a model, or more threads than CPUs, which would only wait."""
    most = len(machine.cores)
    for name, wish in (("CRM", crm), ("LLM", llm)):
        if wish is not None and wish < 1:
            raise InputError(f"threads of the {name}: {wish} is below 1")
        if wish is not None and wish > most:
            found = f"{wish} is above {most}, the CPUs that this process may run on"
            raise InputError(f"threads of the {name}: {found}; ask for fewer")


def _check_sum(machine: Machine, crm: int | None, llm: int | None) -> None:
    # Where there is one core's worth, both have a thread of their own all the same.
    most = max(2, machine.limit)
    wanted = (crm or 1) + (llm or 1)
    if wanted > most:
        raise InputError(
            f"threads: {crm or 1} for the CRM and {llm or 1} for the LLM are more than the {most} that "
            f"{len(machine.cores)} core(s){_quota_text(machine)} allow; ask for fewer"
        )


def _default_llm(machine: Machine, crm_threads: int) -> int:
    """One a physical core beside the CRM's: a second thread on a core shares its arithmetic units and gains little."""
    free = len(machine.physical) - crm_threads
    return max(1, min(machine.limit - crm_threads, free))


@dataclass(frozen=True, slots=True)
class _Cost:
    """How bad it is to give the first `place` logical CPUs to the CRM and the rest to the LLM; compared as a tuple."""

    machine: Machine
    crm: int
    llm: int

    def __call__(self, place: int) -> tuple[bool, int, float]:
        before, cut, after = _cut(self.machine, place)
        crowded = max(0, self.crm - before - cut) + max(0, self.llm - after - cut)
        uneven = abs(place / len(self.machine.cores) - self.crm / (self.crm + self.llm))
        return bool(cut), crowded, uneven


def _cut(machine: Machine, place: int) -> tuple[int, int, int]:
    """Physical cores wholly before `place`, cut in two by it (0 or 1), and wholly after it."""
    ends = list(accumulate(len(group) for group in machine.physical))
    before = sum(end <= place for end in ends)
    cut = int(place not in ends)
    return before, cut, len(ends) - before - cut


def _found(machine: Machine) -> Iterator[str]:
    count, physical = len(machine.cores), len(machine.physical)
    yield f"{count} core(s) may be used" + (f", {physical} physical" if physical < count else "")
    if machine.quota is not None:
        yield f"the CPU quota grants {machine.quota:g}: at most {machine.limit} thread(s) run all the time"


def _why(machine: Machine, place: int, crm_free: bool, llm_free: bool) -> Iterator[str]:
    yield "CRM: 1 thread is the default" if crm_free else "CRM: threads as wished"
    yield "LLM: one thread a physical core that is left, within the quota" if llm_free else "LLM: threads as wished"
    if _cut(machine, place)[1]:
        yield "the models share a physical core: there are too few for whole ones"
    if machine.limit < len(machine.cores):
        yield "cores are more than threads: the system may choose among them"


def _quota_text(machine: Machine) -> str:
    return "" if machine.quota is None else f" and a CPU quota of {machine.quota:g}"


def choices(machine: Machine) -> tuple[ThreadPlan, ...]:
    """Plans worth measuring, the default first: fewer threads of the LLM, and as many as there is time for."""
    usual = plan_threads(machine)
    counts = (usual.llm_threads, max(1, usual.llm_threads // 2), max(1, machine.limit - usual.crm_threads))
    return tuple(plan_threads(machine, usual.crm_threads, count) for count in dict.fromkeys(counts))


def llm_default() -> int:
    """Threads of the LLM on this machine when nobody says."""
    return plan_threads(read_machine()).llm_threads


def llm_alone() -> int:
    """Threads of the LLM on this machine when nobody says and no base model runs beside it: one a physical core, or
    two where there is only one, within the quota."""
    machine = read_machine()
    return min(machine.limit, max(2, len(machine.physical)))


def bind_process(cores: Iterable[int]) -> None:
    """Keep every thread of this process, and those to come, on some cores; processes of its own are not touched."""
    wanted = set(cores)
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - names are all that is wanted
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            os.sched_setaffinity(int(thread), wanted)


def read_machine(root: Path = Path("/"), cores: Iterable[int] | None = None) -> Machine:
    """Affinity, topology and quota of this process.

    Args:
        root: holds /proc and /sys. cores: logical CPUs; None = the affinity mask.
    """
    usable = sorted(os.sched_getaffinity(0) if cores is None else cores)
    return Machine(read_physical(root, usable), read_quota(root))


def read_physical(root: Path, cores: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Logical CPUs grouped by physical core; one each where the system does not say."""
    groups: dict[int, list[int]] = {}
    for core in cores:
        groups.setdefault(min(_siblings(root, core)), []).append(core)
    return tuple(tuple(group) for _, group in sorted(groups.items()))


def _siblings(root: Path, core: int) -> set[int]:
    folder = root / _TOPOLOGY.format(core)
    text = next((found for name in _SIBLINGS if (found := _text(folder / name))), "")
    return {*_cpu_list(text), core}


def _cpu_list(text: str) -> Iterator[int]:
    """`0-2,8` → 0, 1, 2, 8; other text is ignored."""
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), int(last or first) + 1)


def read_quota(root: Path) -> float | None:
    """CPUs' worth of time: the least that any control group from this process's up to the top grants."""
    own = dict(_own_groups(root))
    limits = [
        limit
        for kind, mounted, top in _mounts(root)
        if kind in own
        for folder in _upwards(root / str(mounted).lstrip("/"), _below(own[kind], top))
        if (limit := _limit(folder)) is not None
    ]
    return min(limits, default=None)


def _own_groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Of /proc/self/cgroup: ("v2" or "v1", the process's group) where that hierarchy may limit CPU time."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield "v2", PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield "v1", PurePosixPath(path)


def _mounts(root: Path) -> Iterator[tuple[str, PurePosixPath, PurePosixPath]]:
    """Of /proc/self/mountinfo: (kind, where, which group is its top) of the hierarchies that may limit CPU time."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, tail = line.partition(" - ")
        place, about = fields.split(), tail.split()
        if len(place) < 5 or len(about) < 3:
            continue
        if about[0] == "cgroup2":
            yield "v2", PurePosixPath(place[4]), PurePosixPath(place[3])
        elif about[0] == "cgroup" and "cpu" in about[2].split(","):
            yield "v1", PurePosixPath(place[4]), PurePosixPath(place[3])


def _below(group: PurePosixPath, top: PurePosixPath) -> PurePosixPath:
    """The group's place below the mount; a container may see its own group mounted as the top."""
    return group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()


def _upwards(mounted: Path, group: PurePosixPath) -> Iterator[Path]:
    """The folder of the group, and of every one above it up to the mount."""
    yield mounted / group
    yield from (mounted / above for above in group.parents)


def _limit(folder: Path) -> float | None:
    """CPUs granted by one group, version 2 or 1; None where it sets no limit."""
    words = _text(folder / "cpu.max").split()
    if not words:
        words = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None  # "max", -1, or no such file
    return int(words[0]) / int(words[1])


def _text(path: Path) -> str:
    """A small file, empty where the system does not have it."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
