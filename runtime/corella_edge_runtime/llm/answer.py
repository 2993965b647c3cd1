"""What is asked and what is answered. Knows no llama_cpp, so that an install without [llm] can import it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


class BrokenError(RuntimeError):
    """The scorer can answer nobody any more, not even in a new context."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one sample: the part shared by the user's candidates, and the candidate's own.

    `whole`: the answers' share of the whole vocabulary is wanted, too.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """P(Yes) of one prompt, or nan and the reason why there is none.

    Reasons: "too_long", "deadline", "busy", "queue_full", "llm_error".

    Attributes:
        evaluated, reused: tokens computed for this prompt, and those an earlier one had left or shared.
        waited: seconds from its arrival in the queue to the first decode that held it.
        mass: log of the two answers' share of the whole vocabulary's probability; nan unless it was asked for, and
            from a backend that does not tell.
    """

    probability: float
    reason: str = ""
    evaluated: int = field(default=0, compare=False)
    reused: int = field(default=0, compare=False)
    waited: float = field(default=0.0, compare=False)
    mass: float = field(default=math.nan, compare=False)
