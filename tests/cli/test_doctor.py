"""`corella-edge doctor`: what it says of installs that are whole, partial and broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime import box, doctor
from corella_edge_runtime.doctor import Extra, Loaded, examine, extras, load, ranges, unused
from corella_edge_runtime.llm.llama import build, trust
from corella_edge_runtime.llm.llama.trust import Verdict

WHOLE = {"corella-edge": "1", "onnxruntime": "1.20", "llama-cpp-python": "0.3.36", "starlette": "1", "uvicorn": "1"}


def right(kinds: Sequence[str]) -> dict[str, Verdict]:
    """Everything computes."""
    return dict.fromkeys(kinds, Verdict(trust.OK))


def examined(
    versions: dict[str, str], said: dict[str, Loaded] | None = None, judge: doctor.Judge = right
) -> tuple[str, list[str]]:
    """Lines and problems of an install with these packages, whose libraries answer what `said` says."""
    found = examine(versions.get, lambda package: (said or {}).get(package, Loaded(["all"])), judge)
    return "\n".join(found.lines), found.problems


@pytest.fixture(scope="module")
def here() -> doctor.Diagnosis:
    """This very install; what is loaded and computed for that takes seconds."""
    return examine()


@pytest.fixture
def examined_once(here: doctor.Diagnosis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: here)


@pytest.mark.usefixtures("examined_once")
def test_this_install(corella) -> None:
    done = corella("doctor", "--threads")
    assert (done.code, done.err) == (0, "")
    assert f"onnxruntime {doctor.version_of('onnxruntime')}" in done.out
    assert "ONNX Runtime: " in done.out
    assert "CPUExecutionProvider" in done.out
    assert "llama.cpp is built with: " in done.out
    assert "llama.cpp computes right: F16, BF16, Q8_0, Q4_0, Q4_K\n" in done.out
    assert "llama.cpp computes with " in done.out
    assert "LLM (llama.cpp): " in done.out
    assert "dev" not in done.out
    verdict, step = [line for line in done.out.splitlines() if line.startswith(("verdict: ", "next: "))]
    assert verdict == "verdict: ready to score, to serve and to train"
    assert step == "next: corella-edge demo"
    done = corella("doctor")
    assert "threads" not in done.out


@pytest.mark.usefixtures("examined_once")
def test_for_programs(corella) -> None:
    done = corella("doctor", "--json", "--threads")
    found = json.loads(done.out)
    assert (done.code, done.err, found["problems"]) == (0, "", [])
    assert found["extras"]["cpu"] == {"onnxruntime": doctor.version_of("onnxruntime")}
    assert "CPUExecutionProvider" in found["onnxruntime"]["providers"]
    assert found["llama_cpp"]["kernels"]["Q8_0"] == trust.OK
    assert found["verdict"] == "ready to score, to serve and to train"
    assert found["threads"]["plan"]["crm_threads"] >= 1


@pytest.mark.parametrize(
    ("missing", "verdict", "step"),
    [
        ({"cpu", "gpu"}, "nothing can be scored yet: ONNX Runtime", "pip install 'corella-edge[cpu]'"),
        ({"llm", "serve", "export"}, "ready to score with the base model (CRM) alone", "corella-edge wheel --out DIR"),
        ({"serve", "export"}, "ready to score with both models, but not to serve", "pip install 'corella-edge[serve]'"),
        ({"export", "report"}, "but not to evaluate or train", "corella-edge verify BUNDLE"),
        ({"export"}, "but not to train", "corella-edge verify BUNDLE"),
        ({"gpu", "sign"}, "ready to score, to serve and to train", "corella-edge demo"),
    ],
)
def test_the_verdict_names_what_can_be_done_and_the_next_step(missing: set[str], verdict: str, step: str) -> None:
    names = ("cpu", "gpu", "llm", "serve", "report", "sign", "export")
    known = [Extra(name, {name: None if name in missing else "1"}) for name in names]
    found, following = doctor._judged(known, 0)
    assert verdict in found
    assert step in following
    found, following = doctor._judged(known, 2)
    assert found.startswith("2 problem(s)")
    assert "run doctor again" in following


def test_a_box_that_can_serve_is_told_to_verify_and_what_else_there_is(corella, monkeypatch) -> None:
    serving = ("cpu", "llm", "serve")
    lines = [line for line in requires("corella-edge") or [] if any(f"extra == '{name}'" in line.replace('"', "'")
                                                                    for name in serving)]  # fmt: skip
    there = {package: "1" for extra in extras(lines, {}.get) for package in extra.packages}
    found = examine(there.get, lambda package: Loaded(["all"]), right)
    assert (found.problems, found.next) == ([], "corella-edge verify BUNDLE")
    others = {extra.name for extra in extras(requires("corella-edge") or [], {}.get)} - {*serving, "gpu", "remote"}
    assert others >= {"report", "sign", "export", "build"}
    assert {text.partition("]")[0] for text in found.optional} == {f"[{name}" for name in others}
    monkeypatch.setattr(doctor, "examine", lambda: found)
    done = corella("doctor")
    assert done.code == 0
    assert done.out.splitlines()[-2:] == [
        "next: corella-edge verify BUNDLE", f"optional: {'; '.join(found.optional)}",
    ]  # fmt: skip


def test_without_any_extra_it_names_them_and_ends_well() -> None:
    text, problems = examined({"corella-edge": "1"})
    assert problems == []
    for extra, package in (("cpu", "onnxruntime"), ("llm", "llama-cpp-python"), ("export", "torch")):
        assert f"'corella-edge[{extra}]'" in text
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
    monkeypatch.setattr(doctor.examine, "__defaults__", (doctor.version_of, lambda package: broken, right))
    done = corella("doctor")
    assert done.code == 1
    assert "problem: llama-cpp-python is installed but does not load: no libgomp" in done.out
    assert done.err.startswith("corella-edge: 2 problem(s)")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "loading it ended by SIGILL (illegal instruction)"),
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
    assert "To use them, build a wheel with `corella-edge wheel" in text


def test_who_has_a_library_for_each_kind_of_cpu_is_not_told_to_build_one(monkeypatch) -> None:
    """Zen 5 and AmpereOne have an instruction that no kind in the wheel has together with all the others."""
    flags = {"avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "i8mm"}
    assert unused(flags, ["AVX", "AVX2", "AVX512", "AVX512_VNNI"]) == ["MATMUL_INT8"]
    assert unused(flags, ["AVX", "AVX2"]) == ["AVX_VNNI", "AVX512", "AVX512_VNNI", "MATMUL_INT8"]
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    for variant, told in (("zen4", False), ("single", True)):
        loaded = Loaded(["AVX", "AVX2"], build={"variant": variant})
        assert ("this CPU also has" in examined(WHOLE, {"llama-cpp-python": loaded})[0]) == told


def test_what_does_not_compute_is_a_problem_with_its_remedy() -> None:
    faults = {
        "Q8_0": Verdict(trust.PLAIN, "Q8_0: ended by SIGILL (illegal instruction)"),
        "Q4_0": Verdict(trust.NONE, "Q4_0: its numbers are wrong by 90%"),
    }
    build = {"variant": "sapphirerapids", "compiler": "GCC: (Debian) 12.2.0"}
    said = {"llama-cpp-python": Loaded(["AVX"], build=build)}
    text, problems = examined(WHOLE, said, lambda kinds: right(kinds) | faults)
    assert "llama.cpp computes with the library for sapphirerapids, compiled by GCC: (Debian) 12.2.0\n" in text
    assert "llama.cpp computes right: F16, BF16, Q4_K\n" in text
    assert "llama.cpp computes right without AMX and repacked weights: Q8_0\n" in text
    assert text.endswith("llama.cpp computes not here: Q4_0")
    assert [problem.partition("; ")[0] for problem in problems] == [
        "llama.cpp's faster kernels (AMX, repacked weights) are left out: Q8_0: ended by SIGILL (illegal instruction)",
        "the installed llama.cpp does not compute here: Q4_0: its numbers are wrong by 90%",
    ]
    assert all("corella-edge wheel" in problem for problem in problems)


def test_the_library_and_its_compiler_are_named(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 0 00:00 1 /x/libggml-base.so\n7f02-7f03 r-xp 0 00:00 2  /a b/libggml-cpu-zen4.so\n")
    assert build.kernels(maps) == Path("/a b/libggml-cpu-zen4.so")
    assert build.kernels(tmp_path / "none") is None
    assert build.variant(Path("/x/libggml-cpu-zen4.so")) == "zen4"
    maps.write_text("7f02-7f03 r-xp 0 00:00 2  /x/libggml-cpu.so.0.9.4\n")  # as pip builds it by itself
    assert build.kernels(maps) == Path("/x/libggml-cpu.so.0.9.4")
    assert build.variant(Path("/x/libggml-cpu-armv8.2_1.so")) == "armv8.2_1"
    assert build.variant(Path("/x/libggml-cpu.so.0")) == "single"
    assert build.variant(Path("/x/libggml-cpu.so")) == build.variant(None) == "single"
    library = tmp_path / "lib.so"
    library.write_bytes(b"\x7fELF\0GCC: (Debian 12.2.0-14) 12.2.0\0\0clang version 20.1.2 (https://x)\0")
    assert build.compiler(library) == "GCC: (Debian 12.2.0-14) 12.2.0, clang version 20.1.2"
    assert build.compiler(None) == ""


def test_flags_of_x86_and_arm(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2\n\nprocessor : 1\nflags : other\n")
    assert box.cpu_flags(info) == {"fpu", "avx2"}
    info.write_text("processor : 0\nFeatures : fp asimd i8mm\n")
    assert box.cpu_flags(info) == {"fp", "asimd", "i8mm"}
    assert box.cpu_flags(tmp_path / "none") == set()


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
