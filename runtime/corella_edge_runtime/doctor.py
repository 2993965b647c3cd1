"""What is installed, whether it loads, and whether llama.cpp computes on this CPU. Works without any extra."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from corella_edge.errors import installing
from corella_edge_runtime.box import cpu_flags, cpu_model
from corella_edge_runtime.llm.contract import endings
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.llm.llama.trust import Verdict
from corella_edge_runtime.machine.threads import Machine, ThreadPlan

# CPU flag in /proc/cpuinfo → llama.cpp's name of the same instructions (x86-64, then aarch64).
INSTRUCTIONS = {
    "avx": "AVX", "avx2": "AVX2", "f16c": "F16C", "fma": "FMA", "bmi2": "BMI2", "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512", "avx512vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON", "asimdhp": "FP16_VA", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8", "sve": "SVE",
}  # fmt: skip
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+).*?;.*?extra\s*==\s*['\"]([\w-]+)['\"]")
# Asked in processes of their own: a library built for another CPU kills the process that loads it.
_ASK = {
    "onnxruntime": "import json, corella_edge_runtime.crm as c; print(json.dumps(c.ort.get_available_providers()))",
    "llama-cpp-python": "import runpy; runpy.run_module('corella_edge_runtime.llm.llama.build', run_name='__main__')",
}
PATIENCE = 180.0  # seconds for a library to be loaded, on a machine that may be busy
VersionOf = Callable[[str], str | None]
Judge = Callable[[Sequence[str]], Mapping[str, Verdict]]
# What export writes by default and what people ask it for.
COMMON_TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K")


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra and its packages, each with the installed version or None."""

    name: str
    packages: dict[str, str | None]

    @property
    def missing(self) -> list[str]:
        return [name for name, found in self.packages.items() if found is None]


def extras(lines: Sequence[str], find: VersionOf) -> list[Extra]:
    """The extras that a distribution's requirements name, in their order; [dev] is left out."""
    found: dict[str, Extra] = {}
    for line in lines:
        if match := _REQUIREMENT.match(line):
            package, extra = match.groups()
            if extra != "dev":
                found.setdefault(extra, Extra(extra, {})).packages[package] = find(package)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a library said of itself when it was loaded, or why it could not be.

    `build`: of llama.cpp, what `llm.build.facts` tells beside that.
    """

    said: list[str]
    problem: str = ""
    build: Mapping[str, Any] = field(default_factory=dict)


def load(package: str, command: Sequence[str] = ()) -> Loaded:
    """Load a library in a process of its own. `command` replaces it, for tests."""
    # -P: no module of the working directory comes before the installed ones.
    asked = [*(command or (sys.executable, "-P", "-c", _ASK[package]))]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env={**os.environ, **trust.EXPENDABLE})  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Loaded([], f"{package} does not load: {str(error).splitlines()[0][:200]}")
    if endings.crashed(done.returncode):
        why = endings.words(done.returncode)
        return Loaded([], f"{package} is built for another CPU, or damaged: loading it {why}; reinstall it here")
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Loaded([], f"{package} is installed but does not load: {why[:200]}")
    found = json.loads(done.stdout.splitlines()[-1])
    build = found if isinstance(found, dict) else {"features": found}
    return Loaded([str(entry) for entry in build["features"]], build=build)


def unused(flags: set[str], built: Sequence[str]) -> list[str]:
    """llama.cpp's names of instructions that the CPU has and the build does not use."""
    # AVX-512's form of them does more at once.
    used = {*built, "AVX_VNNI"} if "AVX512_VNNI" in built else set(built)
    return [name for flag, name in INSTRUCTIONS.items() if flag in flags and name not in used]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Lines to print; `problems` are those that keep something installed from working. `facts`: the same as data.

    `verdict` is what this install can do, `next` the step to take, in one sentence each; `optional` names missing
    extras that serving does not need, with what each is for.
    """

    lines: list[str]
    problems: list[str]
    facts: Mapping[str, Any]
    verdict: str
    next: str
    optional: list[str]

    def to_json(self) -> dict[str, Any]:
        """Everything but the lines, as JSON-ready values."""
        told = {"verdict": self.verdict, "next": self.next, "optional": self.optional}
        return {**self.facts, "problems": self.problems, **told}


def judged(kinds: Sequence[str]) -> Mapping[str, Verdict]:
    """By a self-test now, whatever was found before."""
    return trust.judge_each(kinds, afresh=True)


def examine(find: VersionOf = version_of, ask: Callable[[str], Loaded] = load, judge: Judge = judged) -> Diagnosis:
    """Look at the install, load what serving needs, and let llama.cpp compute."""
    known = extras(requires("corella-edge") or [], find)
    installed = {name: found for extra in known for name, found in extra.packages.items() if found}
    problems: list[str] = []
    facts: dict[str, Any] = {
        "version": find("corella-edge"), "python": platform.python_version(), "machine": platform.machine(),
        "cpu": cpu_model(), "extras": {extra.name: extra.packages for extra in known},
        "onnxruntime": None, "llama_cpp": None,
    }  # fmt: skip
    lines = [f"corella-edge {facts['version']}, Python {facts['python']}, {facts['machine']}",
             f"CPU: {facts['cpu']}", "extras:", *_extra_lines(known)]  # fmt: skip
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        problems.append("onnxruntime and onnxruntime-gpu are both installed, but share a folder: "
                        "pip uninstall both, then install the one you want")  # fmt: skip
    if {"onnxruntime", "onnxruntime-gpu"} & installed.keys():
        found = ask("onnxruntime")
        facts["onnxruntime"] = {"providers": found.said}
        lines += [f"ONNX Runtime: {', '.join(found.said)}"] if found.said else []
        problems += [found.problem] if found.problem else []
    if "llama-cpp-python" in installed:
        found = ask("llama-cpp-python")
        problems += [found.problem] if found.problem else []
        if not found.problem:
            verdicts = judge(COMMON_TYPES)
            facts["llama_cpp"] = {**found.build, "kernels": {kind: found.kernels for kind, found in verdicts.items()}}
            lines += [*_llama_lines(found, cpu_flags()), *_verdict_lines(verdicts)]
            problems += list(dict.fromkeys(verdict.sentence for verdict in verdicts.values() if verdict.sentence))
    return Diagnosis(lines, problems, facts, *_judged(known, len(problems)), _optional(known))


def _judged(known: Sequence[Extra], problems: int) -> tuple[str, str]:
    """The verdict and the next step, by what is installed and whether it works."""
    if problems:
        return (
            f"{problems} problem(s) keep something installed from working",
            "mend what is named above, then run doctor again",
        )
    whole = {extra.name for extra in known if not extra.missing}
    if not whole & {"cpu", "gpu"}:
        return "nothing can be scored yet: ONNX Runtime, which runs the base model (CRM), is missing", installing("cpu")
    for extra, able in _ABLE.items():
        if extra not in whole:
            return able, "corella-edge verify BUNDLE" if extra in _OPTIONAL else installing(extra)
    return "ready to score, to serve and to train", "corella-edge demo"


# Extra, in the order in which people need them → what can be done as long as it is missing.
_ABLE = {
    "llm": "ready to score with the base model (CRM) alone; the LLM cannot be asked",
    "serve": "ready to score with both models, but not to serve over HTTP",
    "report": "ready to score and to serve, but not to evaluate or train",
    "export": "ready to score, to serve and to evaluate, but not to train",
}

# Extra → what it is for, of those that serving does not need.
_OPTIONAL = {
    "report": "to evaluate, and for plots", "sign": "to sign bundles and check signatures", "export": "to train",
    "build": "to build llama.cpp", "parquet": "to score Parquet", "ray": "to score on a Ray cluster",
    "text": "to make text vectors of new items",
}  # fmt: skip


def _optional(known: Sequence[Extra]) -> list[str]:
    return [f"[{extra.name}] {_OPTIONAL[extra.name]}" for extra in known if extra.missing and extra.name in _OPTIONAL]


def _extra_lines(known: Sequence[Extra]) -> Iterator[str]:
    whole = {extra.name for extra in known if not extra.missing}
    for extra in known:
        have = ", ".join(f"{name} {found}" for name, found in extra.packages.items() if found)
        missing = f"missing: {', '.join(extra.missing)}; {installing(extra.name)}"
        # The packages of these two share a folder: nobody is told to install the second.
        if extra.missing and {"cpu": "gpu", "gpu": "cpu"}.get(extra.name) in whole:
            missing = "not installed; one of [cpu] and [gpu] is enough"
        yield f"  {f'[{extra.name}]':<9}" + "; ".join([have] * bool(have) + [missing] * bool(extra.missing))


def _llama_lines(found: Loaded, flags: set[str]) -> Iterator[str]:
    variant, compiler = found.build.get("variant"), found.build.get("compiler")
    if variant:
        kind = "one library for all" if variant == "single" else f"the library for {variant}"
        yield f"llama.cpp computes with {kind}" + (f", compiled by {compiler}" if compiler else "")
    yield f"llama.cpp is built with: {', '.join(found.said)}"
    # A build for every kind of CPU has taken its best library for this one; another build would not do more.
    if variant in (None, "single") and (lacking := unused(flags, found.said)):
        yield f"  this CPU also has {', '.join(lacking)}, which the build does not use: prompts are read more slowly."
        yield f"  To use them, {trust.REMEDY}"


def _verdict_lines(verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    """By what was computed, of each type."""
    words = {trust.OK: "right", trust.PLAIN: "right without AMX and repacked weights", trust.NONE: "not here"}
    for kernels, text in words.items():
        if kinds := [kind for kind, verdict in verdicts.items() if verdict.kernels == kernels]:
            yield f"llama.cpp computes {text}: {', '.join(kinds)}"


def thread_lines(machine: Machine, plan: ThreadPlan) -> Iterator[str]:
    """The machine's readings, the plan, and its reasons."""
    yield "threads:"
    yield f"  usable cores: {ranges(machine.cores)} ({len(machine.physical)} physical)"
    yield f"  CPU quota: {'none' if machine.quota is None else f'{machine.quota:g} CPUs'}"
    yield f"  CRM (ONNX Runtime): {plan.crm_threads} thread(s) on core(s) {ranges(plan.crm_cores)}"
    yield f"  LLM (llama.cpp): {plan.llm_threads} thread(s) on core(s) {ranges(plan.llm_cores)}"
    yield from (f"  because {reason}" for reason in plan.reasons)


def ranges(cores: Sequence[int]) -> str:
    """0, 1, 2, 5 → `0-2,5`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
