"""How far P(Yes) of the usual mode may be from the deterministic one's, by GGUF type: what is published and tested.

Well above the greatest that benchmarks/deviation.py observes of trained models, and above what random weights of the
tests move (docs/llm.md). Observations, not a proof.
"""

from __future__ import annotations

TOLERANCE = {"F32": 5e-3, "F16": 5e-3, "BF16": 5e-3, "Q8_0": 3e-2}
