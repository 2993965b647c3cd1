"""How many threads each model gets when nobody says."""

from __future__ import annotations

import os


def llm_default() -> int:
    """Every core this process may use but one, which is the CRM's: llama.cpp's threads wait for the slowest of them."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
