from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.request import Request, User
from corella_edge.router import entropy
from corella_edge.scores import Scores, answer

ROWS = st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]) | st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=9)


def make(rows: list[tuple[float, float | None]]) -> Scores:
    crm = np.asarray([p for p, _ in rows], dtype=np.float64)
    llm = np.asarray([np.nan if p is None else p for _, p in rows], dtype=np.float64)
    n = len(rows)
    items = tuple(f"i{i}" for i in range(n))
    reasons = tuple("" if p is None else "entropy" for _, p in rows)
    return Scores(items, crm, llm, entropy(crm), ~np.isnan(llm), reasons, tuple(("item",) for _ in rows))


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
    found = answer(Request(User(), id=name, top_k=top_k), scores, "b@1")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found.get("id") == name
    assert found["bundle"] == "b@1"
    candidates = found["candidates"]
    assert len(candidates) == min(len(rows), top_k or len(rows))
    places = [int(c["item"][1:]) for c in candidates]
    assert places == sorted(places)
    assert sorted(c["rank"] for c in candidates) == list(range(1, len(candidates) + 1))
    for c, place in zip(candidates, places, strict=True):
        assert (c["crm"], c["llm"]) == rows[place]
        assert c["routed"] == (c["llm"] is not None)
        assert c["probability"] == (c["llm"] if c["routed"] else c["crm"])
        assert c["unknown"] == ["item"]
