"""Commands in forks of one process, each with the standard streams, limits and modules that its case asks for.

As a script, its arguments are modules to load before. In: lines, each a JSON list of {"args", "streams": {"0" | "1" |
"2": how}, "limits": {name: number}, "missing": [a module that is not installed]}. Out: for each a line, a JSON list of
[exit code, stderr].
How: "closed", "full" (/dev/full), "gone" (a pipe nobody reads), otherwise a file; by default the null device, and for
2 a pipe that is read to its end.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any

from corella_edge.cli import main

Case = dict[str, Any]
NAMES = {0: "stdin", 1: "stdout", 2: "stderr"}


class Door:
    """A process that runs cases: (exit code, stderr) of each."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, cases: list[Case]) -> list[tuple[int, str]]:
        assert self.process.stdin
        assert self.process.stdout
        given = json.dumps([{**case, "args": list(map(os.fspath, case["args"]))} for case in cases])
        print(given, file=self.process.stdin, flush=True)
        return [tuple(result) for result in json.loads(self.process.stdout.readline())]


@contextmanager
def opened(*loaded: str) -> Iterator[Door]:
    """`loaded`: modules that are loaded once, not once a case."""
    with subprocess.Popen(
        [sys.executable, __file__, *loaded], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Door(process)


class Without:
    """Finds modules as on a machine where some are not installed."""

    find_distributions = staticmethod(PathFinder.find_distributions)
    invalidate_caches = staticmethod(PathFinder.invalidate_caches)

    def __init__(self, missing: Sequence[str]) -> None:
        assert not set(missing) & set(sys.modules)  # what is loaded is not looked for again
        self._missing = missing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._missing else PathFinder.find_spec(name, path, target)


def redirect(number: int, how: str) -> None:
    """As the shell and the interpreter would have it at the start."""
    mode = "r" if number == 0 else "w"
    if how == "told":
        return
    if how == "closed":
        os.close(number)
        stream = None
    else:
        if how == "gone":
            reading, handle = os.pipe()
            os.close(reading)
        else:
            path = "/dev/full" if how == "full" else how
            handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, number)
        os.close(handle)
        raw = io.FileIO(number, mode, closefd=False)
        buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(buffer, "utf-8", "backslashreplace" if number == 2 else "strict")
    for name in (NAMES[number], f"__{NAMES[number]}__"):
        setattr(sys, name, stream)


def child(case: dict) -> int:
    """The command's exit code; 99 where it ends in an exception."""
    how = {"0": os.devnull, "1": os.devnull, "2": "told", **case.get("streams", {})}
    # The highest first: a closed one must not become the number of the next one's file.
    for number in (2, 1, 0):
        redirect(number, how[str(number)])
    for name, limit in case.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, resource.getrlimit(getattr(resource, name))[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.meta_path[sys.meta_path.index(PathFinder)] = Without(case.get("missing", ()))
    try:
        main(case["args"])
    except SystemExit as left:
        return int(left.code or 0)
    except BaseException as error:  # noqa: BLE001 - reported as the case's result
        traceback.print_exception(error)
        return 99
    return 0


def run(case: dict) -> tuple[int, str]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 2)
        for handle in (reading, writing):
            os.close(handle)
        os._exit(child(case))
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = os.fsdecode(said.read())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps([run(case) for case in json.loads(line)]), flush=True)
