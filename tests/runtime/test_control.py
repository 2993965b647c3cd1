"""Routing held in operation, by a real engine over an LLM whose answers can be told: kept answers, a target, caps."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, make_bundle
from corella_edge.request import Candidate, Candidates, Event, Request, User
from corella_edge.routing.budget import BudgetTarget, Caps
from corella_edge.routing.decision import Reach, Weighting
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.maps import Maps, PlattScaling
from corella_edge.routing.policy import Policy
from corella_edge.scores import Scores
from corella_edge_runtime.control import Control, ControlSettings
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.held_target import Candidacy
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt

TITLED = [f"i{n}" for n in range(ITEMS - 1)]
ALL = tuple(map(Candidate, TITLED))


class Counting:
    """A backend whose answer tells the prompt and how often it has answered: no two answers are equal."""

    def __init__(self) -> None:
        self.prompts, self.busy, self.broken = 0, 0.0, False

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        result: Future[Answers] = Future()
        answers = []
        for prompt in prompts:
            self.prompts += 1
            told = zlib.crc32(repr((prompt.prefix, prompt.suffix, self.prompts)).encode())
            answers.append(LlmAnswer(told / 2**32))
        self.busy += 0.01 * len(answers)
        result.set_result(Answers.of(answers))
        return result

    def forget(self) -> None:
        pass

    def stats(self) -> dict[str, float]:
        return {"alive": 1.0, "breaker_open": float(self.broken), "busy_seconds": self.busy}

    def close(self) -> None:
        pass


class Box:
    """An engine under control, its LLM, and a clock that stands until it is moved."""

    def __init__(self, engine: Engine, settings: ControlSettings, threshold: str | None = None) -> None:
        assert engine.llm
        self.backend, self.now = Counting(), 1000.0
        self.engine = Engine(
            engine.bundle, engine.encoder, engine.crm, Llm(engine.llm.prompts, self.backend), threshold
        )
        self.engine.control = Control(
            settings, self.engine.routing, self.engine.policy, 1e-5, self.backend.stats, lambda: self.now
        )

    @property
    def control(self) -> Control:
        assert self.engine.control
        return self.engine.control

    def rank(self, user: User, *items: str, threshold: str | None = None) -> Scores:
        self.now += 1.0
        return self.engine.rank(Request(user, tuple(map(Candidate, items)) or ALL, threshold=threshold))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("control") / "bundle")


@pytest.fixture(scope="module")
def engine(root: Path) -> Any:
    with Engine.open(root, llm_threads=1) as opened:
        yield opened


def person(number: int, events: int = 4) -> User:
    return User(f"u{number}", {}, tuple(Event(f"i{(number * 5 + n) % 39}", float(n % 5 + 1)) for n in range(events)))


KEPT = ControlSettings(kept_answers=1000, kept_seconds=600.0)


def test_an_answer_is_given_again_as_it_was(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    first, again = box.rank(person(1)), box.rank(person(1))
    assert set(first.reason) == {"ratio"}
    assert set(again.reason) == {"kept"}
    assert again.llm.tolist() == first.llm.tolist()
    assert again.probability.tolist() == first.probability.tolist()
    assert again.routed.all()
    assert box.backend.prompts == len(TITLED)
    assert again.trace.evaluated == 0


def test_only_what_was_not_answered_is_asked(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    first = box.rank(person(1), "i1", "i2")
    then = box.rank(person(1), "i3", "i2", "i4")
    assert then.reason == ("ratio", "kept", "ratio")
    assert then.llm[1] == first.llm[1]
    assert box.backend.prompts == 4


def test_another_state_another_user_and_a_candidate_of_its_own_words_are_asked(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    box.rank(person(1), "i1")
    assert box.rank(person(1, events=5), "i1").reason == ("ratio",)
    assert box.rank(person(2), "i1").reason == ("ratio",)
    own = Request(person(2), (Candidate("i1", {"title": "Another film"}),))
    assert box.engine.rank(own).reason == ("ratio",)
    assert box.engine.rank(own).reason == ("ratio",)
    assert box.rank(person(2), "i1").reason == ("kept",)


def test_an_answer_grows_too_old(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    box.rank(person(1), "i1")
    box.now += 590.0
    assert box.rank(person(1), "i1").reason == ("kept",)
    box.now += 20.0
    assert box.rank(person(1), "i1").reason == ("ratio",)


def test_what_is_easy_stays_easy(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:0")
    box.rank(person(1), "i1", threshold="ratio:1")
    found = box.rank(person(1), "i1")
    assert (found.reason, found.routed.tolist()) == (("",), [False])


def test_answers_are_erased_with_the_user_and_with_those_who_gave_no_id(engine: Engine) -> None:
    box, nobody = Box(engine, KEPT, "ratio:1"), User(None, {}, person(1).history)
    for user in (person(1), person(2), nobody):
        box.rank(user, "i1")
    box.engine.forget("u1")
    assert box.rank(person(2), "i1").reason == ("kept",)
    assert box.rank(person(1), "i1").reason == ("ratio",)
    assert box.rank(nobody, "i1").reason == ("ratio",)


def test_what_was_asked_before_an_erasure_is_not_kept_after_it(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    draft = box.engine.begin(Request(person(1), (Candidate("i1"),)))
    box.engine.forget("u1")
    assert box.engine.finish(draft).reason == ("ratio",)
    assert box.control.stats()["kept_answers"] == 0
    assert box.rank(person(1), "i1").reason == ("ratio",)


def test_a_kept_answer_stands_while_the_llm_is_asked_and_where_it_is_not(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    kept = box.rank(person(1), "i1").llm[0]
    draft = box.engine.begin(Request(person(1), (Candidate("i1"), Candidate("i2"))))
    assert box.engine.before_llm(draft).reason == ("kept", "pending")
    refused = box.engine.begin(Request(person(1), (Candidate("i1"), Candidate("i3"))), "queue_full")
    found = box.engine.finish(refused)
    assert found.reason == ("kept", "queue_full")
    assert found.llm[0] == kept


def test_hits_and_misses_are_counted(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    box.rank(person(1), "i1", "i2")
    box.rank(person(1), "i1", "i3")
    found = box.control.stats()
    assert (found["kept_answers"], found["kept_answer_hits"], found["kept_answer_misses"]) == (3, 1, 3)


def test_returning_users_of_a_stream_are_mostly_answered_from_what_is_kept(engine: Engine) -> None:
    """Forty visits; at each the user looks at a page of ten and at the next page, which shares half of its items."""
    box, rng, asked = Box(engine, KEPT, "ratio:0.5"), np.random.default_rng(1), {"first": 0, "again": 0}
    for _ in range(40):
        user, start = person(int(rng.integers(20)), events=int(rng.integers(1, 9))), int(rng.integers(20))
        for page, offset in (("first", 0), ("again", 5)):
            before = box.backend.prompts
            box.rank(user, *TITLED[start + offset : start + offset + 10])
            asked[page] += box.backend.prompts - before
    found = box.control.stats()
    hits = found["kept_answer_hits"] / (found["kept_answer_hits"] + found["kept_answer_misses"])
    assert 0.2 < hits < 0.6
    assert asked["again"] < 0.7 * asked["first"]


HELD = ControlSettings(BudgetTarget(0.2, window=600.0))


def test_a_share_is_held_where_the_threshold_for_it_routes_another(engine: Engine) -> None:
    """Users whom the calibration rows do not hold, and items at random: ratio:0.2 routes another share."""
    box, rng = Box(engine, HELD), np.random.default_rng(2)
    plain = Box(engine, ControlSettings(), "ratio:0.2")
    routed = {"held": [], "plain": []}
    for n in range(900):
        user = person(int(rng.integers(25, 400)), events=int(rng.integers(0, 9)))
        items = [TITLED[place] for place in rng.permutation(len(TITLED))[:10]]
        routed["held"].append(box.rank(user, *items).routed.sum())
        if n < 300:
            routed["plain"].append(plain.rank(user, *items).routed.sum())
    assert abs(sum(routed["plain"]) / 3000 - 0.2) > 0.03
    assert sum(routed["held"][300:]) / 6000 == pytest.approx(0.2, abs=0.01)
    assert box.control.stats()["held_share"] == pytest.approx(0.2, abs=0.01)


def test_a_share_is_held_of_requests_for_the_best_where_many_candidates_cannot_change_them(engine: Engine) -> None:
    """Less than half of what the policy routes is asked: twice the target, as a level, would not be enough."""
    box, rng = Box(engine, ControlSettings(BudgetTarget(0.1, window=300.0))), np.random.default_rng(1)
    box.engine.routing = replace(box.engine.routing, reach=Reach((), (-0.05,), (0.05,), 0.1))
    asked = []
    for _ in range(700):
        box.now += 1.0
        items = tuple(Candidate(TITLED[place]) for place in rng.permutation(len(TITLED))[:20])
        asked.append(box.engine.rank(Request(person(int(rng.integers(400))), items, top_k=5)).routed.sum())
    assert box.control.shown()["level"] > 0.2
    assert sum(asked[400:]) / 6000 == pytest.approx(0.1, abs=0.01)


def test_what_says_never_or_is_strict_is_not_explored(engine: Engine) -> None:
    box = Box(engine, ControlSettings())
    box.engine.router.share = 1.0
    for request in (Request(person(1), ALL, threshold="ratio:0"), Request(person(1), ALL, strict=True)):
        found = box.engine.rank(request)
        assert "explore" not in found.reason
        assert found.propensity is None
    assert "explore" in box.engine.rank(Request(person(1), ALL)).reason


def test_a_request_s_own_threshold_is_its_own(engine: Engine) -> None:
    box = Box(engine, ControlSettings(BudgetTarget(0.0)))
    assert not any(box.rank(person(1)).reason)
    assert set(box.rank(person(1), threshold="ratio:1").reason) == {"ratio"}
    assert box.control.stats()["held_share"] == 0.0


def test_what_is_kept_costs_nothing_and_is_not_counted_as_asked(engine: Engine) -> None:
    box = Box(engine, ControlSettings(BudgetTarget(1.0), 1000))
    box.rank(person(1))
    box.rank(person(1))
    assert box.control.stats()["held_share"] == 0.5


def test_an_llm_that_cannot_be_asked_freezes_the_level(engine: Engine) -> None:
    box, rng = Box(engine, HELD), np.random.default_rng(3)

    def go(number: int) -> None:
        for _ in range(number):
            box.rank(person(int(rng.integers(400))), *[TITLED[n] for n in rng.permutation(len(TITLED))[:10]])

    go(60)
    before = box.control.stats()
    assert before["held_frozen"] == 0
    box.backend.broken = True
    go(60)
    after, shown = box.control.stats(), box.control.shown()
    assert (after["held_level"], after["held_frozen"]) == (before["held_level"], 1)
    assert shown
    assert shown["frozen"] == "the LLM cannot be asked"
    box.backend.broken = False
    go(5)
    assert box.control.stats()["held_frozen"] == 0


def test_milliseconds_a_second_are_held_and_are_of_this_engine_s_users(engine: Engine) -> None:
    """Ten candidates a second at 10 ms each: 20 ms a second is a fifth of them; of half of the users, a tenth."""
    box, rng = Box(engine, ControlSettings(BudgetTarget(None, 20.0, 300.0)), "ratio:0.5"), np.random.default_rng(4)
    asked = []
    for _ in range(1500):
        items = [TITLED[n] for n in rng.permutation(len(TITLED))[:10]]
        asked.append(int(box.rank(person(int(rng.integers(400))), *items).routed.sum()))
        if len(asked) == 750:
            assert sum(asked[450:]) / 300 * 10.0 == pytest.approx(20.0, rel=0.1)
            box.control.share_of_users(0.5)
    assert sum(asked[1200:]) / 300 * 10.0 == pytest.approx(10.0, rel=0.15)


def test_work_is_counted_once_by_the_llm_or_else_by_the_requests(engine: Engine) -> None:
    for counts in (True, False):
        box = Box(engine, ControlSettings(BudgetTarget(None, 20.0, 300.0)), "ratio:1")
        if not counts:
            assert box.control._target
            box.control._target.llm = dict
        for _ in range(3):
            box.rank(person(1), "i1")
            box.control.worked(0.5)
        box.rank(person(1), "i1")
        assert box.control._target
        busy = sum(part.busy for part in box.control._target.state.slices)
        assert busy == pytest.approx(0.03 if counts else 1.5, abs=0.02)


def test_a_capped_candidate_keeps_the_base_model_s_score_and_says_so(engine: Engine) -> None:
    box = Box(engine, ControlSettings(BudgetTarget(1.0, caps=Caps(one_user=0.01))))
    first = box.rank(User("u1", {}, person(1).history))
    assert {*first.reason} == {"ratio", "capped"}
    assert first.reason.count("ratio") == 10  # 1 % of what 1,000 candidates may ask: the hardest of hers
    hard = first.entropy[[reason == "ratio" for reason in first.reason]].min()
    assert hard >= first.entropy[[reason == "capped" for reason in first.reason]].max()
    found = box.rank(User("u1", {}, person(1).history))
    assert "ratio" not in found.reason
    capped = np.array([reason == "capped" for reason in found.reason])
    assert not found.routed[capped].any()
    assert found.probability[capped].tolist() == found.crm[capped].tolist()
    assert "ratio" in box.rank(person(2)).reason
    strict = Request(person(1), ALL, strict=True)
    assert "capped" in box.engine.rank(strict).reason


def test_new_items_and_new_users_have_caps_of_their_own(engine: Engine) -> None:
    unknown = [f"i{n}" for n in range(ITEMS - 5, ITEMS - 1)]
    box = Box(engine, ControlSettings(BudgetTarget(1.0, caps=Caps(new_items=0.0))))
    found = box.rank(person(1), *unknown, "i1")
    assert found.reason == ("capped",) * 4 + ("ratio",)
    box = Box(engine, ControlSettings(BudgetTarget(1.0, caps=Caps(new_users=0.0))))
    assert box.rank(User("never seen"), "i1").reason == ("capped",)
    assert box.rank(person(1), "i1").reason == ("ratio",)


def at(box: Box, nats: float, threshold: str | None = None) -> Scores:
    """A request to a server whose own threshold is that, as a target moves it."""
    box.engine.policy = box.engine.parse_threshold(f"{nats:.12f}")
    return box.rank(person(1), threshold=threshold)


def test_a_route_does_not_flicker_where_the_score_moves_within_its_tolerance(engine: Engine) -> None:
    box = Box(engine, ControlSettings(), "ratio:0.5")
    near = float(np.median(box.rank(person(1), threshold="ratio:0").entropy))
    routes = {tuple(at(box, near + step).reason) for step in (0.0, 2e-8, -2e-8, 4e-8, -4e-8)}
    fresh = {tuple(at(Box(engine, ControlSettings()), near + step).reason) for step in (4e-8, -4e-8)}
    assert len(routes) == 1
    assert len(fresh) == 2


def test_a_threshold_of_a_request_s_own_follows_no_other_routes_and_leaves_none(engine: Engine) -> None:
    box = Box(engine, ControlSettings(), "ratio:0.5")
    near = float(np.median(box.rank(person(1), threshold="ratio:0").entropy))
    above, below = near + 4e-8, near - 4e-8
    wide, narrow = (tuple(at(Box(engine, ControlSettings()), nats).reason) for nats in (below, above))
    assert wide != narrow
    for own in ("ratio:1", "ratio:0", "margin:0.5", f"{below:.12f}", f"{above:.12f}"):
        alone = tuple(Box(engine, ControlSettings()).rank(person(1), threshold=own).reason)
        assert tuple(at(box, above, own).reason) == alone  # whatever is remembered
        assert tuple(at(box, above).reason) == narrow  # and by whatever was asked in between
        assert tuple(at(box, above, own).reason) == alone
    assert tuple(at(box, below).reason) == narrow  # held, as the test above says


def test_a_whole_catalogue_counts_as_its_best(engine: Engine) -> None:
    box = Box(engine, ControlSettings(BudgetTarget(0.2)))
    box.now += 1.0
    box.engine.rank(Request(person(1), None, top_k=2))
    assert box.control._target
    assert 8 <= box.control._target.state.candidates <= 12


def test_an_engine_is_opened_with_what_it_holds(root: Path) -> None:
    with Engine.open(root, llm=None, control=ControlSettings(BudgetTarget(0.1), 10)) as engine:
        engine.rank(Request(person(1), ALL))
        assert engine.control
        shown = engine.control.shown()
        assert shown
        assert (shown["share"], shown["level"], shown["frozen"]) == (0.1, 0.1, "the LLM cannot be asked")
        assert engine.stats()["kept_answers"] == 0


def test_what_the_llm_said_before_the_latest_event_is_known_to_a_measure(engine: Engine) -> None:
    box = Box(engine, KEPT, "ratio:1")
    first = box.rank(person(1), "i1", "i2")
    found = box.control.known(person(1, events=5), Candidates.of(map(Candidate, ("i2", "i3", "i1"))))
    assert found[[0, 2]].tolist() == first.llm[[1, 0]].tolist()
    assert np.isnan(found[1])


def test_a_bundle_without_a_calibration_of_its_measure_stays_at_its_own_threshold(engine: Engine) -> None:
    box = Box(engine, HELD, "ratio:0.3")
    bare = replace(box.engine.routing, calibration=None)
    box.engine.control = Control(HELD, bare, box.engine.policy, 1e-5, box.backend.stats, lambda: box.now)
    plain = Box(engine, ControlSettings(), "ratio:0.3")
    for n in range(8):
        assert box.rank(person(n)).reason == plain.rank(person(n)).reason
    assert box.control.policy() is None
    assert box.control.stats()["held_frozen"] == 1
    assert "nothing moves: the bundle has no calibration of its measure" in box.control.told()[0]


def test_a_target_stands_still_while_a_latency_objective_asks_less(engine: Engine) -> None:
    box = Box(engine, ControlSettings(BudgetTarget(share=0.5, window=60.0)))
    for number in range(20):
        box.rank(person(number))
    before = box.control.policy()
    box.engine.router.ease(0.25)
    less = [int(box.rank(person(number)).routed.sum()) for number in range(20, 60)]
    assert sum(less) < 0.3 * len(less) * len(TITLED)
    assert box.control.policy() == before
    assert box.control.stats()["held_frozen"] == 1.0
    box.engine.router.ease(1.0)
    box.rank(person(60))
    assert box.control.stats()["held_frozen"] == 0.0


def test_of_a_catalogue_those_near_the_top_are_the_ones_that_the_answer_ranks_there() -> None:
    """By value on the answer's scale: a map keeps the order of probabilities, not that of weighted ones."""
    p, value = np.array([0.9] * 4 + [0.2] * 4), Weighting(np.array([1.0] * 4 + [4.0] * 4))
    flat = Policy(fusion=Fusion(maps=Maps(alone=PlattScaling(0.1))))
    for policy, near in ((Policy(), range(4)), (flat, range(4, 8))):
        seen = Candidacy.of(Request(User(), None, top_k=1), Candidates.of(ALL[:8]), policy, p, {}, [()] * 8, value)
        assert seen.near is not None
        assert np.flatnonzero(seen.near).tolist() == list(near)
