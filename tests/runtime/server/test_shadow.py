"""The shadow delays nobody, keeps to its budget, and tells the log what the LLM would have said."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from bundles import make_bundle
from corella_edge.decision_log import read_logged
from corella_edge.request import Candidates, User
from corella_edge.request_message import parse_request
from corella_edge.routing.parts import usable
from corella_edge.routing.policy import Policy
from corella_edge.routing.replay import LoggedRows, replay
from corella_edge.scores import Scores
from corella_edge_runtime.decisions import DecisionLog
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.messages import Answers
from corella_edge_runtime.server import shadow
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.server.shadow import Allowance, Shadow, sample

ITEMS = [f"i{k}" for k in range(12)]


@given(st.floats(0.01, 5.0), st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 5.0)), max_size=40))
def test_no_more_is_spent_than_comes_and_was_saved(rate: float, steps: list[tuple[float, float]]) -> None:
    allowance, now, spent, last = Allowance(rate, 2.0, 0.0), 0.0, 0.0, 0.0
    for pause, wish in steps:
        now += pause
        if allowance.left(now) > 0.0:
            spent, last = spent + wish, wish
            allowance.spend(wish, now)
    assert spent - last <= 2.0 + rate * now + 1e-6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(1.0, 2.0, 100.0)
    allowance.spend(3.0, 100.0)
    assert allowance.left(50.0) == -1.0
    assert allowance.left(100.5) == pytest.approx(-0.5)


@given(st.integers(0, 200), st.floats(0.01, 1.0), st.integers(0, 50))
def test_the_chance_of_each_is_what_is_drawn(n: int, share: float, seed: int) -> None:
    places, chance = sample(n, share, np.random.default_rng(seed))
    assert chance == pytest.approx(np.full(n, share * min(1.0, 64 / max(1, n))))
    if places is not None:
        assert len(places) == min(n, 64)
        assert (np.diff(places) > 0).all()
    assert (sample(n, 1.0, np.random.default_rng(seed))[0] is None) == (n == 0)


def test_draws_come_true_as_often_as_their_chance_says() -> None:
    rng, hits = np.random.default_rng(0), np.zeros(100)
    for _ in range(4000):
        places, chance = sample(100, 0.3, rng)
        if places is not None:
            hits[places] += 1
    assert hits.mean() / 4000 == pytest.approx(chance[0], rel=0.05)


def scores(n: int = 12) -> Scores:
    p = np.linspace(0.1, 0.9, n)
    return Scores(tuple(ITEMS[:n]), p, np.full(n, np.nan), np.zeros(n, bool), ("",) * n, ((),) * n)


class SlowLlm:
    """Answers when it is let to; `begin` itself takes as long."""

    def __init__(self) -> None:
        self.go, self.waiting = threading.Event(), 0.0

    def stats(self) -> dict[str, float]:
        return {"waiting_seconds": self.waiting}

    def begin(self, user: object, candidates: Candidates, *_: object, yields: bool = False, **__: object) -> object:
        assert yields
        assert self.go.wait(20)
        return SimpleNamespace(future=None, answers=lambda: Answers.none(len(candidates), "busy"))


def test_what_does_not_fit_is_dropped_at_once_and_counted() -> None:
    counted: Counter[str] = Counter()
    llm, now = SlowLlm(), [0.0]
    beside = Shadow(1.0, np.random.default_rng(0), lambda: now[0])
    beside.count = lambda outcome, answers: counted.update([outcome])
    engine = SimpleNamespace(llm=llm)
    begun = []
    started = time.monotonic()
    for _ in range(10):
        begun.append(beside.begin(engine, User(), Candidates(ITEMS), scores(), 1))
    assert beside.begin(engine, User(), Candidates(ITEMS), scores(), shadow.CALM + 1) is None
    assert time.monotonic() - started < 15.0  # the LLM waits for 20
    assert sum(one is not None for one in begun) == shadow.WAITING
    llm.go.set()
    for one in begun[: shadow.WAITING]:
        one.result(20)
    assert counted == {"full": 10 - shadow.WAITING, "busy": 1, "asked": shadow.WAITING}
    beside._allowance.spend(5.0, now[0])
    beside.begin(engine, User(), Candidates(ITEMS), scores(), 1).result(20)
    now[0] += 100.0
    llm.waiting = 0.5
    beside.begin(engine, User(), Candidates(ITEMS), scores(), 1).result(20)
    assert counted == {"full": 10 - shadow.WAITING, "busy": 2, "asked": shadow.WAITING, "budget": 1}
    beside.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("shadow") / "bundle")


def test_the_base_model_answers_and_the_log_has_what_the_llm_would_have_said(bundle: Path, tmp_path: Path) -> None:
    body = {"id": "r", "user": {"id": "u1", "history": [{"item": "i3", "rating": 5}]}, "strict": True,
            "candidates": [{"item": item} for item in ITEMS], "threshold": "ratio:1"}  # fmt: skip

    def ended(metrics: str) -> float:
        return sum(map(float, re.findall(r'shadow_requests_total\{outcome="\w+"\} (\S+)', metrics)))

    async def rank(app: Starlette, number: int) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = [await client.post("/v1/rank", json={**body, "id": f"r{k}"}) for k in range(number)]
            async with asyncio.timeout(20):
                while ended((await client.get("/metrics")).text) < number:
                    await asyncio.sleep(0.01)
            return found

    with Engine.open(bundle, llm="thread", llm_threads=1, tuned=False) as engine:
        engine.warm_up()
        alone = engine.rank(parse_request(body))
        with DecisionLog.open(tmp_path / "log", 2**20) as log:
            beside = Shadow(1.0, np.random.default_rng(0))
            service = Service(decisions=log, shadow=beside)
            service.serve(engine)
            answers = asyncio.run(rank(build_app(service), 3))
            service.close()
    for answer in answers:
        assert answer.status_code == 200  # even where a candidate without an answer would be an error
        for candidate in answer.json()["candidates"]:
            assert (candidate["routed"], candidate["reason"], candidate["llm"]) == (False, "shadow", None)
            assert candidate["probability"] == candidate["crm"]
    logged = read_logged(sorted((tmp_path / "log").glob("*.jsonl")))
    assert len(logged) == 36
    assert not logged.routed.any()
    assert (logged.rows.propensity == 1.0).all()
    seen = logged.rows.known
    assert seen.sum() >= 12
    assert logged.rows.llm[seen] == pytest.approx(np.tile(alone.llm, 3)[seen], abs=2e-2)


def test_explored_candidates_are_asked_at_random_and_the_chance_is_logged(bundle: Path, tmp_path: Path) -> None:
    body = {"user": {"id": "u1"}, "candidates": [{"item": item} for item in ITEMS], "threshold": 0.66}
    with Engine.open(bundle, llm="thread", llm_threads=1, tuned=False, explore=0.25) as engine:
        engine.router._rng = np.random.default_rng(1)
        with DecisionLog.open(tmp_path / "log", 2**20) as log:
            for k in range(60):
                request = parse_request({**body, "id": f"r{k}"})
                found = engine.rank(request)
                log.put(request, found, engine.name, wait=True, know=engine.gate_inputs)
                hard = found.entropy >= 0.66
                assert found.routed[hard].all()
                assert [found.reason[i] for i in np.flatnonzero(hard)] == ["entropy"] * int(hard.sum())
                assert {found.reason[i] for i in np.flatnonzero(~hard & found.routed)} <= {"explore"}
    logged = read_logged(sorted((tmp_path / "log").glob("*.jsonl")))
    drawn = logged.reason == "explore"
    easy = logged.rows.propensity < 1.0
    assert (logged.rows.propensity[easy] == 0.25).all()
    assert (drawn <= easy).all()
    assert drawn[easy].mean() == pytest.approx(0.25, abs=0.06)
    first = json.loads(next((tmp_path / "log").glob("*.jsonl")).read_text().splitlines()[0])
    assert first["policy"]["name"] == "entropy"
    assert first["policy"]["threshold"] == 0.66
    assert set(first["inputs"]) == {"history", "dispersion"}
    # What a gate is fitted on is what it is given in serving.
    given = engine.gate_inputs(request, found)
    of_last = logged.rows.request == "r59"
    for name, values in given.items():
        if not np.isnan(values).any():
            assert logged.rows.inputs[name][of_last] == pytest.approx(values, abs=1e-6), name


WORDLESS = "i39"  # of the bundle's catalogue, without a title


def log_of(bundle: Path, folder: Path, number: int, **options: object) -> LoggedRows:
    """Logged rows of requests for items of which one has no words, drawn in the shadow or explored."""
    share = float(options.pop("shadow", 0.0))
    body = {"candidates": [{"item": item} for item in (*ITEMS, WORDLESS, "nowhere")], "threshold": 0.66}
    with Engine.open(bundle, llm="thread", llm_threads=1, tuned=False, **options) as engine:
        engine.router._rng = np.random.default_rng(1)
        with DecisionLog.open(folder, 2**20) as log:
            beside = Shadow(share, np.random.default_rng(0), llm_share=100.0)
            for k in range(number):
                request = parse_request({**body, "id": f"r{k}", "user": {"id": f"u{k % 7}"}})
                draft = engine.begin(request, "shadow" if share else "")
                if draft.asking is not None and draft.asking.future is not None:
                    draft.asking.future.result(20)
                found = engine.finish(draft)
                begun = beside.begin(engine, request.user, draft.slate.candidates, found, 1) if share else None
                if begun is not None:
                    begun.result(20)
                log.put(request, found, engine.name, wait=True, know=engine.gate_inputs)
            beside.close()
    return read_logged(sorted(folder.glob("*.jsonl")))


@pytest.mark.parametrize("options", [{"shadow": 0.5}, {"explore": 0.5}])
def test_no_chance_keeps_away_the_answer_about_an_item_without_words(
    bundle: Path, tmp_path: Path, options: dict[str, float]
) -> None:
    """There is none: whether its request was drawn or not, the row says all that there is to say of it."""
    logged = log_of(bundle, tmp_path / "log", 40, **options)
    rows = logged.rows
    wordless = np.isin(rows.item.astype(str), (WORDLESS, "nowhere"))
    assert wordless.sum() == 80
    assert (rows.propensity[wordless] == 1.0).all()
    assert not rows.known[wordless].any()
    assert usable(rows)[wordless].all()
    assert logged.mute.tolist() == wordless.tolist()
    drawn = rows.propensity < 1.0
    assert set(rows.propensity[drawn]) == {0.5}
    assert rows.known[drawn].mean() == pytest.approx(0.5, abs=0.15)
    # A policy that asks about everything leaves nothing undecided but what was not drawn.
    again = replay(logged, Policy(threshold=0.0))
    assert not wordless[again.undecided].any()
    assert again.wanted.tolist() == (~wordless).tolist()
    # Each row stands for others like it: rows with words weigh as many as there are, about.
    weight = np.where(usable(rows), rows.weight, 0.0)
    assert weight[wordless].sum() == 80
    assert weight[~wordless].sum() == pytest.approx((~wordless).sum(), rel=0.25)


def test_where_a_fallback_ranks_nothing_is_left_to_chance() -> None:
    beside = Shadow(1.0, np.random.default_rng(0))
    found = scores()
    found.fallback = "popular"
    assert beside.begin(SimpleNamespace(llm=SlowLlm()), User(), Candidates(ITEMS), found, 1) is None
    assert found.propensity is None
    beside.close()
