"""The ranking term of the LLM's loss: every pair of a user's answers, and nothing across users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_export.llm.sequences import TokenSequence
from corella_edge_export.training.tasks.llm import ranked, ranking_loss


def asked(labels: list[int]) -> TokenSequence:
    """A sequence with these answers; its tokens do not matter."""
    n = len(labels)
    return TokenSequence(np.zeros(n, np.int32), np.arange(n, dtype=np.int32), np.array(labels, np.int8), np.arange(n))


def logits_of(scores: list[float]) -> torch.Tensor:
    """(no, yes) whose difference is the score; the level common to both does not matter."""
    yes = torch.tensor(scores)
    return torch.stack([torch.full_like(yes, 0.7), yes + 0.7], dim=1)


@given(st.lists(st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(-4, 4)), min_size=1, max_size=6), min_size=1,
                max_size=5))  # fmt: skip
def test_it_is_the_mean_over_each_sequences_pairs(users: list[list[tuple[int, float]]]) -> None:
    expected, count = 0.0, 0
    for user in users:
        pairs = [(a, b) for label, a in user if label for other, b in user if not other]
        if pairs:
            count += 1
            expected += sum(-math.log(1 / (1 + math.exp(b - a))) for a, b in pairs) / len(pairs)
    sequences = [asked([label for label, _ in user]) for user in users]
    found = ranking_loss(logits_of([score for user in users for _, score in user]), sequences)
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert ranked(sequences) == count


def test_a_level_of_a_whole_user_does_not_matter() -> None:
    sequences = [asked([1, 0, 0]), asked([0, 1])]
    one = ranking_loss(logits_of([0.3, -0.2, 1.0, 0.5, 0.1]), sequences)
    other = ranking_loss(logits_of([2.3, 1.8, 3.0, -0.5, -0.9]), sequences)
    torch.testing.assert_close(one, other)


def test_its_gradient_lifts_what_is_liked() -> None:
    scores = torch.zeros(3, requires_grad=True)
    ranking_loss(torch.stack([torch.zeros(3), scores], dim=1), [asked([1, 0, 0])]).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.5, 0.25, 0.25])


def test_one_kind_of_answers_adds_nothing() -> None:
    scores = torch.tensor([[0.0, 1.0], [0.0, 2.0]], requires_grad=True)
    found = ranking_loss(scores, [asked([1, 1])])
    assert float(found) == 0.0
    assert ranked([asked([1, 1]), asked([0]), asked([0, 1])]) == 1
