"""Threads in which llama.cpp computes and nothing else does.

oneDNN (torch in bfloat16) and ONNX Runtime's int8 kernels release the tiles of AMX when they are done. llama.cpp
remembers per thread that it has set them up, so its next product in such a thread is an illegal instruction.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
_here = threading.local()


def claim() -> None:
    """From now on nothing but llama.cpp computes in this thread."""
    _here.claimed = True


def claimed() -> bool:
    return getattr(_here, "claimed", False)


class OwnThread:
    """Runs what it is given in one claimed thread, which begins with the first call, while the caller waits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "corella-llm-own", claim)

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises."""
        future = self._thread.submit(work)
        try:
            return future.result()
        finally:
            # A caller who is interrupted must not go on while the work does.
            wait([future])

    def close(self) -> None:
        self._thread.shutdown()
