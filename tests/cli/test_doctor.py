"""`corella-edge doctor`: what it says of installs that are whole, partial and broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime import doctor
from corella_edge_runtime.doctor import Loaded, examine, extras, load, ranges, unused
from corella_edge_runtime.llm import build

WHOLE = {"corella-edge": "1", "onnxruntime": "1.20", "llama-cpp-python": "0.3.36", "starlette": "1", "uvicorn": "1"}


def examined(versions: dict[str, str], said: dict[str, Loaded] | None = None) -> tuple[str, list[str]]:
    """Lines and problems of an install with these packages, whose libraries answer what `said` says."""
    found = examine(versions.get, lambda package: (said or {}).get(package, Loaded(["all"])))
    return "\n".join(found.lines), found.problems


def test_this_install(corella) -> None:
    done = corella("doctor", "--threads")
    assert (done.code, done.err) == (0, "")
    assert f"onnxruntime {doctor.version_of('onnxruntime')}" in done.out
    assert "ONNX Runtime: " in done.out
    assert "CPUExecutionProvider" in done.out
    assert "llama.cpp is built with: " in done.out
    assert "LLM (llama.cpp): " in done.out
    assert "dev" not in done.out
    assert "threads" not in corella("doctor").out


def test_without_any_extra_it_names_them_and_ends_well() -> None:
    text, problems = examined({"corella-edge": "1"})
    assert problems == []
    for extra, package in (("cpu", "onnxruntime"), ("llm", "llama-cpp-python"), ("export", "torch")):
        assert f"pip install 'corella-edge[{extra}]'" in text
        assert package in text
    assert "llama.cpp is built" not in text
    assert "ONNX Runtime:" not in text


def test_nobody_with_one_onnxruntime_is_told_to_install_the_other() -> None:
    text, problems = examined(WHOLE)
    assert problems == []
    assert "corella-edge[gpu]" not in text
    assert "one of [cpu] and [gpu] is enough" in text
    _, problems = examined({**WHOLE, "onnxruntime-gpu": "1.20"})
    assert len(problems) == 1
    assert "share a folder" in problems[0]


def test_what_is_installed_but_does_not_load_is_a_problem(corella, monkeypatch) -> None:
    broken = Loaded([], "llama-cpp-python is installed but does not load: no libgomp")
    text, problems = examined(WHOLE, {"llama-cpp-python": broken})
    assert problems == [broken.problem]
    assert "llama.cpp is built" not in text
    monkeypatch.setattr(doctor.examine, "__defaults__", (doctor.version_of, lambda package: broken))
    done = corella("doctor")
    assert done.code == 1
    assert "problem: llama-cpp-python is installed but does not load: no libgomp" in done.out
    assert done.err.startswith("corella-edge: 2 problem(s)")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "built for another CPU"),
        ("raise OSError('libx.so: not found')", "does not load: OSError: libx.so: not found"),
        ("raise SystemExit(3)", "exit code 3"),
    ],
)
def test_a_library_that_dies_is_told_apart(code: str, message: str) -> None:
    found = load("a-library", [sys.executable, "-c", code])
    assert message in found.problem
    assert found.said == []
    assert load("a-library", ["/no/such/program"]).problem.startswith("a-library does not load")


def test_the_build_s_instructions_are_read() -> None:
    assert load("llama-cpp-python").said == build.features()
    assert {"AVX2", "NEON"} & set(build.features()) or "REPACK" in build.features()
    assert not [name for name in build.features() if not name.replace("_", "").isalnum()]


def test_instructions_that_the_build_leaves_unused(monkeypatch) -> None:
    flags = {"avx", "avx2", "avx512f", "avx512_bf16", "never_heard_of"}
    assert unused(flags, ["AVX", "AVX2", "REPACK"]) == ["AVX512", "AVX512_BF16"]
    assert unused(flags, ["AVX", "AVX2", "AVX512", "AVX512_BF16"]) == []
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    text, problems = examined(WHOLE, {"llama-cpp-python": Loaded(["AVX", "AVX2"])})
    assert problems == []  # slower, not broken
    assert "also has AVX512, AVX512_BF16" in text
    assert "CMAKE_ARGS=-DGGML_NATIVE=ON pip install" in text
    assert "llama-cpp-python==0.3.36" in text


def test_flags_of_x86_and_arm(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2\n\nprocessor : 1\nflags : other\n")
    assert doctor.cpu_flags(info) == {"fpu", "avx2"}
    info.write_text("processor : 0\nFeatures : fp asimd i8mm\n")
    assert doctor.cpu_flags(info) == {"fp", "asimd", "i8mm"}
    assert doctor.cpu_flags(tmp_path / "none") == set()


def test_extras_come_from_the_requirements() -> None:
    lines = ["numpy>=2", "a>=1; extra == 'x'", "b[standard]>=1 ; extra == 'x'", 'c; extra == "y"', "d; extra == 'dev'"]
    found = extras(lines, {"a": "1"}.get)
    assert [(extra.name, extra.missing) for extra in found] == [("x", ["b"]), ("y", ["c"])]


@given(st.lists(st.integers(0, 40), unique=True))
def test_ranges_name_every_core_once(cores: list[int]) -> None:
    parts = [part.partition("-") for part in ranges(cores).split(",") if part]
    spelled = [core for first, _, last in parts for core in range(int(first), int(last or first) + 1)]
    assert spelled == sorted(cores)


def test_works_in_a_process_without_numpy_s_friends() -> None:
    """Nothing heavy is loaded in the command's own process."""
    code = (
        "import sys; from corella_edge.cli import main\n"
        "try: main(['doctor', '--threads'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'onnxruntime', 'llama_cpp', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
