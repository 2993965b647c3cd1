"""The benchmark of new items: which rows it asks about, what it draws, and that words alone tell such items apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import base_model_quality  # noqa: E402
import new_items  # noqa: E402
import tiny_run  # noqa: E402
from corella_edge import ranking  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge.metrics import Sampled  # noqa: E402
from corella_edge_export.crm.base import CrmModel  # noqa: E402
from corella_edge_export.crm.text_input import TextInput  # noqa: E402
from corella_edge_export.evaluation import rivals  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """40 users and 50 items, synthetic."""
    return tiny_run.prepared(tmp_path_factory.mktemp("prepared") / "small")


class Cold:
    """Data of which every fifth item has no training row; `liked`: their test rows are likes alone."""

    def __init__(self, data: Any, liked: bool) -> None:
        self.data, self.liked = data, liked

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def unseen_items(self, split: Any) -> Any:
        return (split.items % 5 == 0) & ((split.labels > 0) | (not self.liked))


def test_rows_with_both_labels_are_asked_as_they_are(data: Any) -> None:
    asked = new_items.asked_of(Cold(data, liked=False), 1)
    split = data.split("test")
    assert not asked.drawn
    assert asked.rows.tolist() == np.flatnonzero(split.items % 5 == 0).tolist()
    assert asked.labels.tolist() == split.labels[asked.rows].tolist()


def test_liked_rows_are_told_from_new_items_that_the_history_lacks(data: Any) -> None:
    cold = Cold(data, liked=True)
    asked, again = new_items.asked_of(cold, 1), new_items.asked_of(cold, 1)
    n, split = len(asked.rows) // 2, data.split("test")
    assert asked.drawn
    assert asked.labels.tolist() == [1] * n + [0] * n
    assert asked.rows[:n].tolist() == asked.rows[n:].tolist()
    assert asked.items[:n].tolist() == split.items[asked.rows[:n]].tolist()
    assert asked.items.tolist() == again.items.tolist()
    for row, item in zip(asked.rows[n:].tolist(), asked.items[n:].tolist(), strict=True):
        first = int(data.log.offsets[split.users[row]])
        assert item % 5 == 0
        assert item != split.items[row]
        assert item not in data.log.items[first : first + int(split.positions[row])]


def test_without_new_items_there_is_nothing_to_ask(data: Any) -> None:
    class Known(Cold):
        def unseen_items(self, split: Any) -> Any:
            return np.zeros(len(split.items), np.bool_)

    with pytest.raises(InputError, match="--hide-items"):
        new_items.asked_of(Known(data, liked=True), 1)


def test_many_rows_are_ranked_as_each_alone(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model_quality, "AT_ONCE", 7)
    split, log = data.split("test"), data.log
    for rival in (rivals.popular(data), rivals.following(data), rivals.alike(np.eye(len(data.item_ids)))):
        chosen = np.arange(0, len(split.users), 2)
        found = base_model_quality.places_by(data, rival, chosen)
        for place, row in [(place, int(chosen[place])) for place in (0, 6, 7, len(found) - 1)]:
            first = int(log.offsets[split.users[row]])
            history = log.items[first : first + int(split.positions[row])].astype(np.int64)
            assert found[place] == ranking.ranks(rival([history]), split.items[row : row + 1], [history])[0]


def test_the_time_is_of_one_text_a_call_and_both_forms_take_turns() -> None:
    asked: list[tuple[str, list[str]]] = []

    class Served:
        def __init__(self, name: str) -> None:
            self.name = name

        def vectors(self, texts: list[str]) -> None:
            asked.append((self.name, texts))

    texts = [str(i) for i in range(new_items.TURN + 5)]
    found = new_items.timed({form: Served(form) for form in new_items.FORMS}, texts)  # type: ignore[misc]
    assert found["titles"] == len(texts)
    assert all(len(texts) == 1 for _, texts in asked)
    turns = [name for name, _ in itertools.groupby(name for name, _ in asked)]
    assert turns in (["int8", "float32", "int8"], ["float32", "int8", "float32"])
    for form in new_items.FORMS:
        assert {text for name, [text] in asked if name == form} == set(texts)
        assert 0 <= found[form]["wall_ms"]["p50"] <= found[form]["wall_ms"]["p99"]


def test_other_vectors_of_items_hold_for_a_while() -> None:
    class Member(CrmModel):
        def __init__(self) -> None:
            super().__init__()
            self.text = TextInput(3, 2)
            self.text.start(torch.arange(12.0).reshape(4, 3), tuned=False)

        def states(self, feed: dict[str, torch.Tensor]) -> Any:
            raise NotImplementedError

    model, other = Member(), np.full((2, 3), -1, np.float32)
    with new_items.vectors_of(model, np.array([1, 3]), other):
        assert model.text.table.tolist() == [[0, 1, 2], [-1, -1, -1], [6, 7, 8], [-1, -1, -1]]
    assert (model.text.table == torch.arange(12.0).reshape(4, 3)).all()


def test_what_a_box_makes_is_compared_with_what_the_runs_have_seed_by_seed() -> None:
    def of(kept: float, made: float) -> dict[str, Sampled]:
        values = {"kept": kept, "float32": made, "int8": made + 0.25}
        return {name: Sampled(value, np.array([value - 0.125, value + 0.125])) for name, value in values.items()}

    found = new_items.made_on_a_box([of(0.5, 0.25), of(1.0, 0.25)])
    assert [found[name]["value"] for name in ("kept", "float32", "int8")] == [0.75, 0.25, 0.5]
    assert found["float32 - kept"] == {"value": -0.5, "low": -0.5, "high": -0.5}
    assert found["int8 - float32"] == {"value": 0.25, "low": 0.25, "high": 0.25}
