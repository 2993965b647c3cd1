"""Ranks of targets against a plain sort, and the metrics made of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.metrics import Bootstrap
from corella_edge.ranking import discounted, gains_of, hits, means, ranks, reciprocal, sampled


@st.composite
def slates(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Scores [b, n] with many ties, targets [b], and columns to leave out, some twice, the target among them or not."""
    rows, items = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    scores = draw(st.lists(st.lists(st.integers(0, 4), min_size=items, max_size=items), min_size=rows, max_size=rows))
    columns = st.integers(0, items - 1)
    targets = draw(st.lists(columns, min_size=rows, max_size=rows))
    gone = draw(st.lists(st.lists(columns, max_size=10), min_size=rows, max_size=rows))
    return np.asarray(scores, dtype=np.float32), np.asarray(targets), gone


def by_sorting(scores: np.ndarray, target: int, gone: list[int]) -> int:
    """The slow way: sort the candidates, the target behind its equals, and look where it stands."""
    kept = [column for column in range(len(scores)) if column == target or column not in gone]
    ordered = sorted(kept, key=lambda column: (-scores[column], column == target))
    return ordered.index(target) + 1


@given(slates())
def test_ranks_are_those_of_a_sort(slate) -> None:
    scores, targets, gone = slate
    slow = [by_sorting(*row) for row in zip(scores, targets.tolist(), gone, strict=True)]
    assert ranks(scores, targets, gone).tolist() == slow
    plain = [by_sorting(row, target, []) for row, target in zip(scores, targets.tolist(), strict=True)]
    assert ranks(scores, targets).tolist() == plain


@given(slates(), st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(slate, random) -> None:
    scores, targets, gone = slate
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    place = np.argsort(order)
    moved = ranks(scores[:, order], place[targets], [[int(place[c]) for c in columns] for columns in gone])
    assert moved.tolist() == ranks(scores, targets, gone).tolist()


@given(slates())
def test_rows_together_are_rows_one_by_one(slate) -> None:
    scores, targets, gone = slate
    alone = [ranks(scores[i : i + 1], targets[i : i + 1], gone[i : i + 1])[0] for i in range(len(scores))]
    assert ranks(scores, targets, gone).tolist() == alone


@given(slates())
def test_a_rising_function_of_the_scores_changes_nothing(slate) -> None:
    scores, targets, gone = slate
    assert ranks(np.exp(scores.astype(np.float64)) - 7, targets, gone).tolist() == ranks(scores, targets, gone).tolist()


def test_equal_scores_count_against_the_target() -> None:
    assert ranks(np.zeros((1, 50)), [3]).tolist() == [50]
    assert ranks([[1.0, 1.0, 0.0]], [0], [[1]]).tolist() == [1]  # left out, its equal is no candidate


def test_what_is_no_number_never_helps() -> None:
    assert ranks([[np.nan, 1.0, 2.0], [5.0, np.nan, 1.0]], [0, 0]).tolist() == [3, 2]


def test_a_target_in_its_own_history_stays_a_candidate() -> None:
    assert ranks([[3.0, 2.0, 1.0]], [1], [[0, 1, 1]]).tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "targets", "gone", "told"),
    [
        ([[1.0, 2.0]], [2], None, "none of the 2"),
        ([[1.0, 2.0]], [-1], None, "none of the 2"),
        ([[1.0, 2.0]], [0], [[5]], "row 0"),
        ([[1.0, 2.0]], [0, 1], None, "targets"),
        ([[1.0, 2.0]], [0], [[0], [1]], "left out"),
        ([1.0, 2.0], [0], None, "scores"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(scores, targets, gone, told) -> None:
    with pytest.raises(ValueError, match=told):
        ranks(scores, targets, gone)


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_one_relevant_item(place: int, k: int) -> None:
    assert discounted([place], k)[0] == (pytest.approx(1 / np.log2(place + 1)) if place <= k else 0.0)
    assert hits([place], k)[0] == float(place <= k)
    assert reciprocal([place])[0] == 1 / place


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_metrics_keep_their_order(places: list[int]) -> None:
    found = means(places)
    assert 0 <= found["ndcg@10"] <= found["hr@10"] <= 1
    assert 0 < found["mrr"] <= 1
    assert means([1] * len(places)) == {"hr@10": 1.0, "ndcg@10": 1.0, "mrr": 1.0}


def test_random_scores_hit_by_chance() -> None:
    rng = np.random.default_rng(0)
    rows, items, left = 4000, 200, 50
    scores, targets = rng.random((rows, items)), rng.integers(0, items, rows)
    assert means(ranks(scores, targets), 10)["hr@10"] == pytest.approx(10 / items, abs=0.014)  # 4 standard errors
    gone = [rng.choice(np.delete(np.arange(items), target), left, replace=False) for target in targets]
    assert means(ranks(scores, targets, gone), 10)["hr@10"] == pytest.approx(10 / (items - left), abs=0.016)


def test_no_row_has_no_mean() -> None:
    assert all(np.isnan(value) for value in means([]).values())


def test_intervals_are_over_users_and_gains_are_paired() -> None:
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(300), 2)
    places = rng.integers(1, 40, len(users))
    better = np.maximum(1, places - rng.integers(0, 3, len(users)))
    bootstrap = Bootstrap(users)
    one, other = sampled(better, bootstrap), sampled(places, bootstrap)
    assert {name: figure.value for name, figure in one.items()} == pytest.approx(means(better))
    for name in one:
        gain, alone = one[name].gain(other[name]), one[name].interval()
        assert gain.low <= gain.value <= gain.high
        assert gain.low > 0, name
        assert gain.high - gain.low < alone.high - alone.low, name
    assert one["hr@10"].gain(one["hr@10"]).high == 0.0


def test_names_carry_the_cut() -> None:
    assert list(gains_of([1], 5)) == ["hr@5", "ndcg@5", "mrr"]
