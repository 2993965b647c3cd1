"""llama.cpp whose kernels really end the process, on any machine: their machine code is overwritten in a copy."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bundles import make_bundle
from corella_edge_runtime.box import cpu_flags
from corella_edge_runtime.llm.llama import build, trust
from corella_edge_runtime.llm.llama.trust import NONE, OK, PLAIN
from elf import break_functions, copy_libraries, functions

# What computes Q4_0 with extra buffer types, on any CPU; and without them.
AMX = re.compile(r"_Z\w*ggml_backend_amx_mul_mat\w*")
EXTRA = re.compile(rf"ggml_gem[mv]_q4_0_\w+|{AMX.pattern}")
PLAIN_KERNEL = re.compile(r"ggml_vec_dot_q4_0_q8_0")
# The vocabulary is read here, although nothing is computed.
ELSEWHERE = ("--require-llm", "--llm-backend", "vllm+http://127.0.0.1:9")

Break = Callable[..., dict[str, str]]


@pytest.fixture
def broken(tmp_path: Path) -> Break:
    """broken(regex, …): an environment in which llama.cpp's matching functions are illegal instructions."""

    def make(*wanted: re.Pattern[str]) -> dict[str, str]:
        library = build.kernels()
        assert library is not None
        folder = copy_libraries(library.parent, tmp_path / "lib")
        names = [name for name in functions(library) if any(pattern.fullmatch(name) for pattern in wanted)]
        assert len(names) >= len(wanted)
        break_functions(folder / library.name, names)
        return {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder), "XDG_STATE_HOME": str(tmp_path / "state")}

    return make


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its LLM is Q4_0, with an output matrix in Q6_K."""
    return make_bundle(tmp_path_factory.mktemp("computing") / "bundle", llm_type="Q4_0")


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"user": {"id": "u1"}, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": "ratio:1"}\n')
    return path


def corella(environment: dict[str, str], *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corella_edge", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def reasons(out: Path) -> set[str]:
    return {row["reason"] for line in out.read_text().splitlines() for row in json.loads(line)["candidates"]}


def kept(environment: dict[str, str]) -> dict[str, str]:
    """Type → verdict, in the state folder."""
    files = (Path(environment["XDG_STATE_HOME"]) / "corella-edge" / "llama.cpp").iterdir()
    found = [json.loads(path.read_text()) for path in files]
    return {entry["type"]: entry["kernels"] for entry in found}


def without_amx(verdict: str) -> str:
    """`verdict`, except on a CPU with AMX, whose one matrix product computes more types than Q4_0."""
    library = build.kernels()
    assert library is not None
    used = "amx_int8" in cpu_flags() and any(AMX.fullmatch(name) for name in functions(library))
    return PLAIN if used else verdict


def test_this_machine_computes() -> None:
    found = trust.judge_each(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_NL"], afresh=True)
    assert {kind: (verdict.kernels, verdict.why) for kind, verdict in found.items()} == dict.fromkeys(found, (OK, ""))
    assert {verdict.variant for verdict in found.values()} == {build.variant(build.kernels())}


def test_without_the_faster_kernels_everything_answers(broken: Break, bundle: Path, requests: Path) -> None:
    environment, out = broken(EXTRA), requests.with_name("out.jsonl")
    done = corella(environment, "score", bundle, requests, "--out", out)
    assert done.returncode == 0
    assert "Q4_0: ended by SIGILL (illegal instruction)" in done.stderr
    assert "faster kernels (AMX, repacked weights) are left out" in done.stderr
    assert reasons(out) == {"ratio"}
    done = corella(environment, "verify", bundle)
    assert (done.returncode, done.stderr) == (0, "")
    done = corella(environment, "score", bundle, requests, "--llm-backend", "process", "--require-llm", "--out", "-")
    assert done.returncode == 0
    assert '"reason":"ratio"' in done.stdout
    assert kept(environment) == {"Q4_0": PLAIN, "Q6_K": without_amx(OK)}


@pytest.mark.slow
def test_without_any_kernel_the_crm_is_alone_and_says_so(broken: Break, bundle: Path, requests: Path) -> None:
    environment, out = broken(EXTRA, PLAIN_KERNEL), requests.with_name("out.jsonl")
    done = corella(environment, "score", bundle, requests, "--out", out)
    assert done.returncode == 0
    assert "llm.gguf: the installed llama.cpp does not compute here: Q4_0: ended by SIGILL" in done.stderr
    assert "the CRM decides alone" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "warning" in line]) == 1
    assert reasons(out) == {"no_llm"}
    for args in (
        ("verify", bundle),
        ("score", bundle, requests, "--require-llm", "--out", "-"),
        ("score", bundle, requests, "--require-llm", "--llm-backend", "process", "--out", "-"),
        ("serve", bundle, "--require-llm", "--port", "0"),
        ("benchmark", bundle, "--require-llm"),
    ):
        done = corella(environment, *args)
        assert done.returncode == 7, (args, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (args, done.stderr)
        assert "SIGILL (illegal instruction); build a wheel with `corella-edge wheel" in done.stderr
    done = corella(environment, "tune", bundle, "--seconds", "0", "--plan", requests.with_name("plan.json"))
    assert done.returncode == 0
    assert "only the CRM is tuned" in done.stderr
    assert kept(environment) == {"Q4_0": NONE, "Q6_K": without_amx(OK)}


@pytest.mark.slow
def test_what_would_end_whoever_loads_it_ends_no_command(
    broken: Break, bundle: Path, requests: Path, tmp_path: Path
) -> None:
    """As a build for another CPU does, which is mostly killed before anything is computed."""
    environment, out = broken(re.compile("ggml_backend_init|ggml_cpu_init")), tmp_path / "out"
    commands = [("score", bundle, requests, *ELSEWHERE, "--out", out)]
    if find_spec("torch"):
        commands += [(name, "ml-1m-tiny", "--data", tmp_path, "--out", out) for name in ("train", "study")]
    for args in commands:
        done = corella(environment, *args)
        assert done.returncode == 7, (args, done.returncode, done.stderr)
        assert len(done.stderr.splitlines()) == 1, (args, done.stderr)
        assert "F16: ended by SIGILL (illegal instruction); build a wheel with `corella-edge wheel" in done.stderr
        assert not out.exists()
    assert kept(environment) == {"F16": NONE}  # found out once
    done = corella(environment, "doctor")
    assert done.returncode == 1
    assert "llama-cpp-python is built for another CPU, or damaged: loading it ended by SIGILL" in done.stdout


def test_a_library_that_is_not_there_is_one_line(bundle: Path, requests: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    done = corella(environment, "score", bundle, requests, *ELSEWHERE, "--out", tmp_path / "out")
    assert done.returncode == 7, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "the installed llama.cpp cannot be loaded: " in done.stderr
    assert not (tmp_path / "state").exists()  # it may be there next time


def test_doctor_finds_it_by_computing(broken: Break) -> None:
    done = corella(broken(EXTRA, PLAIN_KERNEL), "doctor")
    assert done.returncode == 1
    assert "llama.cpp computes not here: Q4_0" in done.stdout
    right = "BF16" if without_amx(OK) == PLAIN else "F16, BF16"
    assert f"llama.cpp computes right: {right}" in done.stdout
    assert "problem: the installed llama.cpp does not compute here: Q4_0: ended by SIGILL" in done.stdout


@pytest.mark.parametrize("command", ["demo", "export"])
def test_what_takes_minutes_says_so_first(command: str, broken: Break, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    environment = broken(re.compile("ggml_vec_dot_q8_0_q8_0"))
    out = tmp_path / "out"
    done = corella(environment, command, *(["run"] if command == "export" else []), "--out", out)
    assert done.returncode == 7
    assert len(done.stderr.splitlines()) == 1
    assert "Q8_0: ended by SIGILL" in done.stderr
    assert not out.exists()
