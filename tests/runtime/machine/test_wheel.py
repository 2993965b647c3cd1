"""The wheel of llama.cpp: what the compiler is told, what a recipe's key stands for, builds that end in every way."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
import zipfile
from collections import namedtuple
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import CorellaError, InputError, MissingExtraError
from corella_edge_runtime.box import cache_folder
from corella_edge_runtime.machine import wheel, zigcc
from corella_edge_runtime.machine.wheel import RELEASE, TARGETS, WheelRecipe, build, recipe, variants
from sessions import REPOSITORY, run
from sockets import until

# As ggml's CMakeLists.txt passes them for the kinds of ARM CPU.
MARCH = {
    "armv8-a": "generic",
    "armv8.2-a+dotprod": "generic+v8_2a+dotprod",
    "armv8.2-a+dotprod+fp16": "generic+v8_2a+dotprod+fullfp16",
    "armv8.2-a+dotprod+fp16+sve": "generic+v8_2a+dotprod+fullfp16+sve",
    "armv8.6-a+dotprod+fp16+sve+i8mm": "generic+v8_6a+dotprod+fullfp16+sve+i8mm",
    "armv8.6-a+dotprod+fp16+sve+i8mm+sve2": "generic+v8_6a+dotprod+fullfp16+sve+i8mm+sve2",
    "armv9.2-a+dotprod+fp16+sve+i8mm+sve2+sme": "generic+v9_2a+dotprod+fullfp16+sve+i8mm+sve2+sme",
    "armv9.2-a+i8mm+nosve+sme": "generic+v9_2a+i8mm-sve+sme",
}
OURS = WheelRecipe("x86_64", "ziglang 0")
Out = namedtuple("Out", "folder lines steps")

# Stands for pip: says what ninja says, then leaves the wheel that is asked for.
FAKE = """
import sys, zipfile
from pathlib import Path
print("[1/2] cc -o a.o"); print("[2/2] cc -o b.so", flush=True)
out = Path(sys.argv[1]); out.mkdir()
with zipfile.ZipFile(out / sys.argv[2], "w") as archive:
    for name in sys.argv[3:]: archive.writestr(f"llama_cpp/lib/{name}.so", b"")
"""


def fake(code: str, *names: str):
    """A replacement of the command that builds."""
    return lambda wanted, folder: [sys.executable, "-c", code, str(folder / "out"), wanted.file, *names]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Out:
    """A folder to build into, and what was said; cache and temporary files are below `tmp_path`."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheel.tempfile, "tempdir", str(tmp_path / "tmp"))
    return Out(tmp_path / "out", [], [])


def made(out: Out) -> Path:
    return build(OURS, out.folder, out.lines.append, lambda *step: out.steps.append(step))


@pytest.mark.parametrize(("march", "mcpu"), MARCH.items())
def test_kinds_of_arm_cpu_are_named_as_zig_names_them(march: str, mcpu: str) -> None:
    assert zigcc.arguments("cc", "aarch64-linux-gnu.2.28", [f"-march={march}"])[3:] == [f"-mcpu={mcpu}"]


@pytest.mark.parametrize("mcpu", MARCH.values())
def test_zig_knows_these_names(mcpu: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28", f"-mcpu={mcpu}", "-dM", "-E"]
    done = subprocess.run([*command, "-x", "c", os.devnull], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for tag, macro in {"dotprod": "DOTPROD", "i8mm": "MATMUL_INT8", "+sve": "SVE", "sme": "SME"}.items():
        assert (f"__ARM_FEATURE_{macro} 1" in done.stdout) >= (tag in mcpu), (tag, mcpu)


ARGUMENTS = st.lists(st.text(min_size=1).filter(lambda text: not text.startswith("-march=armv")))


@given(given_=ARGUMENTS, tool=st.sampled_from(["cc", "c++"]), target=st.sampled_from(list(TARGETS)))
def test_whatever_names_no_arm_cpu_reaches_zig_as_it_is(given_: list[str], tool: str, target: str) -> None:
    triple = f"{target}-linux-gnu.2.28"
    assert zigcc.arguments(tool, triple, given_) == [tool, "-target", triple, *given_]
    assert zigcc.arguments("ar", triple, given_) == ["ar", *given_]


def test_a_key_stands_for_everything_that_is_in_the_wheel() -> None:
    assert OURS.key == WheelRecipe("x86_64", "ziglang 0").key
    for field in fields(WheelRecipe):
        value = getattr(OURS, field.name)
        other = replace(OURS, **{field.name: value + ("x" if isinstance(value, str) else ("x",))})
        assert other.key != OURS.key, field.name


def test_the_release_stands_once() -> None:
    """The tests ran with it, and the extra [llm] takes it."""
    pinned = re.findall(r"^llama_cpp_python==(.*)$", (REPOSITORY / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned == [RELEASE]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert any(f">={RELEASE}," in wanted for wanted in extras["llm"])


def test_only_what_can_be_built_has_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recipe("aarch64").tag == "py3-none-manylinux_2_28_aarch64"
    with pytest.raises(InputError, match=r"--target riscv64: llama\.cpp can be built for x86_64 and aarch64 alone"):
        recipe("riscv64")
    monkeypatch.setattr(wheel, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[build\]"):
        recipe("x86_64")


def test_a_build_is_kept_and_taken_again(out: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(wheel, "_command", fake(FAKE, "libggml-cpu-x64", "libggml-cpu-haswell", "libllama"))
    path = made(out)
    assert path == out.folder / OURS.file
    assert variants(path) == ["haswell", "x64"]
    assert out.steps == [(1, 2), (2, 2)]
    assert list((tmp_path / "tmp").iterdir()) == []
    monkeypatch.setattr(wheel, "_command", fake("raise SystemExit(1)"))
    path.unlink()
    assert variants(made(out)) == ["haswell", "x64"]
    assert "built before" in out.lines[-1]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-40]), Path.unlink])
def test_a_damaged_wheel_in_the_cache_is_built_again(out: Out, monkeypatch: pytest.MonkeyPatch, damage) -> None:
    monkeypatch.setattr(wheel, "_command", fake(FAKE, "libggml-cpu-x64"))
    made(out)
    damage(cache_folder() / "wheels" / OURS.key / OURS.file)
    made(out)
    assert len(out.steps) == 4


FAILURES = {
    "print('ERROR: No matching distribution found'); raise SystemExit(1)": "ERROR: No matching distribution found",
    "print('a.c:1:2: warning: error'); print('a.c:1:2: error: no such thing'); raise SystemExit(1)": "a.c:1:2: error",
    "raise SystemExit(3)": "pip ended with 3",
    "print('[1/9] cc a.c'); raise SystemExit(-9)": "pip ended with",
    "pass": "pip left no whole wheel",
    FAKE: "pip left no whole wheel",  # it has no kernels for every CPU
}
VERDICT = """
  error: subprocess-exited-with-error

  × Building wheel for llama-cpp-python (pyproject.toml) did not run successfully.
  │ exit code: 1
  ╰─> See above for output.

  Building wheel for llama-cpp-python (pyproject.toml): finished with status 'error'
  ERROR: Failed building wheel for llama-cpp-python
Failed to build llama-cpp-python
ERROR: Failed to build one or more wheels"""
# What pip shows of a build that fails → what a person is told of it.
LOGS = {
    "  [1/9] c++ -o a.o\n  FAILED: [code=127] a.o\n  /bin/sh: 1: clang: not found\n"
    "  ninja: build stopped: subcommand failed.\n\n  *** CMake build failed": "/bin/sh: 1: clang: not found",
    "  CMake Error at CMakeLists.txt:9 (message):\n    No such kernel\n\n  *** CMake configuration failed":
        "CMake Error at CMakeLists.txt:9 (message): No such kernel",
    "  [1/9] cc\n  a.cpp:1:2: fatal error: 'x.h' file not found\n  1 error generated.\n  ninja: build stopped":
        "a.cpp:1:2: fatal error: 'x.h' file not found",
    "  ERROR: No matching distribution found for cmake": "ERROR: No matching distribution found for cmake",
}  # fmt: skip


@pytest.mark.parametrize("log", LOGS)
def test_a_failed_build_is_told_by_its_cause_and_not_by_pips_verdict(
    out: Out, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    monkeypatch.setattr(wheel, "_command", fake(f"print({log + VERDICT!r}); raise SystemExit(1)"))
    with pytest.raises(CorellaError, match=re.escape(f"was not built: {LOGS[log]} (all of it: ")):
        made(out)


@pytest.mark.parametrize("code", FAILURES)
def test_a_failed_build_is_one_line_and_leaves_its_log(
    out: Out, monkeypatch: pytest.MonkeyPatch, code: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(wheel, "_command", fake(code, "libggml-cpu-haswell"))
    with pytest.raises(CorellaError, match=re.escape(FAILURES[code])) as failed:
        made(out)
    assert "\n" not in str(failed.value)
    log = tmp_path / "cache" / "corella-edge" / "wheel-build.log"
    assert str(log) in str(failed.value)
    assert log.exists()
    assert not list(out.folder.iterdir())
    assert not list((tmp_path / "tmp").iterdir())


def test_without_room_nothing_begins(out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_command", fake("raise SystemExit('never')"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(10**8))
    with pytest.raises(InputError, match=r"a build needs 2 GB there while it runs, 0\.1 GB are free.*TMPDIR"):
        made(out)


def test_a_folder_that_can_not_be_written_is_named(out: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        done = run("wheel", "--target", "x86_64", "--out", place)
        assert done.code == 2
        assert done.err.startswith(f"corella-edge: --out {place}: cannot be made: ")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # as with a home that is read-only
    with pytest.raises(InputError, match=r"the cache .*; set XDG_CACHE_HOME to another folder"):
        made(out)


def test_flags_for_other_builds_do_not_reach_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "LDFLAGS", "SKBUILD_CMAKE_DEFINE", "CMAKE_GENERATOR", "CC",
                 "CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"):  # fmt: skip
        monkeypatch.setenv(name, "foreign")
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "3")
    settings = wheel._environment(OURS, tmp_path)
    assert "foreign" not in settings.values()
    assert settings["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"


def test_a_temporary_folder_may_have_spaces_and_quotes_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b 'c'"
    folder.mkdir()
    settings = wheel._environment(OURS, folder)
    given_ = shlex.split(settings["CMAKE_ARGS"])  # as scikit-build-core does
    assert f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={folder / 'within.cmake'}" in given_
    assert all(setting.startswith("-D") for setting in given_)
    version = subprocess.run([settings["CC"], "--version"], capture_output=True, text=True, cwd=folder)
    assert "clang" in version.stdout, version.stderr


INTERRUPTED = """
    import signal, sys
    from corella_edge.cli import main
    from corella_edge_runtime.machine import wheel
    child = "import os, signal, subprocess, sys, time\\n" \\
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\\n" \\
        "os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), b'%d' % os.getpid())\\n" \\
        "print('[1/9] cc', flush=True)\\ntime.sleep(600)"
    wheel._command = lambda wanted, folder: [sys.executable, "-c", child, sys.argv[2]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(["wheel", "--target", "x86_64", "--out", sys.argv[1]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_a_child_is_started_ends_it(number: int, monkeypatch, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    started = []
    popen = subprocess.Popen

    def slow(*args: Any, **named: Any) -> Any:
        started.append(popen(*args, **named))
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        return started[0]

    monkeypatch.setattr(wheel.subprocess, "Popen", slow)
    before = signal.signal(number, stop)
    try:
        with pytest.raises(StoppedError), wheel._group(["sleep", "600"], {**os.environ, "TMPDIR": str(tmp_path)}):
            raise AssertionError
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert started[0].poll() is not None


def _lives(pid: str) -> bool:
    """Whether a process computes; one that has ended may wait for its parent to notice."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_build_ends_its_compilers_and_leaves_nothing(number: int, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    told = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(tmp_path / "out"), str(told)], stderr=subprocess.PIPE,
        text=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    with process:
        while not (told.exists() and told.read_text()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "corella-edge: interrupted"
    until(lambda: not _lives(told.read_text()))
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "out").iterdir()) == []
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_file_that_is_no_archive_has_no_kernels(tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("text")
    assert variants(tmp_path / "text.whl") == variants(tmp_path / "nowhere") == []
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("llama_cpp/lib/libggml-cpu.so", b"")
    assert variants(tmp_path / "other.whl") == []
