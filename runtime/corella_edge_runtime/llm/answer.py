"""What is asked and what is answered. Knows no llama_cpp, so that an install without [llm] can import it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one sample: the part shared by the user's candidates, and the candidate's own."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """P(Yes) of one prompt, or nan and the reason why there is none.

    Reasons: "too_long", "deadline", "queue_full", "llm_error".
    """

    probability: float
    reason: str = ""
