"""The words for candidates without an answer: plain where scores hold them, and one error for several."""

from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from corella_edge.routing.forms import FORMS
from corella_edge.routing.reasons import FAULT, KEPT, NoAnswer
from corella_edge_runtime.llm.contract.messages import REASONS, Answers
from corella_edge_runtime.server.service import unanswered


def test_columns_hold_plain_words() -> None:
    for reason in NoAnswer:
        (held,) = Answers.none(1, reason).reasons
        assert (type(held), held) == (str, reason)
    assert ("", *NoAnswer) == REASONS


def test_a_word_says_either_that_a_candidate_was_routed_or_why_it_has_no_answer() -> None:
    assert not {KEPT, *(form.reason for form in FORMS)} & {*NoAnswer}
    assert len({KEPT, *(form.reason for form in FORMS)}) - 1 == len({form.prefix for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize(
    ("reasons", "least", "found"),
    [({"", "ratio"}, 0, None), ({"no_text", "deadline"}, 0, "deadline"), ({"no_text", "too_long"}, FAULT, None),
     ({"", "queue_full", "busy"}, FAULT, "busy"), ({"no_llm"}, FAULT, "no_llm"), (set(), 0, None)],
)  # fmt: skip
def test_of_several_reasons_the_first_is_told(reasons: set[str], least: int, found: str | None) -> None:
    assert NoAnswer.first(reasons, least) == found


@pytest.mark.parametrize("reason", NoAnswer)
def test_an_error_says_when_to_come_back_if_that_helps(reason: NoAnswer) -> None:
    error = unanswered(reason, ", and so on")
    assert isinstance(error, HTTPException)
    assert (error.status_code, error.detail) == (reason.status, f"{reason.text}, and so on")
    assert bool(error.headers) == (reason.status == 503)
