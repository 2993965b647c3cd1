"""Routing held by a real server over HTTP: a share is held, answers are kept, and erased with their user."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import parser

from bundles import ITEMS, make_bundle
from sessions import ONE, Served, serving, start

ALL = [{"item": f"i{n}"} for n in range(ITEMS - 1)]
HISTORY = [{"item": "i3", "rating": 5}, {"item": "i8", "rating": 2}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("held")
    bundle = make_bundle(folder / "bundle")
    options = ("--target-ratio", 0.3, "--window", "1h", "--cap", "new-users=0.9", "--kept-answers", 500,
               "--store", folder / "users.db", "--timeout-ms", 20_000)  # fmt: skip
    with serving(start("serve", bundle, "--port", 0, *options, *ONE)) as server:
        yield server


def metrics(served: Served) -> dict[str, float]:
    text = httpx.get(f"{served.url}/metrics").text
    return {s.name: s.value for f in parser.text_string_to_metric_families(text) for s in f.samples}


def rank(served: Served, user: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{served.url}/v1/rank", json={"user": user, "candidates": ALL, **more}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["candidates"]


def test_the_start_says_what_is_held(served: Served) -> None:
    assert served.says("held over 3600 s: a share of 0.3; the threshold begins at ratio:0.3, and moves")
    assert served.says("up to 500 answers of the LLM are kept for 3600 s")


def test_answers_are_kept_and_erased_with_their_user(served: Served) -> None:
    events, before = {"user_id": "u1", "events": HISTORY}, metrics(served)["corella_edge_kept_answers"]
    assert httpx.post(f"{served.url}/v1/events", json=events).status_code == 200
    first, again = (rank(served, {"id": "u1"}, threshold="ratio:1") for _ in range(2))
    assert {row["reason"] for row in first} == {"ratio"}
    assert {row["reason"] for row in again} == {"kept"}
    assert [row["llm"] for row in again] == [row["llm"] for row in first]
    assert [row["probability"] for row in again] == [row["probability"] for row in first]
    found = metrics(served)
    assert found["corella_edge_kept_answers"] - before == found["corella_edge_kept_answer_hits_total"] == len(ALL)
    assert httpx.delete(f"{served.url}/v1/users/u1").json()["deleted"] is True
    assert metrics(served)["corella_edge_kept_answers"] == 0


def test_a_share_is_held_over_http(served: Served) -> None:
    rng = random.Random(1)
    for _ in range(80):
        user = {"id": f"u{rng.randrange(400)}", "history": rng.sample(ALL, 4)}
        rank(served, user)
    found, live = metrics(served), httpx.get(f"{served.url}/page/live").json()["target"]
    assert found["corella_edge_target_share"] == 0.3
    assert found["corella_edge_held_frozen"] == 0
    assert found["corella_edge_held_share"] == pytest.approx(0.3, abs=0.03)
    assert live["held_share"] == found["corella_edge_held_share"]
    assert live["frozen"] == ""


def test_milliseconds_are_those_of_the_llm_s_process(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    options = ("--target-ms", 100, "--window", "1m", "--threshold", "ratio:1", "--timeout-ms", 20_000)
    with serving(start("serve", bundle, "--port", 0, *options, *ONE)) as server:
        for _ in range(4):
            rank(server, {"id": "u1"})
            time.sleep(0.6)
        found = metrics(server)
    assert found["corella_edge_target_llm_seconds"] == 0.1
    assert 0 < found["corella_edge_held_llm_seconds"] < 1
    assert server.says("100 LLM milliseconds a second")


def test_a_bundle_that_may_never_ask_is_held_at_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", llm=False)
    with serving(start("serve", bundle, "--port", 0, "--target-ratio", 0.2, *ONE)) as server:
        assert not any(row["routed"] for row in rank(server, {"id": "u1"}))
        found = metrics(server)
        assert (found["corella_edge_held_frozen"], found["corella_edge_held_level"]) == (1, 0.2)
