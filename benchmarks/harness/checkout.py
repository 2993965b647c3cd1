"""Another checkout at work: its packages with the benchmarks of this one, and modules that it may have elsewhere."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corella_edge.errors import CorellaError

HERE = Path(__file__).resolve().parents[2]


def environment(checkout: Path) -> dict[str, str]:
    """Of a process that runs a checkout's packages under this checkout's benchmarks."""
    paths = [*(checkout.resolve() / part for part in ("", "export", "runtime")), HERE / "benchmarks"]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths))}


@dataclass(slots=True)
class ModuleProcess:
    """A module at work in a process of its own: asked a line, it answers a line of JSON."""

    module: str
    process: subprocess.Popen[str]

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise CorellaError(f"{self.module} ended with {self.process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def asked(checkout: Path, module: str, *arguments: object) -> Iterator[ModuleProcess]:
    """A module of the benchmarks run with a checkout's packages; it ends with the block."""
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, **environment(checkout)})  # fmt: skip
    try:
        yield ModuleProcess(module, process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def module(*names: str) -> Any:
    """The first module of these names that there is."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(names[-1])
