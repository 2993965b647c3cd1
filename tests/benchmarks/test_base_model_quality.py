"""The benchmark of base models' quality: models are added to a kept result of the same rows alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from base_model_quality import SAME, joined  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402


def model(name: str, seeds: int, value: float = 0.5) -> dict[str, Any]:
    figures = {"ndcg@10": {"value": value, "low": value - 0.1, "high": value + 0.1}}
    return {"name": name, "seeds": seeds, "parts": {"all": figures}, "gains": {"all": figures}}


def result(*models: dict[str, Any]) -> dict[str, Any]:
    counts = {"all": {"rows": 9, "users": 3}}
    return {"made": "then", "commit": "old", "by": "ranking", "counts": counts, "items": 5, "models": [*models]}


KEPT = result(model("first", 3), model("second", 1), model("popularity", 0))


def test_models_are_added_behind_the_trained_ones() -> None:
    before = copy.deepcopy(KEPT)
    found = joined(KEPT, result(model("first", 3, 0.5 + SAME / 2), model("third", 1)))
    assert [row["name"] for row in found["models"]] == ["first", "second", "third", "popularity"]
    assert found["models"][0] == KEPT["models"][0]
    assert found["added_to"] == {"made": "then", "commit": "old"}
    assert before == KEPT


@pytest.mark.parametrize(
    "first", [model("other", 3), model("first", 2), model("first", 3, 0.5 + 2 * SAME), model("first", 3, float("nan"))]
)
def test_another_first_model_is_refused(first: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="its first model is 'first', of other rows or figures"):
        joined(KEPT, result(first, model("third", 1)))


def test_other_rows_are_refused() -> None:
    found = result(model("first", 3), model("third", 1))
    found["counts"] = {"all": {"rows": 10, "users": 3}}
    with pytest.raises(InputError, match="other rows"):
        joined(KEPT, found)
