"""Requests that rank by weight · probability + bonus, on a real bundle with a real LLM."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import ITEMS, reseal
from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.request import Request
from corella_edge.request_message import parse_request, read_request
from corella_edge.routing.decision import Reach, Weighting, to_ask
from corella_edge.scores import answer
from corella_edge_runtime.batch import Tally, score_stream
from corella_edge_runtime.engine import Engine
from shops import make_shop

HISTORY = [{"item": f"i{n}", "rating": 4} for n in range(3)]
ALL = [f"i{n}" for n in range(ITEMS)]
NEARLY = Reach((0.0,), (-0.05, -0.02), (0.02, 0.05), 0.1)
WEIGHT = st.integers(0, 5) | st.floats(0, 10)
BONUS = st.floats(-1, 1) | st.integers(-1, 1)
LISTED = st.lists(st.tuples(st.sampled_from(ALL), WEIGHT, BONUS), min_size=1, max_size=12, unique_by=lambda row: row[0])
K = st.none() | st.integers(1, 12)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The LLM is asked about every candidate that can change the top."""
    root = make_shop(tmp_path_factory.mktemp("weights") / "bundle", llm=True)
    file = root / "routing.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "reach": NEARLY.to_json()}))
    reseal(root)
    with Engine.open(root, threshold="ratio:1", llm_threads=1, deterministic=True, tuned=False) as opened:
        yield opened


def request(items: list[str], k: int | None = None, **fields: Any) -> dict[str, Any]:
    top = {} if k is None else {"top_k": k}
    return {"user": {"id": "u1", "history": HISTORY}, "candidates": [{"item": item} for item in items], **top, **fields}


def ask(engine: Engine, message: dict[str, Any]) -> list[dict[str, Any]]:
    read = read_request(json.dumps(message).encode())
    assert read == parse_request(message)
    return list(answer(read, engine.rank(read), engine.name)["candidates"])


def columns(rows: list[tuple[str, float, float]]) -> tuple[list[str], dict[str, Any]]:
    items, weights, bonuses = map(list, zip(*rows, strict=True))
    return items, {"weights": weights, "bonuses": bonuses}


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=12, unique=True), K, st.sampled_from(["rank", "request"]),
       st.booleans(), st.booleans())  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_weights_of_one_and_bonuses_of_zero_leave_the_answer_unchanged(
    engine: Engine, items: list[str], k: int | None, order: str, weighted: bool, explain: bool
) -> None:
    neutral = {"weights": [1] * len(items)} if weighted else {"bonuses": [0.0] * len(items)}
    plain = ask(engine, request(items, k, order=order, explain=explain))
    found = ask(engine, request(items, k, order=order, explain=explain, **neutral))
    assert [row.pop("value") for row in found] == [row["probability"] for row in plain]
    assert found == plain


@given(LISTED, K)
@settings(max_examples=30, deadline=None)
def test_ranks_are_by_weight_times_probability_plus_bonus(
    engine: Engine, rows: list[tuple[str, float, float]], k: int | None
) -> None:
    items, values = columns(rows)
    whole = ask(engine, request(items, **values))
    expected = [weight * row["probability"] + bonus for row, (_, weight, bonus) in zip(whole, rows, strict=True)]
    assert [row["value"] for row in whole] == expected
    places = np.argsort(-np.array(expected), kind="stable")
    assert [row["item"] for row in sorted(whole, key=lambda row: row["rank"])] == [items[i] for i in places]
    assert len(ask(engine, request(items, k, **values))) == min(k or len(items), len(items))


@given(LISTED, st.randoms())
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_candidates_is_nothing(engine: Engine, rows: list[tuple[str, float, float]], rng: Any) -> None:
    moved = rng.sample(rows, len(rows))
    one, other = (ask(engine, request(columns(part)[0], **columns(part)[1])) for part in (rows, moved))
    by_item = {row["item"]: (row["value"], row["probability"], row["llm"]) for row in one}
    assert {row["item"]: (row["value"], row["probability"], row["llm"]) for row in other} == by_item


@given(LISTED, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_those_alone_are_asked_that_can_change_the_top_by_value(
    engine: Engine, rows: list[tuple[str, float, float]], k: int
) -> None:
    items, values = columns(rows)
    draft = engine.begin(parse_request(request(items, k, **values)))
    draft.cancel()
    every, value = np.arange(len(items)), Weighting(*(np.array(one, float) for one in values.values()))
    expected = to_ask(draft.crm, every, NEARLY(draft.crm), k, value=value)
    assert draft.routed.chosen.tolist() == every[expected].tolist()


def test_who_cannot_come_in_by_value_is_not_asked(engine: Engine) -> None:
    apart = {"bonuses": [float(-2 * place) for place in range(ITEMS)]}
    assert any(engine.rank(parse_request(request(ALL, 10))).reason)
    assert not any(engine.rank(parse_request(request(ALL, 10, **apart))).reason)


@given(LISTED, st.lists(st.sampled_from(ALL), max_size=6))
@settings(max_examples=20, deadline=None)
def test_weights_go_with_their_candidates_through_a_selection(
    engine: Engine, rows: list[tuple[str, float, float]], excluded: list[str]
) -> None:
    items, values = columns(rows)
    found = ask(engine, request(items, **values, exclude=excluded))
    kept = [row for row in rows if row[0] not in excluded]
    by_hand = ask(engine, request(columns(kept)[0], **columns(kept)[1])) if kept else []
    assert found == by_hand


def test_a_file_of_requests_is_answered_as_one_by_one(engine: Engine, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    messages = [
        request(ALL[n : n + 8], 3, weights=rng.uniform(0, 3, 8).tolist(), bonuses=rng.normal(0, 0.2, 8).tolist())
        for n in range(6)
    ]
    source = tmp_path / "requests.jsonl"
    source.write_text("".join(json.dumps(message) + "\n" for message in messages))
    out = io.BytesIO()
    score_stream(engine, TextFile(source), out, Tally(), lambda tally: None)
    lines = [json.loads(line)["candidates"] for line in out.getvalue().splitlines()]
    assert lines == [ask(engine, message) for message in messages]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "too few": ({"weights": [1.0]}, "weights: expected 3 numbers, one for each candidate, got 1"),
    "too many": ({"bonuses": [1.0] * 4}, "bonuses: expected 3 numbers, one for each candidate, got 4"),
    "below zero": ({"weights": [1.0, -0.5, 1.0]}, r"weights\[1\]: expected a number of at least 0, got -0.5"),
    "no number": ({"bonuses": [1.0, None, 1.0]}, r"bonuses\[1\]: expected a number, got nothing"),
    "too large": ({"bonuses": [1.0, 1e7, 1.0]}, r"bonuses\[1\]: expected a number of at most 1000000"),
    "not finite": ({"weights": [1.0, float("nan"), 1.0]}, r"weights\[1\]: nan is not a finite number"),
    "whole catalogue": ({"weights": [1.0], "candidates": None}, "weights: there is one for each candidate; name the"),
    "unknown attribute": ({"weights": "margn"}, "weights: no item has an attribute 'margn'; "),
    "attribute of words": ({"bonuses": "genres"}, "bonuses: the attribute 'genres' holds no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_one_number_a_candidate_is_refused(engine: Engine, name: str) -> None:
    fields, told = BAD[name]
    with pytest.raises(InputError, match=told):
        engine.rank(parse_request({**request(ALL[:3]), **fields}))


PRICES = {f"i{n}": float(n % 7) for n in range(ITEMS - 3)}  # the last three have none


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """As `engine`, with an attribute that only weights look at."""
    root = make_shop(tmp_path_factory.mktemp("priced") / "bundle", llm=True)
    file = root / "catalog.jsonl"
    items = [json.loads(line) for line in file.read_text().splitlines()]
    priced_items = [{**item, "price": PRICES[item["item"]]} if item["item"] in PRICES else item for item in items]
    file.write_text("".join(json.dumps(item) + "\n" for item in priced_items))
    routing = root / "routing.json"
    routing.write_text(json.dumps({**json.loads(routing.read_text()), "reach": NEARLY.to_json()}))
    reseal(root)
    with Engine.open(root, threshold="ratio:1", llm_threads=1, deterministic=True, tuned=False) as opened:
        yield opened


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=12, unique=True), K)
@settings(max_examples=20, deadline=None)
def test_an_attribute_is_the_list_of_its_numbers(priced: Engine, items: list[str], k: int | None) -> None:
    numbers = [PRICES.get(item, 0.0) for item in items]
    by_name = ask(priced, request(items, k, weights="price", bonuses="price"))
    assert by_name == ask(priced, request(items, k, weights=numbers, bonuses=numbers))


@pytest.mark.parametrize("k", [1, 3, None])
def test_the_whole_catalogue_ranks_by_an_attribute_as_if_it_were_listed(priced: Engine, k: int | None) -> None:
    whole = {**request(ALL, k, weights="price", exclude_seen=False, order="rank", threshold="ratio:0")}
    listed = ask(priced, whole)
    del whole["candidates"]
    assert ask(priced, whole) == listed
    assert [row["value"] for row in listed] == sorted((row["value"] for row in listed), reverse=True)
    del whole["threshold"]
    top = ask(priced, whole)
    assert len(top) == (k or ITEMS)
    if k:  # the LLM is asked about what is near the top by value
        draft = priced.begin(parse_request(whole))
        draft.cancel()
        value = draft.slate.value(draft.crm)
        assert (value[draft.routed.chosen] >= np.sort(value)[-4 * k]).all()


def test_what_a_candidate_brings_wins_over_the_catalogue(priced: Engine) -> None:
    candidates = [{"item": "i1", "features": {"price": 5}}, {"item": "new", "features": {"price": 2.5}},
                  {"item": "i2", "features": {"price": "dear"}}, {"item": "i3"}]  # fmt: skip
    found = ask(priced, {**request(ALL[:1]), "candidates": candidates, "weights": "price"})
    assert [row["value"] / row["probability"] for row in found] == pytest.approx([5.0, 2.5, 0.0, PRICES["i3"]])
    below = [{"item": "i1", "features": {"price": -1}}]
    with pytest.raises(InputError, match="weights: price of an item is below 0"):
        ask(priced, {**request(ALL[:1]), "candidates": below, "weights": "price"})
    assert ask(priced, {**request(ALL[:1]), "candidates": below, "bonuses": "price"})[0]["value"] < 0.0


def test_an_attribute_is_no_larger_than_a_list_may_be(priced: Engine) -> None:
    dear = [{"item": "i1", "features": {"price": -2e6}}]
    for name in ("weights", "bonuses"):
        with pytest.raises(InputError, match=f"{name}: price of an item is beyond 1000000"):
            ask(priced, {**request(ALL[:1]), "candidates": dear, name: "price"})


def test_what_cannot_be_weights_is_refused_where_popular_items_stand_in_too(engine: Engine) -> None:
    nobody = {"user": {}, "weights": [1.0]}
    with pytest.raises(InputError, match="weights: there is one for each candidate"):
        engine.rank(parse_request(nobody))
    assert engine.rank(parse_request({"user": {}})).fallback == "popular"


def test_null_is_left_out(engine: Engine) -> None:
    assert ask(engine, request(ALL[:3], weights=None, bonuses=None)) == ask(engine, request(ALL[:3]))


def test_a_fallback_ranks_by_itself(engine: Engine) -> None:
    nobody = {**request(ALL[:5], fallback=True, weights=[9, 1, 1, 1, 1]), "user": {}}
    found = parse_request(nobody)
    scores = engine.rank(found)
    assert scores.fallback == "popular"
    assert "value" not in answer(found, scores, engine.name)["candidates"][0]


def test_a_request_of_old_has_no_value(engine: Engine) -> None:
    assert engine.rank(Request(parse_request(request(ALL[:2])).user)).value is None
    assert "value" not in ask(engine, request(ALL[:2], explain=True))[0]
