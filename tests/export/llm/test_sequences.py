from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.llm.sequences import SequenceBuilder, Spelling, TokenSequence, bucketed

YES, NO, BOS = 1_200_001, 1_200_002, 1_200_003
TEMPLATE = Template(item="{title}, {genres}:", profile={"age": "{}"}, history_lines=4, block=3)


def builder(fitted: Any, template: Template = TEMPLATE, titles: bool = True) -> SequenceBuilder:
    catalog = fitted.encoder.catalog
    if not titles:
        records = [{**r, "title": None if i % 3 else r["title"]} for i, r in enumerate(catalog.attributes)]
        catalog = Catalog(catalog.ids, records)
    encoder = PromptEncoder(template, catalog, lambda text: [ord(c) for c in text], Tokens(YES, NO, BOS))
    return SequenceBuilder(fitted.data, encoder)


def everyone(split: Any) -> list[int]:
    return np.unique(split.users).tolist()


def seen_by(sequence: TokenSequence) -> list[list[int]]:
    """Per target the tokens up to its answer: those before it, or those that its branch sees and the branch's own."""
    tokens, places = sequence.tokens.tolist(), sequence.positions.tolist()
    if not sequence.branches:
        return [tokens[: place + 1] for place in places]
    return [
        tokens[:visible] + tokens[start : place + 1]
        for (start, visible), place in zip(sequence.branches, places, strict=True)
    ]


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("titles", [True, False])
def test_an_exact_sequence_is_the_prompt_of_serving(fitted: Any, name: str, titles: bool) -> None:
    made = builder(fitted, titles=titles)
    data, split = fitted.data, fitted.data.split(name)
    seen = []
    for sequence in made.exact(split, everyone(split)):
        for tokens, label, row in zip(seen_by(sequence), sequence.labels, sequence.rows, strict=True):
            request = data.request(int(split.users[row]), int(split.positions[row]), [int(split.items[row])])
            suffix = made.encoder.suffix((request.candidates or ())[0])
            assert suffix is not None
            assert tokens == [*made.encoder.prefix(request.user), *suffix]
            assert label == split.labels[row]
            seen.append(int(row))
    texts = [made.encoder.item(int(item)) is not None for item in split.items]
    assert sorted(seen) == np.flatnonzero(texts).tolist()
    assert all(texts) == titles


@pytest.mark.parametrize("offset", range(7))
def test_every_row_is_a_training_target_once(fitted: Any, offset: int) -> None:
    made, split = builder(fitted), fitted.data.split("train")
    sequences = made.training(split, everyone(split), offset)
    rows = np.concatenate([s.rows for s in sequences])
    assert sorted(rows.tolist()) == list(range(len(split.users)))
    np.testing.assert_array_equal(np.concatenate([s.labels for s in sequences]), split.labels[rows])
    for sequence in sequences:
        assert len(set(split.users[sequence.rows])) == 1
        assert (np.diff(split.positions[sequence.rows]) >= fitted.data.rows_in_log).all()
        assert np.ptp(split.positions[sequence.rows]) < 7


def test_a_training_target_is_asked_after_its_own_history(fitted: Any) -> None:
    made, split, data = builder(fitted), fitted.data.split("train"), fitted.data
    for sequence in made.training(split, everyone(split), 2):
        for tokens, row in zip(seen_by(sequence), sequence.rows, strict=True):
            request = data.request(int(split.users[row]), int(split.positions[row]), [int(split.items[row])])
            header = made.encoder.header(request.user)
            lines = [made.encoder.line(made.encoder.item(made.encoder.catalog.row_of[e.item]), e)
                     for e in request.user.history]  # fmt: skip
            suffix = made.encoder.suffix((request.candidates or ())[0]) or []
            assert tokens[: len(header)] == header
            assert tokens[-len(suffix) :] == suffix
            middle = tokens[len(header) : len(tokens) - len(suffix)]
            ends = [[t for line in lines[start:] for t in line] for start in range(len(lines) + 1)]
            assert middle in ends


def test_only_the_wanted_users_and_rows_are_targets(fitted: Any) -> None:
    made, split = builder(fitted), fitted.data.split("valid")
    some = everyone(split)[::2]
    expected = np.flatnonzero(np.isin(split.users, some)).tolist()
    for sequences in (made.training(split, some, 0), made.exact(split, some)):
        assert sorted(r for s in sequences for r in s.rows.tolist()) == expected
    wanted = set(expected[::3])
    assert sorted(r for s in made.exact(split, some, wanted) for r in s.rows.tolist()) == sorted(wanted)
    assert made.exact(split, some, set()) == []
    assert made.exact(split, [10**6]) == []


def test_the_answers_in_a_sequence_are_the_ratings(fitted: Any) -> None:
    made, split, log = builder(fitted), fitted.data.split("train"), fitted.data.log
    for user in everyone(split)[:10]:
        for sequence in made.training(split, [user], 0):
            answers = [t == YES for t in sequence.tokens.tolist() if t in (YES, NO)]
            last = int(split.positions[sequence.rows].max())
            ratings = log.ratings[log.offsets[user] :][last - len(answers) : last]
            assert answers == [bool(r > 3 or r != r) for r in ratings]


def worded(fitted: Any) -> SequenceBuilder:
    """Longer questions after the usual lines."""
    asked = builder(fitted, replace(TEMPLATE, item="{title}, {genres}. Is it good?")).encoder
    return SequenceBuilder(fitted.data, asked, builder(fitted).encoder)


@pytest.mark.parametrize("name", SPLITS)
def test_lines_worded_otherwise_are_seen_and_never_asked(fitted: Any, name: str) -> None:
    made, usual = worded(fitted), builder(fitted).encoder
    data, split = fitted.data, fitted.data.split(name)
    seen = []
    for sequence in made.exact(split, everyone(split)):
        for (start, visible), place, row in zip(sequence.branches, sequence.positions, sequence.rows, strict=True):
            request = data.request(int(split.users[row]), int(split.positions[row]), [int(split.items[row])])
            assert sequence.tokens[:visible].tolist() == usual.prefix(request.user)
            assert sequence.tokens[start : place + 1].tolist() == made.encoder.suffix((request.candidates or ())[0])
            seen.append(int(row))
    assert sorted(seen) == list(range(len(split.users)))


def test_a_spelled_question_keeps_the_words_of_its_place(fitted: Any) -> None:
    made, split, mark = worded(fitted), fitted.data.split("train"), 1_200_009
    spelling = Spelling(1.0, lambda text: [mark, *map(ord, text)], np.random.default_rng(0))
    texts = {True: made.encoder.template, False: TEMPLATE}
    expected = {asked: {template.item_text(a) for a in made.encoder.catalog.attributes}
                for asked, template in texts.items()}  # fmt: skip
    for sequence in made.training(split, everyone(split)[:5], 0, spelling):
        tokens = sequence.tokens.tolist()
        starts = [i for i, token in enumerate(tokens) if token == mark]
        for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
            text = "".join(chr(t) for t in takewhile(lambda t: t not in (YES, NO), tokens[start + 1 : end]))
            assert text in expected[start >= sequence.trunk]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200), st.integers(0, 5))
def test_batches_hold_everything_once_within_their_size(lengths: list[int], size: int, seed: int) -> None:
    sizes = np.asarray(lengths, dtype=np.int64)
    batches = bucketed(sizes, size, np.random.default_rng(seed))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= size
    again = bucketed(sizes, size, np.random.default_rng(seed))
    assert [b.tolist() for b in batches] == [b.tolist() for b in again]
