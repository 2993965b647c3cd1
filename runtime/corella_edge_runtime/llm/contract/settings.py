"""How the LLM is run on a machine. Knows no llama_cpp: plans, command lines and children carry it as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from corella_edge.errors import InputError

# Longest prompt, in tokens: a checkpoint's own context could reserve gigabytes of KV cells.
MAX_CONTEXT = 8192
MOST_BATCH = MAX_CONTEXT  # what the longest prompt can need; llama.cpp reserves memory for all of a decode at once
MOST_QUEUED = 2**23  # tokens: as many prompts of one token each still fit a frame between processes
MOST_SEQUENCES = 255  # LLAMA_MAX_SEQ, less one for the prefix
# How far P(Yes) of the usual mode may be from the deterministic one's, by GGUF type: what is published and tested. Well
# above the greatest that benchmarks/deviation.py observes of trained models, and above what random weights of the tests
# move (docs/llm.md). Observations, not a proof.
TOLERANCE = {"F32": 5e-3, "F16": 5e-3, "BF16": 5e-3, "Q8_0": 3e-2}
_BOUNDS = {
    "threads": (1, math.inf),
    "batch": (1, MOST_BATCH),
    "sequences": (1, MOST_SEQUENCES),
    "kept_tokens": (0, math.inf),
    "queue_tokens": (1, MOST_QUEUED),
}


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """What a scorer and its queue need to know besides the model.

    Attributes:
        threads: of llama.cpp.
        cores: the cores they are bound to; empty = wherever the system puts them.
        batch: most tokens of one decode, at most 8192.
        sequences: most prompts of one decode, at most 255.
        kept_tokens: budget of the prefixes kept from request to request, in tokens.
        queue_tokens: prompts that wait, in tokens, at most 2**23; what comes beyond them is refused.
        max_wait: seconds that a request without a deadline waits at most; refused, if it seems to take more than half.
        deterministic: one whole prompt a decode and nothing kept: bit-equal on repeat.
    """

    threads: int = 1
    cores: tuple[int, ...] = ()
    batch: int = 512
    sequences: int = 64
    kept_tokens: int = 8192
    queue_tokens: int = 65536
    max_wait: float = 10.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if problem := self._problem():
            raise InputError(problem)

    def _problem(self) -> str:
        """The first value that is out of bounds, as a phrase; empty if none is."""
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                return f"{name}: {value!r:.80} is " + (f"below {least}" if value < least else f"above {most}")
        return "" if 0.0 < self.max_wait < math.inf else f"max_wait: {self.max_wait} is not above 0 and finite"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cores": list(self.cores)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> LlmSettings:
        """Settings from decoded JSON; fields that are missing keep their defaults. `where` names it in errors.

        Raises:
            InputError: an unknown field, a value of the wrong type, or one out of bounds.
        """
        usual = cls()
        known = {item.name: type(getattr(usual, item.name)) for item in fields(cls)}
        for name, value in data.items():
            if name not in known:
                raise InputError(f"{where}: unknown LLM setting {name!r:.80}; known: {', '.join(known)}")
            wanted = list if known[name] is tuple else known[name]
            if type(value) is not wanted or (wanted is list and not all(type(core) is int for core in value)):
                raise InputError(f"{where}.{name}: expected a value of type {wanted.__name__}, got {value!r:.80}")
        try:
            return cls(**{**data, "cores": tuple(data.get("cores", ()))})
        except InputError as error:
            raise InputError(f"{where}.{error}") from None
