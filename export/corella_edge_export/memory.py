"""This process's memory: what torch frees is kept for what it asks for next, and how much more it may have."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corella_edge_runtime.box import memory_left, system_text

# Numbers and values of glibc's mallopt(3).
_TRIM, _MMAP = -1, -3
_EVERYTHING = 2**31 - 1
_LARGEST_USUAL = 2**25  # where glibc's own adjusting of the threshold ends


@contextmanager
def freed_kept() -> Iterator[None]:
    """Large pieces that are freed stay with the process, until the end.

    As a rule glibc gives back whatever is above 32 MiB, as the states of a batch are, and the next product gets it
    again page by page: a fifth of the time of reading prompts in float32, more where other processes run beside. No
    number changes. Another libc is left as it is.
    """
    _set(_EVERYTHING, _EVERYTHING)
    try:
        yield
    finally:
        _set(_LARGEST_USUAL, 2 * _LARGEST_USUAL)
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(mmap: int, trim: int) -> None:
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP, mmap)
        libc.mallopt(_TRIM, trim)


def available(root: Path = Path("/")) -> int:
    """Bytes that new processes can have without swapping, and within a limit of the control group, as a container has;
    0 where the system does not say."""
    lines = (system_text(root / "proc/meminfo") or "").splitlines()
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    free = 1024 * int(found[0][1]) if found and found[0][1:2] and found[0][1].isdecimal() else 0
    left = memory_left(root)
    return free if left is None else min(free, left)
