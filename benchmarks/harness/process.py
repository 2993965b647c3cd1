"""The runtime as a fresh process: seconds to the first score, and memory beyond model files and KV cells."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness.quiet import Watch, is_void

FOLDER = Path(__file__).parents[1]
POLL = 0.005
MIB = 1 << 20
_BUFFER = re.compile(r"(\S+)\s+(KV|compute|model|output)\s+buffer size\s*=\s*([\d.]+) MiB")


def start_up(bundle: Path, threads: int, times: int) -> dict[str, Any]:
    """Seconds from starting a process to the LLM's first score, median and worst of `times`."""
    watch = Watch()
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        with child(bundle, threads, 0) as process:
            line_of(process)
            found.append(time.perf_counter() - began)
    load = watch.read()
    kept = found[1:]  # the first one brings files into the page cache
    return {"first_score_s": round(float(np.median(kept)), 3), "worst_s": round(max(kept), 3), "starts": times,
            "load": load, "void": is_void(load)}  # fmt: skip


def memory(bundle: Path, threads: int, requests: int) -> dict[str, Any]:
    """MiB while `requests` requests of the bundle's sample are ranked, or a GGUF file alone scores as many."""
    with child(bundle, threads, requests) as process:
        peak = 0
        while not readable(process):
            peak = max(peak, anonymous(process.pid))
            time.sleep(POLL)
        told = json.loads(line_of(process))
        buffers = buffers_of(told["log"])
        peak = max(peak, anonymous(process.pid))
        libraries = mapped(Path(f"/proc/{process.pid}/smaps").read_text(), bundle.resolve())
    # Prefixes kept outside the context are keys and values, too: their budget is a setting.
    keys = sum(size for name, size in buffers if " KV" in name) + told["kept_bytes"] / MIB
    used = peak / MIB
    return {
        "peak_anonymous": round(used, 1), "libraries": round(libraries / MIB, 1), "kv": round(keys, 1),
        "beyond_model_and_kv": round(used - keys + libraries / MIB, 1), "buffers": dict(buffers), "requests": requests,
    }  # fmt: skip


@contextmanager
def child(bundle: Path, threads: int, requests: int) -> Iterator[subprocess.Popen[str]]:
    """The child; it ends when its standard input is closed."""
    command = [sys.executable, "-m", "harness.child", str(bundle.resolve()), str(threads), str(requests)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=FOLDER) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def line_of(process: subprocess.Popen[str]) -> str:
    """The child's one line.

    Raises:
        RuntimeError: it ended without one.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the runtime's child ended with {process.wait()} before its first score")
    return line


def readable(process: subprocess.Popen[str]) -> bool:
    """Something has been written, or the child is gone."""
    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], 0)[0])


def anonymous(process: int) -> int:
    """Bytes of anonymous memory that are resident now."""
    status = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)


def mapped(smaps: str, without: Path) -> int:
    """Bytes of mapped files that are resident as they are on disk: libraries and the interpreter.

    Args:
        without: a folder whose files do not count.
    """
    total, counts = 0, False
    for line in smaps.splitlines():
        parts = line.split(maxsplit=5)
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = len(parts) == 6 and parts[5].startswith("/") and not Path(parts[5]).is_relative_to(without)
            held = 0
        elif counts and line.startswith("Rss:"):
            held = int(parts[1])
        elif counts and line.startswith("Anonymous:"):  # copied pages are in the anonymous figure already
            total += held - int(parts[1])
    return total * 1024


def buffers_of(log: Sequence[str]) -> list[tuple[str, float]]:
    """(backend and kind, MiB) of llama.cpp's buffers, as it told them."""
    found = [_BUFFER.search(line) for line in log]
    return [(f"{hit[1]} {hit[2]}", float(hit[3])) for hit in found if hit]
