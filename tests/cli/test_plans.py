"""Plans and numbers of threads that cannot be followed: who named one is told, who named none is served."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from corella_edge.errors import InputError
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.machine import plan as plans
from corella_edge_runtime.machine.plan import Plan, PlanBundle, PlanCrm, PlanLlm
from corella_edge_runtime.machine.threads import read_machine
from corella_edge_runtime.setup import fingerprint
from sessions import serving, start

CPUS = len(os.sched_getaffinity(0))
Change = Callable[[Plan], Plan]


def settings(**values: Any) -> Change:
    return lambda plan: replace(plan, llm=replace(plan.llm, settings={**plan.llm.settings, **values}))


def part(model: str, **values: Any) -> Change:
    return lambda plan: replace(plan, **{model: replace(getattr(plan, model), **values)})


DAMAGED: list[tuple[Change, str]] = [
    (part("llm", file="llm.Q4_0.gguf"),
     "llm.file: 'llm.Q4_0.gguf' is no LLM of this bundle, which has llm.gguf"),
    (part("llm", file="crm.onnx"), "llm.file: 'crm.onnx' is no LLM of this bundle"),
    (part("crm", file="llm.gguf"),
     "crm.file: 'llm.gguf' is no CRM of this bundle, which has crm.onnx"),
    (part("crm", file="crm.fp8.onnx"), "crm.file: 'crm.fp8.onnx' is no CRM of this bundle"),
    (part("crm", threads=5000), f"crm.threads: 5000 is above {CPUS}, the CPUs in machine.cores"),
    (settings(threads=5000), f"llm.settings.threads: 5000 is above {CPUS}, the CPUs in machine.cores"),
    (settings(batch=10**9), "llm.settings.batch: 1000000000 is above 8192"),
    (settings(sequences=0), "llm.settings.sequences: 0 is below 1"),
]  # fmt: skip


def plan_of(bundle: Path) -> Plan:
    """A good plan, on this machine."""
    machine = read_machine()
    here = fingerprint(machine)
    core = machine.cores[:1]
    return Plan(
        format_version=1, bundle=PlanBundle(plans.bundle_key(bundle), "tiny@1"), created="", machine=here,
        crm=PlanCrm("crm.onnx", 1, core), llm=PlanLlm("llm.gguf", LlmSettings().to_json()), table=(),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def score(corella, bundle, requests, tmp_path) -> Any:
    out = tmp_path / "scores.jsonl"
    return lambda *more: corella("score", bundle, requests, "--out", out, "--threshold", "ratio:1", *more)


def routed(tmp_path: Path) -> int:
    """Candidates that the LLM has scored."""
    answers = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    return sum(candidate["routed"] for answer in answers for candidate in answer["candidates"])


@pytest.mark.parametrize(("change", "problem"), DAMAGED)
def test_a_named_plan_that_can_not_be_followed_is_refused(score, bundle, tmp_path, change, problem) -> None:
    path = tmp_path / "named.json"
    plans.write(change(plan_of(bundle)), path)
    done = score("--plan", path)
    assert done.code == 2
    assert done.err.startswith(f"corella-edge: {path}: {problem}")
    assert done.err.endswith("; remove it or run `corella-edge tune` again\n")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "scores.jsonl").exists()


@pytest.mark.parametrize(("change", "problem"), DAMAGED)
def test_one_in_the_usual_place_is_passed_over_and_both_models_run(score, bundle, tmp_path, change, problem) -> None:
    path = plans.default_path(plans.bundle_key(bundle))
    plans.write(change(plan_of(bundle)), path)
    done = score()
    assert done.code == 0
    warning = next(line for line in done.err.splitlines() if "warning" in line)
    assert warning.startswith(f"corella-edge: warning: no plan is used: {path}: {problem}")
    assert warning.endswith("; remove it or run `corella-edge tune` again")
    assert routed(tmp_path) > 0


def test_a_server_starts_without_the_damaged_plan_and_says_which(bundle, rows) -> None:
    path = plans.default_path(plans.bundle_key(bundle))
    plans.write(settings(sequences=0)(plan_of(bundle)), path)
    with serving(start("serve", bundle, "--port", 0, "--threshold", "ratio:1")) as served:
        answer = httpx.post(served.url + "/v1/rank", json=rows[0]["request"], timeout=30).json()
    assert served.says(f"warning: no plan is used: {path}: llm.settings.sequences: 0 is below 1; remove it")
    assert any(candidate["routed"] for candidate in answer["candidates"])


def test_a_plan_of_another_build_of_llama_cpp_is_passed_over(score, bundle, tmp_path, monkeypatch) -> None:
    """Of the same version: what another compiler made of it may be quicker with another type."""
    plans.write(plan_of(bundle), plans.default_path(plans.bundle_key(bundle)))
    monkeypatch.setattr(trust, "build_contents", lambda: "0.3.36 another")
    done = score()
    assert done.code == 0
    assert "now it is 0.3.36 another; run `corella-edge tune` again" in done.err


def test_the_good_plan_is_followed_without_a_word(score, bundle, tmp_path) -> None:
    plans.write(plan_of(bundle), tmp_path / "named.json")
    done = score("--plan", tmp_path / "named.json")
    assert done.code == 0
    assert "warning" not in done.err
    assert routed(tmp_path) > 0


@pytest.mark.parametrize("option", ["--crm-threads", "--llm-threads"])
def test_more_threads_than_cpus_are_refused_by_the_options_name(score, tmp_path, option) -> None:
    done = score(option, CPUS + 1)
    assert done.code == 2
    message = f"'{option}': {CPUS + 1} is above {CPUS}, the CPUs that this process may run on; ask for fewer"
    assert message in done.err
    assert not (tmp_path / "scores.jsonl").exists()
    assert score(option, CPUS).code == 0


@pytest.mark.parametrize("command", [("verify", "b"), ("evaluate", "b", "--data", "d"), ("export", "r", "--out", "o")])
def test_every_command_bounds_the_threads_of_the_llm(corella, command) -> None:
    done = corella(*command, "--llm-threads", 5000)
    assert done.code == 2
    assert f"'--llm-threads': 5000 is above {CPUS}, the CPUs" in done.err


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"crm_threads": 5000}, f"threads of the CRM: 5000 is above {CPUS}, the CPUs that this process may run on"),
        ({"llm_threads": 5000}, f"threads of the LLM: 5000 is above {CPUS}, the CPUs that this process may run on"),
        ({"llm_file": "llm.Q4_0.gguf"}, "llm_file: 'llm.Q4_0.gguf' is no LLM of this bundle, which has llm.gguf"),
    ],
)
def test_an_engine_refuses_what_it_can_not_give(bundle: Path, wish: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Engine.open(bundle, tuned=False, **wish)
