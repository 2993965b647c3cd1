"""What of a bundle to load and how to run it here: the user's wishes, then `tune`'s plan, then the thread planner."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import InputError, MissingExtraError
from corella_edge.routing.policy import AskCost
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.machine import plan as plans
from corella_edge_runtime.machine.plan import Fingerprint, Plan
from corella_edge_runtime.machine.threads import Machine, ThreadPlan, check_wishes, plan_threads, read_machine

CRM_FILE, CRM_INT8, LLM_FILE = "crm.onnx", "crm.int8.onnx", "llm.gguf"
_VARIANT = re.compile(r"llm\.([A-Za-z0-9_]+)\.gguf")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asked for; None = whatever is best here.

    Attributes:
        plan: a plan file; None = the usual place, where `tune` may have left one.
        tuned: False passes over any plan.
        deterministic: scores that are bit-equal on repeat (`LlmSettings.deterministic`).
        cpus: of how many the threads are to make do, wherever the system puts them: others use this machine, too, and
            no plan of the whole machine counts. None = the machine is this process's.
    """

    crm_threads: int | None = None
    llm_threads: int | None = None
    crm_file: str | None = None
    llm_file: str | None = None
    plan: Path | None = None
    tuned: bool = True
    deterministic: bool = False
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """The decision; `crm_cores` and the LLM's are disjoint, or both empty: wherever the system puts them.

    `cost`: what asking an LLM of this machine costs with these settings; None = not measured.
    """

    crm_file: str
    crm_threads: int
    crm_cores: tuple[int, ...]
    llm_file: str
    llm: LlmSettings
    cost: AskCost | None = None


def find_setup(bundle: Bundle, wishes: Wishes, warn: Callable[[str], None]) -> Setup:
    """The setup of a bundle on this machine.

    Raises:
        InputError: a named plan that cannot be followed; more threads than CPUs; a file that the bundle lacks.
    """
    files = bundle.manifest.files
    if wishes.llm_file is not None:
        _check_file("llm_file", wishes.llm_file, llm_files(files), "LLM")
    machine = read_machine()
    if wishes.cpus is not None:
        return without_cores(decide(wishes, None, share_of(machine, wishes.cpus)))
    here = fingerprint(machine)
    check = partial(check_plan, files=files)
    plan = plans.find(bundle.root, wishes.plan, here, check, warn) if wishes.tuned else None
    return decide(wishes, plan, machine)


def share_of(machine: Machine, cpus: int) -> Machine:
    """A machine of so many of its CPUs; the ones that are there, if they are fewer."""
    cores = [core for group in machine.physical for core in group]
    return Machine(tuple((core,) for core in cores[:cpus]), machine.quota)


def without_cores(setup: Setup) -> Setup:
    """The same threads, bound to no cores."""
    return replace(setup, crm_cores=(), llm=replace(setup.llm, cores=()))


def fingerprint(machine: Machine) -> Fingerprint:
    """What a plan made now is good for. Another build of llama.cpp may turn the order of int8 and bf16."""
    try:
        builds = {"llama.cpp's build": trust.build_contents()}
    except MissingExtraError:
        builds = {}
    return plans.fingerprint(machine.cores, machine.quota, builds)


def variants(files: Iterable[str]) -> dict[str, str]:
    """File → type of the further LLM variants among a bundle's files."""
    return {name: match.group(1) for name in sorted(files) if (match := _VARIANT.fullmatch(name))}


def llm_files(files: Collection[str]) -> list[str]:
    """Those of a bundle's files that can be its LLM."""
    return [*([LLM_FILE] if LLM_FILE in files else []), *variants(files)]


def check_plan(plan: Plan, files: Collection[str]) -> None:
    """Whether a plan can be followed with a bundle of these files, on the machine that it says it was made on.

    Raises:
        InputError: names the field and its value.
    """
    _check_file("crm.file", plan.crm.file, [name for name in (CRM_FILE, CRM_INT8) if name in files], "CRM")
    _check_room("crm", plan.crm.threads, plan.crm.cores, plan.machine.cores)
    if plan.llm is not None:
        _check_file("llm.file", plan.llm.file, llm_files(files), "LLM")
        llm = LlmSettings.from_json(plan.llm.settings, "llm.settings")
        _check_room("llm.settings", llm.threads, llm.cores, plan.machine.cores)


def _check_file(field: str, file: str, known: Collection[str], model: str) -> None:
    if file not in known:
        have = ", ".join(known) or "none"
        raise InputError(f"{field}: {file[:80]!r} is no {model} of this bundle, which has {have}")


def _check_room(field: str, threads: int, cores: Collection[int], machine: Collection[int]) -> None:
    strange = sorted(set(cores) - set(machine))
    if strange:
        raise InputError(f"{field}.cores: {strange[0]!r:.80} is not in machine.cores")
    if threads > len(machine):
        raise InputError(f"{field}.threads: {threads!r:.80} is above {len(machine)}, the CPUs in machine.cores")


def decide(wishes: Wishes, plan: Plan | None, machine: Machine) -> Setup:
    """Wishes before the plan, the plan before the planner. Threads that are wished for take the plan's cores away."""
    threads = _threads(machine, wishes)
    llm = LlmSettings(threads.llm_threads, () if threads.shared else threads.llm_cores)
    crm_threads, crm_cores = threads.crm_threads, () if threads.shared else threads.crm_cores
    cost = None
    if plan is not None:
        planned = LlmSettings.from_json(plan.llm.settings, "llm.settings") if plan.llm else llm
        free = wishes.llm_threads is None and wishes.crm_threads is None
        llm = planned if free else replace(planned, threads=llm.threads, cores=llm.cores)
        crm_threads = wishes.crm_threads or plan.crm.threads
        crm_cores = plan.crm.cores if free else crm_cores
        same = free and wishes.llm_file is None and not wishes.deterministic
        cost = AskCost(*plan.llm.ask_ms) if same and plan.llm is not None and plan.llm.ask_ms is not None else None
    return Setup(
        wishes.crm_file or (plan.crm.file if plan else CRM_FILE),
        crm_threads,
        crm_cores if llm.cores else (),
        wishes.llm_file or (plan.llm.file if plan and plan.llm else LLM_FILE),
        replace(llm, deterministic=wishes.deterministic),
        cost,
    )


def _threads(machine: Machine, wishes: Wishes) -> ThreadPlan:
    """The planner's cores; where more threads are wished for than there are, the models share all of them.

    Raises:
        InputError: more threads of one model than cores.
    """
    crm, llm = wishes.crm_threads, wishes.llm_threads
    check_wishes(machine, crm, llm)
    if (crm or 1) + (llm or 1) <= max(2, machine.limit):
        return plan_threads(machine, crm, llm)
    usual = plan_threads(machine)
    return ThreadPlan(crm or usual.crm_threads, machine.cores, llm or usual.llm_threads, machine.cores)
