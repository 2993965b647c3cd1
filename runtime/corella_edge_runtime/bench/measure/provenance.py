"""What was benchmarked, on what, and whether the machine was ours. Names no host and no path."""

from __future__ import annotations

import sys
import time
from collections import Counter

from corella_edge.bundle.artefact import MANIFEST, Bundle, sha256
from corella_edge_runtime import reference
from corella_edge_runtime.bench.measure import machine
from corella_edge_runtime.bench.measure.ceiling import matrices
from corella_edge_runtime.bench.results import circumstances as forms
from corella_edge_runtime.bench.results.circumstances import Noise, Quiet, Verified
from corella_edge_runtime.box import memory_limit
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.machine.threads import read_machine

LIMIT = 0.05  # of the usable cores' time: above it, what is measured is not this machine's
LISTENED = 1.0  # seconds before the run
SHOWN = 3  # problems of a parity gate


def bundle_of(bundle: Bundle, engine: Engine | None) -> forms.BundleFacts:
    """The bundle, and which LLM of it answers."""
    label, manifest = bundle.label, sha256(bundle.path(MANIFEST))
    if engine is None:
        return forms.BundleFacts(label=label, manifest_sha256=manifest, llm=bundle.prompt() is not None,
                            policy=bundle.routing().threshold, fusion=bundle.fusion().rule)  # fmt: skip
    found, kinds = matrices(engine), Counter[str]()
    for _, kind, size in found:
        kinds[kind] += size
    return forms.BundleFacts(
        label=label, manifest_sha256=manifest, llm=engine.llm is not None,
        llm_file=engine.setup.llm_file if engine.setup and engine.llm else None,
        llm_type=kinds.most_common(1)[0][0] if kinds else None, llm_parameters=sum(kinds.values()) or None,
        policy=engine.written, fusion=engine.fusion.rule,
    )  # fmt: skip


def machine_here() -> forms.MachineFacts:
    """This machine."""
    found = machine.machine()
    return forms.MachineFacts(**found, governor=machine.governor(), cgroup_cpus=read_machine().quota,
                         cgroup_memory_bytes=memory_limit())  # fmt: skip


def software(engine: Engine | None) -> forms.Software:
    """Versions, and how llama.cpp was built, if this process has it."""
    build = sys.modules.get("corella_edge_runtime.llm.llama.build")
    facts = build.facts() if build is not None and engine is not None and engine.llm is not None else {}
    sets = facts.get("features")
    return forms.Software(
        versions=machine.versions(), llama_cpp_compiler=facts.get("compiler") or None,
        llama_cpp_instructions=" ".join(sets) if sets else None,
        provider=engine.crm.provider if engine is not None else None,
    )  # fmt: skip


def threads(engine: Engine | None) -> forms.Threads:
    """Of each model, and which cores they are bound to."""
    if engine is None or engine.setup is None:
        return forms.Threads(source="of the server" if engine is None else "as the engine was opened")
    setup = engine.setup
    bound = f"cores {_cores(setup.crm_cores)} and {_cores(setup.llm.cores)}" if setup.llm.cores else "bound to no cores"
    return forms.Threads(crm=setup.crm_threads, llm=setup.llm.threads if engine.llm else None, source=bound)


def _cores(cores: tuple[int, ...]) -> str:
    return ",".join(map(str, cores))


def listen(seconds: float = LISTENED, foreign: bool = True) -> Noise:
    """What others do while we do nothing."""
    before = machine.ticks(whole=True)
    time.sleep(seconds)
    return noise(before, foreign)


def noise(before: machine.Ticks, foreign: bool = True) -> Noise:
    """Since then. `foreign`: whether what is not this process's can be told from what is measured."""
    found = machine.disturbance(before, machine.ticks(whole=True))
    return Noise(foreign=found["foreign"] if foreign else None, steal=found["steal"])


def quiet(before: Noise, during: Noise) -> Quiet:
    """The verdict."""
    reasons = [
        f"{what} took {share:.0%} of the cores' time {when}"
        for when, found in (("before the run", before), ("during the run", during))
        for what, share in (("other processes", found.foreign), ("other virtual machines (steal)", found.steal))
        if share is not None and share > LIMIT
    ]
    return Quiet(before=before, during=during, noisy=bool(reasons), reasons=tuple(reasons))


def verified(engine: Engine) -> Verified:
    """`corella-edge verify`'s check of the scores. Raises BundleError: the reference is damaged."""
    if not engine.bundle.has(reference.FILE):
        return Verified(passed=None, why=f"the bundle has no {reference.FILE}")
    found = reference.compare(engine)
    return judged(found.rows, found.problems)


def judged(rows: int, problems: list[str]) -> Verified:
    """The verdict on so many rows, with the first problems."""
    more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
    return Verified(passed=not problems, rows=rows, why="; ".join(problems[:SHOWN]) + more)
