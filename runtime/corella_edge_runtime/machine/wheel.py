"""Builds llama-cpp-python as one wheel that runs on every CPU of an architecture, with zig as the compiler.

The wheel holds one library of kernels for each kind of CPU, and llama.cpp takes the best one when it is loaded. zig
comes as a Python package, so neither the machine that builds nor those that run need a compiler of the system's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from types import FrameType

from corella_edge.atomic import publish_file
from corella_edge.errors import CorellaError, InputError, MissingExtraError, told
from corella_edge_runtime.box import cache_folder
from corella_edge_runtime.machine import zigcc

RELEASE = "0.3.36"  # of llama-cpp-python; constraints.txt holds the same
GLIBC = "2.28"  # ONNX Runtime's and numpy's wheels want about as much
# The kernels that every CPU of an architecture runs.
TARGETS = {"x86_64": "x64", "aarch64": "armv8.0_1"}

# No versions in the libraries' names: a wheel has no links, it would hold every library three times, and load it twice.
_CMAKE = (
    "GGML_NATIVE=OFF", "GGML_BACKEND_DL=ON", "GGML_CPU_ALL_VARIANTS=ON", "GGML_OPENMP=OFF", "GGML_CCACHE=OFF",
    "LLAVA_BUILD=OFF", "LLAMA_OPENSSL=OFF", "CMAKE_PLATFORM_NO_VERSIONED_SONAME=ON",
    "CMAKE_SHARED_LINKER_FLAGS=-s", "CMAKE_MODULE_LINKER_FLAGS=-s",
    "CMAKE_INSTALL_BINDIR=llama_cpp/lib", "CMAKE_INSTALL_LIBDIR=llama_cpp/lib",
    "CMAKE_INSTALL_INCLUDEDIR=llama_cpp/include", "CMAKE_SYSTEM_NAME=Linux",
)  # fmt: skip
# cmake reads this in llama.cpp's own folder: the library of its programs is ordered by llama-cpp-python, and not used.
_WITHIN = "set(LLAMA_BUILD_COMMON OFF)\n"
# For those who write C++ against llama.cpp.
_LEFT_OUT = ("llama_cpp/include", "llama_cpp/lib/cmake", "llama_cpp/lib/pkgconfig")
_ROOM = 2 * 10**9  # bytes that a build takes at most while it runs
_STEP = re.compile(r"\[\s*(\d+)/(\d+)\] ")
_CAUSE = re.compile(r"\s*(?:CMake Error|ERROR: |.*\b(?:fatal )?error: )")
_VERDICT = "error: subprocess-exited-with-error"  # pip's: what the build itself has said stands before it
_NO_CAUSE = re.compile(r"\s*(?:$|\[\d+/\d+\] |ninja: build stopped|\*\*\* |FAILED: )")
_LIBRARY = re.compile(r"llama_cpp/lib/libggml-cpu-(.+)\.so")
# What else in the environment would change the result; how many compilers run at once may be set.
_OTHERS_FLAGS = re.compile(
    r"(?!CMAKE_BUILD_PARALLEL_LEVEL)(CMAKE|SKBUILD|GGML|LLAMA)_.*|C(XX|PP)?FLAGS|LDFLAGS|_PYTHON_HOST_PLATFORM|"
    r"CPATH|(C|CPLUS)_INCLUDE_PATH|LIBRARY_PATH"
)

Say = Callable[[str], None]
Show = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class WheelRecipe:
    """All that decides what the wheel holds.

    Attributes:
        target: a key of TARGETS.
        compiler: name and version of the package that compiles.
        glibc: the oldest one the wheel runs with.
    """

    target: str
    compiler: str
    release: str = RELEASE
    glibc: str = GLIBC
    cmake: tuple[str, ...] = _CMAKE
    within: str = _WITHIN
    left_out: tuple[str, ...] = _LEFT_OUT

    @property
    def tag(self) -> str:
        """Python, ABI and platform as pip names them; the libraries need libc and libm only, as manylinux wants."""
        return f"py3-none-manylinux_{self.glibc.replace('.', '_')}_{self.target}"

    @property
    def file(self) -> str:
        return f"llama_cpp_python-{self.release}-{self.tag}.whl"

    @property
    def key(self) -> str:
        """Equal for two builds that would give the same wheel: 16 hex digits."""
        wrapper = Path(zigcc.__file__).read_text("utf-8")
        return hashlib.sha256(json.dumps([asdict(self), wrapper]).encode()).hexdigest()[:16]


def recipe(target: str | None = None) -> WheelRecipe:
    """How the wheel for `target` (this machine's architecture if None) is built here.

    Raises:
        InputError: no wheel can be built for it, or on this system. MissingExtraError: zig or pip is not installed.
    """
    wanted = target or os.uname().machine
    if wanted not in TARGETS:
        raise InputError(f"--target {wanted}: llama.cpp can be built for {' and '.join(TARGETS)} alone")
    if sys.platform != "linux":
        raise InputError(f"wheel: builds on Linux alone, this is {sys.platform}")
    if find_spec("ziglang") is None or find_spec("pip") is None:
        raise MissingExtraError("building llama.cpp", "build")
    return WheelRecipe(wanted, f"ziglang {_zig_version()}")


def _zig_version() -> str:
    try:
        return version("ziglang")
    except PackageNotFoundError:
        raise MissingExtraError("building llama.cpp", "build") from None


def variants(wheel: Path) -> list[str]:
    """Kinds of CPU that a wheel, or nothing if it cannot be read whole, has kernels for, in the alphabet's order."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [] if archive.testzip() else archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return []
    return sorted(found[1] for found in map(_LIBRARY.fullmatch, names) if found)


def build(wanted: WheelRecipe, out: Path, say: Say, show: Show) -> Path:
    """The wheel in the folder `out`, built, or as an earlier build left it in the cache; it is whole or not there.

    Args:
        say: gets a line for a person. show: gets how many steps are done, and of how many.

    Raises:
        InputError: `out` or the cache cannot be written, or there is no room. CorellaError: the build failed.
    """
    kept = cache_folder() / "wheels" / wanted.key / wanted.file
    _make(out, "--out ", "name another folder")
    if TARGETS[wanted.target] in variants(kept):
        say(f"taken from {kept.parent}: built before with the same compiler and settings")
    else:
        _compile(wanted, kept, say, show)
    _copy(kept, out / wanted.file)
    return out / wanted.file


def _make(folder: Path, name: str, remedy: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{name}{folder}: cannot be made: {told(error)}; {remedy}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name}{folder}: cannot be written; {remedy}")


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, partial)
        publish_file(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{target}: writing failed: {told(error)}") from error


def _compile(wanted: WheelRecipe, kept: Path, say: Say, show: Show) -> None:
    """One build, in a temporary folder that is gone afterwards whatever happened."""
    _make(kept.parent, "the cache ", "set XDG_CACHE_HOME to another folder")
    _check_room(Path(tempfile.gettempdir()))
    say(f"building llama-cpp-python {wanted.release} for every {wanted.target} CPU with {wanted.compiler}: "
        "downloads 80 MB, then compiles for 10 to 20 minutes on 2 idle cores")  # fmt: skip
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="corella-edge-wheel-") as name:
        folder = Path(name)
        log = folder / "build.log"
        status = _run(_command(wanted, folder), _environment(wanted, folder), log, show)
        made = folder / "out" / wanted.file
        if status != 0 or TARGETS[wanted.target] not in variants(made):
            raise CorellaError(_why(wanted, status, log))
        _copy(made, kept)
    say(f"built in {(time.monotonic() - begun) / 60:.0f} minutes: kernels for {', '.join(variants(kept))}")


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        raise InputError(f"{folder}: a build needs {_ROOM / 1e9:.0f} GB there while it runs, {free / 1e9:.1f} GB are "
                         "free; make room, or set TMPDIR to another folder")  # fmt: skip


def _command(wanted: WheelRecipe, folder: Path) -> list[str]:
    # pip's own cache knows a wheel by its source alone, not by these settings.
    return [
        sys.executable, "-m", "pip", "wheel", "-v", "--disable-pip-version-check", "--no-cache-dir", "--no-deps",
        "--no-binary", "llama-cpp-python", "-w", str(folder / "out"), f"llama-cpp-python=={wanted.release}",
    ]  # fmt: skip


def _environment(wanted: WheelRecipe, folder: Path) -> dict[str, str]:
    """What pip, scikit-build-core, cmake and zig read. Flags that the user has set for other builds are left out."""
    tools = {name: str(_tool(wanted, folder, name)) for name in ("cc", "c++", "ar", "ranlib")}
    within = folder / "within.cmake"
    within.write_text(wanted.within, "utf-8")
    settings = (
        *wanted.cmake, f"CMAKE_SYSTEM_PROCESSOR={wanted.target}", f"CMAKE_AR={tools['ar']}",
        f"CMAKE_RANLIB={tools['ranlib']}", f"CMAKE_PROJECT_llama.cpp_INCLUDE={within}",
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not _OTHERS_FLAGS.fullmatch(name)}
    return {
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig"), "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"), **kept,
        "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "CC": tools["cc"], "CXX": tools["c++"],
        "CMAKE_ARGS": shlex.join(f"-D{setting}" for setting in settings),
        "SKBUILD_WHEEL_TAGS": wanted.tag, "SKBUILD_WHEEL_EXCLUDE": ";".join(wanted.left_out),
        "SKBUILD_INSTALL_STRIP": "false", "SKBUILD_NINJA_MAKE_FALLBACK": "false",
    }  # fmt: skip


def _tool(wanted: WheelRecipe, folder: Path, name: str) -> Path:
    """A program that cmake takes for one of GCC's."""
    package = find_spec("ziglang")
    assert package is not None
    assert package.origin is not None
    command = [sys.executable, "-IS", zigcc.__file__, str(Path(package.origin).with_name("zig")),
               f"{wanted.target}-linux-gnu.{wanted.glibc}", name]  # fmt: skip
    path = folder / "tools" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', "utf-8")
    path.chmod(0o755)
    return path


def _run(command: list[str], env: dict[str, str], log: Path, show: Show) -> int:
    """Run to the end, all output into `log`; on any exception everything that was started is ended first."""
    with log.open("w", 1, "utf-8") as file, _group(command, env) as child:
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            step = _STEP.search(line)
            if step:
                show(int(step[1]), int(step[2]))
        return child.wait()


@contextmanager
def _group(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    child: subprocess.Popen[str] | None = None
    try:
        with _signals_wait():
            child = subprocess.Popen(
                command, env=env, cwd=env["TMPDIR"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        yield child
    finally:
        if child is not None:
            with child:
                _end(child)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What asks this process to end takes effect after the block: a child that is being started is known by then.

    Signals reach the main thread alone, so there is nothing to do in another one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    with stopped_by(lambda number, _: arrived.append(number)):
        yield
    for number in arrived[:1]:
        signal.raise_signal(number)


@contextmanager
def stopped_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM go to `handler`, unless they are ignored. In the main thread."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: old for number, old in found.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _end(child: subprocess.Popen[str]) -> None:
    """End a child and its descendants. ninja ends its compilers itself when it is asked, so it is asked first."""
    until = time.monotonic() + 10
    number = signal.SIGTERM
    while True:
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        if child.poll() is not None and number == signal.SIGKILL:
            break
        time.sleep(0.1)
        number = signal.SIGKILL if time.monotonic() > until else signal.SIGTERM
    child.wait()


def _why(wanted: WheelRecipe, status: int, log: Path) -> str:
    """One line on a build that failed; the log is kept for the rest."""
    cause = _cause(log.read_text("utf-8").splitlines()) if status else f"pip left no whole wheel {wanted.file}"
    kept = cache_folder() / "wheel-build.log"
    _copy(log, kept)
    why = cause[:200] or f"pip ended with {status}"
    return f"llama-cpp-python {wanted.release} was not built: {why} (all of it: {kept})"


def _cause(lines: list[str]) -> str:
    """The first error of compiler, cmake or pip, else the last thing that was said; empty if nothing was."""
    said = list(takewhile(lambda line: line.strip() != _VERDICT, lines))
    for at, line in enumerate(said):
        if _CAUSE.match(line):
            # cmake says where, and on the next lines what.
            more = next(filter(None, map(str.strip, said[at + 1 :])), "") if line.endswith(":") else ""
            return f"{line.strip()} {more}".strip()
    return next((line.strip() for line in reversed(said) if not _NO_CAUSE.match(line)), "")
