from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.request import Candidates, Request, User
from corella_edge.scores import Scores, answer, answer_json

ROWS = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]) | st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=9)


def make(rows: list[tuple[float, float | None]]) -> Scores:
    crm = np.asarray([p for p, _ in rows], dtype=np.float64)
    llm = np.asarray([np.nan if p is None else p for _, p in rows], dtype=np.float64)
    n = len(rows)
    items = tuple(f"i{i}" for i in range(n))
    reasons = tuple("" if p is None else "entropy" for _, p in rows)
    return Scores(items, crm, llm, ~np.isnan(llm), reasons, tuple(("item",) for _ in rows))


def candidates(scores: Scores) -> Candidates:
    return Candidates(scores.items)


@given(ROWS)
def test_ranks_order_the_final_probability(rows: list[Any]) -> None:
    scores = make(rows)
    final = [p if q is None else q for p, q in rows]
    assert scores.probability.tolist() == final
    expected = sorted(range(len(rows)), key=lambda i: (-final[i], i))
    assert [int(i) for i in np.argsort(scores.rank)] == expected
    assert sorted(scores.rank.tolist()) == list(range(1, len(rows) + 1))


@given(ROWS, st.none() | st.integers(1, 12), st.none() | st.text(max_size=3))
def test_an_answer_is_strict_json_in_request_order(rows: list[Any], top_k: int | None, name: str | None) -> None:
    scores = make(rows)
    found = answer(Request(User(), candidates(scores), name, top_k=top_k), scores, "b@1")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.get("id") == name
    assert found["bundle"] == "b@1"
    told = found["candidates"]
    assert len(told) == min(len(rows), top_k or len(rows))
    places = [int(c["item"][1:]) for c in told]
    assert places == sorted(places)
    assert sorted(c["rank"] for c in told) == list(range(1, len(told) + 1))
    for c, place in zip(told, places, strict=True):
        assert (c["crm"], c["llm"]) == rows[place]
        assert c["routed"] == (c["llm"] is not None)
        assert c["probability"] == (c["llm"] if c["routed"] else c["crm"])
        assert c["unknown"] == ["item"]


def naive(request: Request, scores: Scores, bundle: str) -> dict[str, Any]:
    """The answer, candidate by candidate."""
    rows = []
    for i, item in enumerate(scores.items):
        llm = float(scores.llm[i])
        row = {
            "item": item, "rank": int(scores.rank[i]), "probability": float(scores.probability[i]),
            "crm": float(scores.crm[i]), "llm": None if llm != llm else llm, "entropy": float(scores.entropy[i]),
            "routed": bool(scores.routed[i]), "reason": scores.reason[i], "unknown": [*scores.unknown[i]],
        }  # fmt: skip
        if request.explain:
            row["crm_rank"] = 1 + sum(
                p > scores.crm[i] or (p == scores.crm[i] and j < i) for j, p in enumerate(scores.crm)
            )
        if request.top_k is None or row["rank"] <= request.top_k:
            rows.append(row)
    if request.candidates is None:
        rows.sort(key=lambda row: row["rank"])
    return {**({} if request.id is None else {"id": request.id}), "bundle": bundle, "candidates": rows}


@given(ROWS, st.none() | st.integers(1, 12), st.none() | st.text(max_size=3), st.booleans(), st.booleans())
def test_the_bytes_say_the_same_as_a_row_by_row_answer(
    rows: list[Any], top_k: int | None, name: str | None, explain: bool, whole: bool
) -> None:
    scores = make(rows)
    request = Request(User(), None if whole else candidates(scores), name, top_k=top_k, explain=explain)
    found = json.loads(answer_json(request, scores, "b@1"))
    told = found.pop("explain", None)
    assert found == naive(request, scores, "b@1")
    assert (told is not None) == explain
    if told:
        assert (told["wanted"], told["routed"]) == (sum(q is not None for _, q in rows),) * 2


def test_a_fallback_ranks_by_its_own_strength_and_is_told() -> None:
    scores = make([(0.9, None), (0.1, None), (0.5, None)])
    scores.fallback, scores.strength = "popular", np.array([1.0, 3.0, 3.0])
    found = answer(Request(User(), top_k=2), scores, "b@1")
    assert found["fallback"] == "popular"
    assert [(c["item"], c["rank"], c["probability"]) for c in found["candidates"]] == [("i1", 1, 0.1), ("i2", 2, 0.5)]
    assert scores.rank.tolist() == [3, 1, 2]
    assert "fallback" not in answer(Request(User()), make([(0.9, None)]), "b@1")
