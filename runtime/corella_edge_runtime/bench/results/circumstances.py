"""Under what circumstances a benchmark ran: what, on which machine, with which settings, and what bounds it.

Forms of `benchmark.json` (`result`): plain values. Shares are from 0 to 1; `None` is what could not be had.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Scenario = Literal["single", "server", "offline"]
Routing = Literal["policy", "random"]
Users = Literal["new", "returning"]


class Figure(msgspec.Struct, frozen=True):
    """A figure and its 95 % interval; low and high are None where one measurement says nothing of its spread."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class BundleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        label: `name@version`.
        manifest_sha256: of manifest.json, which has the hash of every file; None over HTTP, where only the label shows.
        llm: whether an LLM answered; `llm_file` and `llm_type` say which of the bundle's, such as Q8_0.
        policy: the bundle's own threshold as written, and `fusion` its rule.
    """

    label: str
    manifest_sha256: str | None = None
    llm: bool = False
    llm_file: str | None = None
    llm_type: str | None = None
    llm_parameters: int | None = None
    policy: str = ""
    fusion: str = ""


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests were sent.

    Attributes:
        source: in words: the bundle's sample, a file's name, generated users.
        sha256: of all requests as they were sent, in their order.
        requests, users: how many different ones.
        candidates: of a request, in the mean.
        labelled_rows: rows that quality was measured on.
    """

    source: str
    sha256: str
    requests: int
    users: int
    candidates: float
    labelled_rows: int = 0


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where it ran. Names no host and no path.

    Attributes:
        cores: usable by the process; `cgroup_cpus` and `cgroup_memory_bytes` are limits of its control group.
        governor: of the CPU's clock, such as `performance`; None where the system does not tell.
    """

    cpu: str
    cores: int
    memory_bytes: int
    architecture: str
    os: str
    kernel: str
    governor: str | None = None
    cgroup_cpus: float | None = None
    cgroup_memory_bytes: int | None = None


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """What ran.

    Attributes:
        versions: of Python and packages, by name.
        llama_cpp_compiler, llama_cpp_instructions: of the library in use; None where no LLM is in this process.
        provider: ONNX Runtime's, that was really used.
    """

    versions: dict[str, str]
    llama_cpp_compiler: str | None = None
    llama_cpp_instructions: str | None = None
    provider: str | None = None


class Threads(msgspec.Struct, frozen=True, kw_only=True):
    """Threads of each model, and whence they come: a plan of `tune`, options, or the machine's number of cores."""

    crm: int | None = None
    llm: int | None = None
    source: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for.

    Attributes:
        thresholds: in the form that `serve` takes, one for each point of the curve, rising.
        slo: such as `p99=30ms`; None = no objective.
        budget_s: seconds for all timed runs together.
        repeats: of each point.
        transport: `process`, or `http` over `url`.
    """

    thresholds: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    users: tuple[Users, ...]
    candidates: int
    slo: str | None = None
    budget_s: float = 0.0
    repeats: int = 1
    seed: int = 0
    transport: Literal["process", "http"] = "process"
    url: str | None = None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The parity gate: `corella-edge verify`'s check, before anything is timed.

    Attributes:
        passed: None where it could not be made; `why` says why, or what failed.
    """

    passed: bool | None
    rows: int = 0
    why: str = ""


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """Who else used the machine, as shares of the usable cores' time.

    Attributes:
        foreign: other processes'; None where what is measured is a process of somebody else's (`http`).
        steal: other virtual machines'.
    """

    foreign: float | None = 0.0
    steal: float = 0.0


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the machine was ours.

    Attributes:
        before: over a stretch before the run in which nothing was measured.
        during: over the whole run.
        noisy: a limit was passed; `reasons` says which, a sentence each.
    """

    before: Noise
    during: Noise
    noisy: bool
    reasons: tuple[str, ...] = ()


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What no serving code on this machine can beat, measured first.

    Attributes:
        crm_ms: one bare `session.run` of `crm_candidates`.
        llm_tokens_per_s: whole prompts of `llm_prompt_tokens`, read one after another by the file in use.
        multiply_gflops: float32 matrix multiply by numpy, thousand millions of operations a second;
            `llm_gflops` what the LLM's reading comes to, two for each weight of its blocks and each token.
    """

    crm_ms: float | None = None
    crm_candidates: int = 0
    llm_tokens_per_s: float | None = None
    llm_prompt_tokens: float | None = None
    multiply_gflops: float | None = None
    llm_gflops: float | None = None
