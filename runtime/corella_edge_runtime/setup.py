"""What of a bundle to load and how to run it here: the user's wishes, then `tune`'s plan, then the thread planner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from corella_edge import plan as plans
from corella_edge.plan import Plan
from corella_edge_runtime.llm.settings import LlmSettings
from corella_edge_runtime.threads import Machine, ThreadPlan, plan_threads, read_machine

CRM_FILE, LLM_FILE = "crm.onnx", "llm.gguf"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asked for; None = whatever is best here.

    Attributes:
        plan: a plan file; None = the usual place, where `tune` may have left one.
        tuned: False passes over any plan.
        deterministic: scores that are bit-equal on repeat (`LlmSettings.deterministic`).
    """

    crm_threads: int | None = None
    llm_threads: int | None = None
    crm_file: str | None = None
    llm_file: str | None = None
    plan: Path | None = None
    tuned: bool = True
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class Setup:
    """The decision; `crm_cores` and the LLM's are disjoint, or both empty: wherever the system puts them."""

    crm_file: str
    crm_threads: int
    crm_cores: tuple[int, ...]
    llm_file: str
    llm: LlmSettings


def find_setup(bundle: Path, wishes: Wishes, warn: Callable[[str], None]) -> Setup:
    """The setup of the bundle in folder `bundle` on this machine.

    Raises:
        InputError: a plan that can not be read or is another bundle's.
    """
    machine = read_machine()
    here = plans.fingerprint(machine.cores, machine.quota)
    plan = plans.find(bundle, wishes.plan, here, warn) if wishes.tuned else None
    return decide(wishes, plan, machine)


def decide(wishes: Wishes, plan: Plan | None, machine: Machine) -> Setup:
    """Wishes before the plan, the plan before the planner. Threads that are wished for take the plan's cores away."""
    threads = _threads(machine, wishes)
    llm = LlmSettings(threads.llm_threads, () if threads.shared else threads.llm_cores)
    crm_threads, crm_cores = threads.crm_threads, () if threads.shared else threads.crm_cores
    if plan is not None:
        planned = LlmSettings.from_json(plan.llm, "the plan's LLM settings") if plan.llm_file else llm
        free = wishes.llm_threads is None and wishes.crm_threads is None
        llm = planned if free else replace(planned, threads=llm.threads, cores=llm.cores)
        crm_threads = wishes.crm_threads or plan.crm_threads
        crm_cores = plan.crm_cores if free else crm_cores
    return Setup(
        wishes.crm_file or (plan.crm_file if plan else CRM_FILE),
        crm_threads,
        crm_cores if llm.cores else (),
        wishes.llm_file or (plan.llm_file if plan and plan.llm_file else LLM_FILE),
        replace(llm, deterministic=wishes.deterministic),
    )


def _threads(machine: Machine, wishes: Wishes) -> ThreadPlan:
    """The planner's cores; where more threads are wished for than there are, the models share all of them."""
    crm, llm = wishes.crm_threads, wishes.llm_threads
    if (crm or 1) + (llm or 1) <= max(2, machine.limit):
        return plan_threads(machine, crm, llm)
    usual = plan_threads(machine)
    return ThreadPlan(crm or usual.crm_threads, machine.cores, llm or usual.llm_threads, machine.cores)
