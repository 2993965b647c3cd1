"""A bundle with a learned gate, and one that knows how far asking moves a score, in the engine with a real LLM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, reseal
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.routing.decision import Reach, to_ask
from corella_edge.routing.gate import FIRST, INPUTS, Gate
from corella_edge.routing.log_odds import logit
from corella_edge.routing.policy import Calibration
from corella_edge_runtime.engine import Engine
from shops import COUNTS, make_shop

NAMES = tuple(INPUTS)
USER = User("u3", {}, tuple(Event(f"i{i}", 4.0) for i in range(4)))
EVERYTHING = tuple(Candidate(f"i{i}") for i in range(ITEMS))
FAR = Reach((), (-8.0,), (8.0,), 0.1)
NEARLY = Reach((0.0,), (-0.05, -0.02), (0.02, 0.05), 0.1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("gate") / "plain", llm=True)


def gate_of(name: str, weight: float = 1.0) -> Gate:
    """The value is one input alone."""
    weights = [0.0] * (FIRST + 2 * len(NAMES))
    weights[FIRST + 2 * NAMES.index(name)] = weight
    return Gate("ridge", NAMES, (0.0,) * len(NAMES), tuple(weights))


def opened(root: Path, threshold: str = "policy", **routing: Any) -> Engine:
    """An engine of the bundle with these objects in its routing.json."""
    out = Path(f"{root}-{len(list(root.parent.iterdir()))}")
    shutil.copytree(root, out)
    file = out / "routing.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **routing}))
    reseal(out)
    return Engine.open(out, threshold=threshold, llm_threads=1, deterministic=True, tuned=False)


def policy(gate: Gate, threshold: float, values: list[float]) -> dict[str, Any]:
    quantiles = Calibration.fit(np.array(values), least=gate.least)
    thresholds = [None if t == np.inf else t for t in quantiles.thresholds.tolist()]
    return {"measure": gate.to_json(), "threshold": threshold,
            "shares": quantiles.shares.tolist(), "thresholds": thresholds}  # fmt: skip


def wanted(engine: Engine, candidates: Any = EVERYTHING, **request: Any) -> set[str]:
    scores = engine.rank(Request(USER, candidates, **request))
    return {item for item, reason in zip(scores.items, scores.reason, strict=True) if reason}


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_what_the_bundle_says_of_the_item(plain: Path, name: str) -> None:
    own = Candidate("new", {"title": "Film 99"})
    items = [*EVERYTHING, own, Candidate("nothing")]
    with opened(plain, policy=policy(gate_of(name), 0.5, [0.0, 1.0])) as engine:
        draft = engine.begin(Request(USER, items))
        draft.cancel()
        known = len(engine.encoder.schema.vocabularies["item"]) - 2
        expected: dict[str, Any] = {
            "popularity": [np.log1p(COUNTS.get(c.item, 0)) for c in items],
            "age": [0.0] * len(items),
            "history": [np.log1p(4.0)] * len(items),
            "unknown": [len(names) for names in draft.unknown],
            "text": [float(c.item not in (f"i{ITEMS - 1}", "nothing")) for c in items],
            "dispersion": [np.std(logit(draft.crm))] * len(items),
        }
        assert known == ITEMS - 5
        values = np.array(expected[name])
        assert draft.routed.chosen.tolist() == np.flatnonzero(values >= 0.5).tolist()
        again = engine.begin(Request(USER, items))
        again.cancel()
        assert again.routed.chosen.tolist() == draft.routed.chosen.tolist()


def test_a_gate_s_bundle_answers_to_its_own_threshold_to_shares_and_to_nats(plain: Path) -> None:
    values = [float(np.log1p(COUNTS.get(c.item, 0))) for c in EVERYTHING]
    with opened(plain, policy=policy(gate_of("popularity"), float(np.log1p(1000)), values)) as engine:
        assert wanted(engine) == {"i7"}
        assert len(wanted(engine, threshold="ratio:1")) == ITEMS
        assert not wanted(engine, threshold="ratio:0")
        tenth = wanted(engine, threshold="ratio:0.1")
        assert tenth == {f"i{i}" for i in np.argsort(-np.array(values), kind="stable")[:4]}
        by_entropy = wanted(engine, threshold=0.6)
        plain_scores = engine.rank(Request(USER, EVERYTHING, threshold="ratio:0"))
        assert by_entropy == {f"i{i}" for i in np.flatnonzero(plain_scores.entropy >= 0.6)}


def test_a_gate_is_no_slower_a_way_to_nothing(plain: Path) -> None:
    """What the gate looks at is made when a policy asks for it, not before."""
    with opened(plain, threshold="ratio:0.5") as engine:
        engine.rank(Request(USER, EVERYTHING))
        assert "routing_inputs" not in vars(engine)


@pytest.fixture(scope="module")
def near(plain: Path) -> Iterator[Engine]:
    with opened(plain, threshold="ratio:1", reach=NEARLY.to_json()) as engine:
        yield engine


@pytest.mark.parametrize("k", [1, 3, 10, ITEMS - 1, ITEMS])
def test_of_the_routed_those_alone_that_can_change_the_top_are_asked(near: Engine, plain: Path, k: int) -> None:
    draft = near.begin(Request(USER, EVERYTHING, top_k=k))
    draft.cancel()
    every = np.arange(ITEMS)
    assert draft.routed.chosen.tolist() == every[to_ask(draft.crm, every, NEARLY(draft.crm), k)].tolist()
    assert len(draft.routed.chosen) < ITEMS
    whole = near.begin(Request(USER, EVERYTHING))
    whole.cancel()
    assert whole.routed.chosen.tolist() == every.tolist()


def test_with_a_reach_that_holds_the_top_is_that_of_asking_all(plain: Path) -> None:
    fewer, rule = 0, {"rule": "stack", "weights": [0.05, 1.0, 0.1]}
    with opened(plain, threshold="ratio:1", fusion=rule) as usual:
        scores = [usual.rank(Request(User(f"u{u}"), EVERYTHING)) for u in range(8)]
    before = np.concatenate([s.crm[s.routed] for s in scores])
    after = np.concatenate([s.probability[s.routed] for s in scores])
    move = logit(after) - logit(before)
    holds = Reach((), (min(0.0, move.min() - 1e-3),), (max(0.0, move.max() + 1e-3),), 0.01)
    with opened(plain, threshold="ratio:1", fusion=rule, reach=holds.to_json()) as engine:
        for u, full in enumerate(scores):
            few = engine.rank(Request(User(f"u{u}"), EVERYTHING, top_k=3))
            best = np.argsort(full.rank)[:3].tolist()
            assert np.argsort(few.rank)[:3].tolist() == best
            fewer += int(few.routed.sum() < full.routed.sum())
    assert fewer


def test_of_a_whole_catalogue_the_reach_leaves_out_more_than_nearness_does(plain: Path, near: Engine) -> None:
    with opened(plain, threshold="ratio:1", reach=FAR.to_json()) as far:
        some, most = (wanted(engine, None, top_k=2) for engine in (near, far))
    assert some < most
    assert len(most) <= 8
