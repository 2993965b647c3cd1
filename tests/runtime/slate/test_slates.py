"""What a request selects is what a client would select by hand, on a real bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import GENRES, ITEMS, make_bundle, reseal
from corella_edge.bundle.artefact import POPULAR, Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge.request_message import parse_request
from corella_edge.routing.decision import NEAR, near_top
from corella_edge.scores import answer
from corella_edge.selection import Stock
from corella_edge_runtime.engine import Engine
from shops import COUNTS, make_shop

HISTORY = [{"item": item, "rating": 4} for item in ("i3", "i9", "gone", "i3")]
ALL = [f"i{n}" for n in range(ITEMS)]
IDS = st.lists(st.sampled_from([*ALL, "gone"]), max_size=12)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine.open(make_shop(tmp_path_factory.mktemp("shop") / "bundle"), llm=None) as engine:
        yield engine


def ask(engine: Engine, **fields: Any) -> dict[str, Any]:
    request = parse_request({"user": {"id": "u1", "history": HISTORY}, **fields})
    return answer(request, engine.rank(request), engine.name)


def items(found: dict[str, Any]) -> list[str]:
    return [row["item"] for row in found["candidates"]]


def given_by_hand(engine: Engine, wanted: list[str], **fields: Any) -> list[dict[str, Any]]:
    """The ranking of these candidates, best first; none of none."""
    listed = [{"item": item} for item in wanted]
    return list(ask(engine, candidates=listed, order="rank", **fields)["candidates"]) if wanted else []


@given(st.sampled_from(GENRES), IDS, IDS, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_selection_ranks_as_the_candidates_it_leaves(
    engine: Engine, genre: str, excluded: list[str], available: list[str], seen: bool
) -> None:
    selection = {"filter": {"genres": genre}, "exclude": excluded, "available": available, "exclude_seen": seen}
    catalog = engine.encoder.catalog
    left = [
        item
        for item in ALL
        if genre in catalog.of(item)["genres"] and item not in excluded and item in available
        and not (seen and item in ("i3", "i9"))
    ]  # fmt: skip
    expected = given_by_hand(engine, left)
    assert ask(engine, **selection)["candidates"] == expected
    # The same of candidates that the request gives, in its own order.
    listed = [{"item": item} for item in ALL]
    found = ask(engine, candidates=listed, **selection)["candidates"]
    assert sorted(found, key=lambda row: row["rank"]) == expected
    assert [row["item"] for row in found] == left


@pytest.mark.parametrize("k", [1, 3, 17, ITEMS, 100])
@pytest.mark.parametrize(
    "fields", [{}, {"candidates": [{"item": item} for item in ALL]}, {"filter": {"genres": "Drama"}}]
)
def test_top_k_is_the_beginning_of_the_whole_ranking(engine: Engine, fields: dict[str, Any], k: int) -> None:
    whole = ask(engine, order="rank", **fields)["candidates"]
    assert [row["rank"] for row in whole] == list(range(1, len(whole) + 1))
    assert ask(engine, order="rank", top_k=k, **fields)["candidates"] == whole[:k]
    in_order = ask(engine, order="request", top_k=k, **fields)["candidates"]
    assert sorted(in_order, key=lambda row: row["rank"]) == whole[:k]
    assert items({"candidates": in_order}) == sorted(items({"candidates": in_order}), key=ALL.index)


def test_the_defaults_follow_whether_the_whole_catalogue_is_ranked(engine: Engine) -> None:
    whole = ask(engine)
    assert [row["rank"] for row in whole["candidates"]] == list(range(1, ITEMS - 1))
    assert set(ALL) - set(items(whole)) == {"i3", "i9"}
    seen = ask(engine, exclude_seen=False, order="request")
    assert items(seen) == ALL
    listed = [{"item": item} for item in reversed(ALL)]
    assert items(ask(engine, candidates=listed)) == ALL[::-1]
    assert set(items(ask(engine, candidates=listed, exclude_seen=True))) == set(items(whole))


def test_what_the_box_holds_as_available_counts_where_the_whole_catalogue_is_ranked(engine: Engine) -> None:

    for stock in (
        Stock(True, frozenset({"i1", "i2", "i3", "later"})),
        Stock(False, frozenset(ALL) - {"i1", "i2", "i3"}),
    ):
        request = replace(parse_request({"user": {"history": HISTORY}}), stock=stock)
        assert set(engine.rank(request).items) == {"i1", "i2"}
        ignored = replace(parse_request({"user": {"history": HISTORY}, "available": False}), stock=stock)
        assert len(engine.rank(ignored).items) == ITEMS - 2
        listed = {"user": {"history": HISTORY}, "candidates": [{"item": "i3"}, {"item": "i4"}, {"item": "later"}]}
        assert len(engine.rank(replace(parse_request(listed), stock=stock)).items) == 3
        asked = replace(parse_request({**listed, "available": True}), stock=stock)
        assert set(engine.rank(asked).items) == {item for item in ("i3", "i4", "later") if stock.has(item)}


def test_nothing_left_is_an_empty_answer(engine: Engine) -> None:
    for fields in ({}, {"candidates": [{"item": "i1"}]}):
        found = ask(engine, available=["gone"], **fields)
        assert found["candidates"] == []
    note = ask(engine, filter={"genres": "Dramma"})["notes"]
    assert note == ["filter.genres: no item has 'Dramma'; nearest: Drama"]
    with pytest.raises(InputError, match=r"no item has 'Dramma'.*strict"):
        ask(engine, filter={"genres": "Dramma"}, strict=True)


def test_a_candidates_own_attributes_win(engine: Engine) -> None:
    own = [
        {"item": "i1", "features": {"genres": ["Opera"], "colour": "red"}},
        {"item": "new", "features": {"genres": "Opera"}},
        {"item": "i2"},
    ]
    assert items(ask(engine, candidates=own, filter={"genres": "Opera"})) == ["i1", "new"]
    assert items(ask(engine, candidates=own, filter={"colour": {"not": ["blue"]}})) == ["i1", "new", "i2"]
    assert items(ask(engine, candidates=own, filter={"colour": "red"})) == ["i1"]


def test_a_user_without_a_known_event_gets_what_is_popular(engine: Engine) -> None:
    best = sorted(ALL, key=lambda item: -COUNTS.get(item, 0))
    for history in ([], [{"item": "gone"}]):
        found = ask(engine, user={"id": "new", "history": history}, top_k=5)
        assert found["fallback"] == "popular"
        assert items(found) == best[:5]
        assert {row["reason"] for row in found["candidates"]} == {""}
    assert "fallback" not in ask(engine, user={"id": "new"}, fallback=False)
    assert "fallback" not in ask(engine, top_k=5)
    assert "fallback" not in ask(engine, user={"id": "new"}, candidates=[{"item": "i1"}])
    asked = ask(engine, user={"id": "new"}, candidates=[{"item": i} for i in ("i1", "i7", "gone")], fallback=True)
    assert [row["rank"] for row in asked["candidates"]] == [2, 1, 3]
    filtered = ask(engine, user={"id": "new"}, filter={"genres": {"not": engine.encoder.catalog.of("i7")["genres"]}})
    assert items(filtered) == [item for item in best if item in items(filtered)]
    assert "i7" not in items(filtered)


def test_neighbours_are_ranked_by_the_models_or_for_nobody_by_their_likeness(engine: Engine) -> None:
    known = ask(engine, similar_to=["i0", "i1"])
    assert set(items(known)) == {"i2", "i7"}
    assert "fallback" not in known
    assert known["candidates"] == given_by_hand(engine, ["i2", "i7"])
    nobody = ask(engine, user={}, similar_to=["i0"])
    assert (nobody["fallback"], items(nobody)) == ("similar", ["i1", "i2"])
    with pytest.raises(InputError, match="similar_to: the catalogue has no item 'gone'"):
        ask(engine, similar_to=["gone"])


def test_a_bundle_without_the_file_falls_back_on_nothing(tmp_path: Path) -> None:
    with Engine.open(make_bundle(tmp_path / "b", llm=False), llm=None) as engine:
        found = ask(engine, user={"id": "new"}, top_k=3)
        assert "fallback" not in found
        with pytest.raises(InputError, match=r"similar_to: this bundle holds no neighbours \(popular.jsonl\)"):
            ask(engine, similar_to=["i0"])


@pytest.mark.parametrize("line", ["no JSON", '{"item": "i1"}', '{"item": "i1", "count": 1, "similar": [["i2", 2]]}'])
def test_a_malformed_file_is_refused_by_line(tmp_path: Path, line: str) -> None:
    bundle = make_shop(tmp_path / "bundle")
    with (bundle / POPULAR).open("a") as file:
        file.write(line + "\n")
    reseal(bundle)
    with pytest.raises(BundleError, match=f"popular.jsonl line {len(COUNTS) + 1}: "):
        Engine.open(bundle, llm=None)


def test_types_of_events_are_read_of_the_bundle(tmp_path: Path) -> None:
    bundle = make_shop(tmp_path / "bundle", types=["purchase"])
    with Engine.open(bundle, llm=None) as engine:
        assert engine.memory[-1] == ("purchase",)
    (bundle / "events.json").write_text(json.dumps({"history": "purchase"}))
    reseal(bundle)
    with pytest.raises(BundleError, match=r"events\.json: history is not a list"):
        Bundle.open(bundle).event_types()


def test_of_a_whole_catalogue_the_llm_is_asked_about_the_top_alone(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    with Engine.open(make_shop(tmp_path / "b", llm=True), require_llm=True, tuned=False, llm_threads=1) as engine:
        k = 2
        plain = ask(engine, threshold="ratio:0", exclude_seen=False)["candidates"]
        top = {row["item"] for row in plain[: NEAR * k]}
        request = parse_request({"user": {"id": "u1", "history": HISTORY}, "threshold": "ratio:1", "top_k": k,
                                 "exclude_seen": False})  # fmt: skip
        scores = engine.rank(request)
        titled = {item for item in top if engine.encoder.catalog.of(item).get("title")}
        assert {item for item, routed in zip(scores.items, scores.routed, strict=True) if routed} == titled
        # Candidates that a request gives are asked about as the threshold says.
        listed = ask(engine, threshold="ratio:1", top_k=k, candidates=[{"item": item} for item in ALL], explain=True)
        assert listed["explain"]["wanted"] == ITEMS


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 25), st.data())
def test_near_the_top_are_the_highest_and_those_equal_to_them(
    values: list[int], most: int, data: st.DataObject
) -> None:
    p = np.array(values, float)
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(p) - 1)))), np.int64)
    least = sorted(values, reverse=True)[:most][-1]
    assert near_top(p, chosen, most).tolist() == [values[i] >= least for i in chosen.tolist()]
