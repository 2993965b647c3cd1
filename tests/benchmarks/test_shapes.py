"""What is asked of every side."""

from __future__ import annotations

import pytest

from harness.shapes import SHAPES, PromptStream, by_prefix
from harness.vocabulary import FIRST, NO, YES, answer_tokens, filler_tokenizer, filler_tokens


@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_has_the_shape_and_only_plain_tokens(name: str) -> None:
    shape = SHAPES[name]
    batch = PromptStream(500, seed=1).batch(shape)
    assert len(batch) == shape.prompts
    assert {(len(p.prefix), len(p.suffix)) for p in batch} == {(shape.prefix, shape.suffix)}
    assert all(FIRST <= token < 500 for p in batch for token in (*p.prefix, *p.suffix))
    assert len({p.prefix for p in batch}) == shape.users
    assert sum(len(p.prefix) + len(p.suffix) for p in batch) == shape.whole_tokens


def test_batches_never_repeat_and_the_seed_decides_them() -> None:
    one, two = PromptStream(5000, seed=1), PromptStream(5000, seed=1)
    first, second = one.batch(SHAPES["a2"]), one.batch(SHAPES["a2"])
    assert first[0].prefix != second[0].prefix
    assert [two.batch(SHAPES["a2"]), two.batch(SHAPES["a2"])] == [first, second]


def test_a_returning_user_keeps_the_prefix_and_has_other_candidates() -> None:
    stream = PromptStream(5000, seed=1)
    first = stream.batch(SHAPES["c3"])
    second = stream.again(first)
    assert [p.prefix for p in second] == [p.prefix for p in first]
    assert not {p.suffix for p in second} & {p.suffix for p in first}


def test_grouping_by_prefix_loses_nothing() -> None:
    batch = PromptStream(5000, seed=2).batch(SHAPES["b"])[:5] + PromptStream(5000, seed=3).batch(SHAPES["a1"])
    groups = by_prefix(batch)
    assert [(prefix, suffix) for prefix, suffixes in groups for suffix in suffixes] == [
        (p.prefix, p.suffix) for p in batch
    ]
    assert len(groups) == 6


def test_the_vocabulary_has_its_size_and_the_answers_their_places() -> None:
    tokens = filler_tokens(1000)
    assert len(tokens) == len(set(tokens)) == 1000
    answers = answer_tokens()
    assert (tokens[answers.yes], tokens[answers.no]) == (YES, NO)
    assert len(filler_tokenizer(1000)) == 1000
