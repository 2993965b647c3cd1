"""Why a candidate that the LLM was wanted for has no answer: one word each, what it says to people, an HTTP status."""

from __future__ import annotations

from collections.abc import Container
from enum import StrEnum

KEPT = "kept"  # the reason of a candidate whose LLM score was given before, for the same state of the user
FAULT = 500  # from this status on the fault is the server's, below it the candidate's


class NoAnswer(StrEnum):
    """The `reason` of such a candidate, in the order in which one stands for several.

    Columns of scores hold the plain words; why a candidate is routed is a `forms.Form`'s to say.

    Attributes:
        status: of a request for this answer alone (`/v1/score`), and of a strict one where the fault is the server's.
        text: ends a sentence to people.
    """

    status: int
    text: str

    def __new__(cls, word: str, status: int, text: str) -> NoAnswer:
        reason = str.__new__(cls, word)
        reason._value_, reason.status, reason.text = word, status, text
        return reason

    TOO_LONG = "too_long", 422, "the prompt has more tokens than the LLM reads"
    DEADLINE = "deadline", 504, "the LLM did not answer in time"
    BUSY = "busy", 504, "the LLM would not answer in time"
    QUEUE_FULL = "queue_full", 503, "too much waits for the LLM"
    LLM_ERROR = "llm_error", 503, "the LLM does not answer"
    NO_TEXT = "no_text", 422, "the item has no title to ask about"
    NO_LLM = "no_llm", 503, "no LLM is loaded"
    PENDING = "pending", 503, "the LLM is still being asked"
    CAPPED = "capped", 422, "its kind of candidate has had its share of the LLM"
    SHADOW = "shadow", 422, "the server asks the LLM beside the requests alone"

    @classmethod
    def first(cls, reasons: Container[str], least: int = 0) -> NoAnswer | None:
        """The first that is among the reasons, of those with at least such a status."""
        return next((reason for reason in cls if reason.status >= least and reason in reasons), None)
