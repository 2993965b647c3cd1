"""A history's numbers from a request to the answer: newest first ranks as oldest first, odd ratings are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge.history import STORED
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime.engine import Engine

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"
HISTORY = [{"item": f"i{n:02d}", "rating": 1 if n < 20 else 5, "time": 1_700_000_000 + n // 2} for n in range(1, 41)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open(GOLDEN, llm=None) as opened:
        yield opened


def ranked(engine: Engine, history: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    candidates = [{"item": "i01"}, {"item": "i02"}]
    request = parse_request({"user": {"history": history}, "candidates": candidates, **options})
    return json.loads(json.dumps(answer(request, engine.rank(request), engine.name)))


def test_newest_first_is_ranked_as_oldest_first_and_told(engine: Engine) -> None:
    right = ranked(engine, HISTORY, strict=True)
    assert "notes" not in right
    turned = ranked(engine, HISTORY[::-1], strict=True)
    assert turned.pop("notes") == ["user.history was newest first: it was turned round"]
    assert turned == right
    shuffled = ranked(engine, HISTORY[20:] + HISTORY[:20])
    assert shuffled.pop("notes") == ["user.history was not in the order of its times: it was sorted by time"]
    assert shuffled == right
    untimed = [{name: value for name, value in event.items() if name != "time"} for event in HISTORY]
    assert ranked(engine, untimed[::-1])["candidates"] != right["candidates"]


def test_ratings_outside_the_trained_scale_are_told_or_refused(engine: Engine) -> None:
    assert engine.rating_scale == (1.0, 5.0)
    odd = [{**event, "rating": event["rating"] * 20} for event in HISTORY]
    note = "user.history[0].rating: 20 is outside the scale this bundle was trained on, 1 to 5 (and 39 more)"
    assert ranked(engine, odd)["notes"] == [note]
    with pytest.raises(InputError, match=r"history\[0\]\.rating: 20 .* the request is strict"):
        ranked(engine, odd, strict=True)
    with pytest.raises(InputError, match="strict"):
        engine.check_features(parse_request({"user": {"history": odd}}))


def test_of_a_stored_history_no_place_is_told_for_the_caller_does_not_know_it(engine: Engine) -> None:
    request = parse_request({"user": {"history": [{"item": "i01", "rating": 20}]}, "candidates": [{"item": "i02"}]})
    told = "the user's stored history, a rating: 20 is outside the scale this bundle was trained on, 1 to 5"
    assert engine.finish(engine.begin(request, history=STORED)).notes == (told,)
    with pytest.raises(InputError, match=r"^the user's stored history, a rating: 20 .* the request is strict"):
        engine.check_features(request, STORED)


def test_without_a_vocabulary_of_ratings_the_scale_is_where_they_are_cut(engine: Engine) -> None:
    from dataclasses import replace

    schema = engine.encoder.schema
    others = replace(schema, fields=tuple(f for f in schema.fields if f.source != "rating"))
    profile = next((f for f in others.fields if f.source == "history_profile"), None)
    if profile is None:
        assert others.rating_scale is None
        return
    assert others.rating_scale is not None
    low, high = others.rating_scale
    assert low == pytest.approx(profile.args["mean"] - 10 * profile.args["scale"])
    assert high > 5
