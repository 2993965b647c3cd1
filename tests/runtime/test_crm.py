"""The CRM's session: any number of candidates, one user broadcast in the graph, the same scores however asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import ITEMS, USERS, make_bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidate, Event, User
from corella_edge_runtime import crm as module
from corella_edge_runtime.crm import Crm, sigmoid

XDG = ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


class Side:
    def __init__(self, root: Path) -> None:
        bundle = Bundle.open(root)
        schema, catalog = bundle.schema()
        self.encoder, self.crm = FeatureEncoder(schema, catalog), Crm(bundle.path("crm.onnx"), schema)

    def scores(self, user: User, candidates: list[Candidate]) -> np.ndarray:
        return self.crm.probability(self.encoder.encode(user, candidates)[0])


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Side:
    return Side(make_bundle(tmp_path_factory.mktemp("crm") / "bundle", llm=False))


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.integers(0, ITEMS + 2).map("i{}".format),
        st.none() | st.fixed_dictionaries({"genres": st.just(["Comedy"])}),
    ),
    min_size=1, max_size=30,
)  # fmt: skip
HISTORIES = st.lists(st.builds(Event, st.integers(0, ITEMS).map("i{}".format), st.just(4.0)), max_size=8).map(tuple)
PEOPLE = st.builds(User, st.integers(0, USERS).map("u{}".format), st.just({}), HISTORIES)


@given(PEOPLE, CANDIDATES)
def test_logits_are_what_the_session_gives(side: Side, user: User, candidates: list[Candidate]) -> None:
    """On the CPU its `run` is passed by."""
    feed = side.encoder.encode(user, candidates)[0]
    np.testing.assert_array_equal(side.crm.logits(feed), side.crm._session.run(None, feed)[0])


def test_an_input_that_is_missing_is_told(side: Side) -> None:
    feed = side.encoder.encode(User(), [Candidate("i1")])[0]
    del feed["genres"]
    with pytest.raises(Exception, match="genres"):
        side.crm.logits(feed)


@settings(max_examples=60)
@given(PEOPLE, CANDIDATES)
def test_a_batch_scores_as_its_candidates_one_by_one(side: Side, user: User, candidates: list[Candidate]) -> None:
    alone = [side.scores(user, [candidate])[0] for candidate in candidates]
    np.testing.assert_allclose(side.scores(user, candidates), alone, rtol=0, atol=1e-6)


@given(PEOPLE, CANDIDATES, st.randoms(use_true_random=False))
def test_the_order_of_candidates_moves_scores_and_changes_none(
    side: Side, user: User, candidates: list[Candidate], rng: np.random.Generator
) -> None:
    order = list(range(len(candidates)))
    rng.shuffle(order)
    found = side.scores(user, [candidates[i] for i in order])
    np.testing.assert_allclose(found, side.scores(user, candidates)[order], rtol=0, atol=1e-6)


def test_more_candidates_than_a_run_takes(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    user = User("u1", {}, (Event("i3", 5.0),))
    candidates = [Candidate(f"i{i % ITEMS}") for i in range(50)]
    whole = side.scores(user, candidates)
    assert np.ptp(whole) > 0.1
    monkeypatch.setattr(module, "MAX_BATCH", 7)
    np.testing.assert_allclose(side.scores(user, candidates), whole, rtol=0, atol=1e-6)
    assert side.scores(user, []).shape == (0,)


def test_the_users_arrays_have_one_row_and_serve_the_next_request(side: Side) -> None:
    user = User("u2", {}, (Event("i1", 5.0), Event("i2", 1.0)))
    side.encoder.encode(user, [Candidate("i5")])  # what comes once is not remembered
    first, _ = side.encoder.encode(user, [Candidate("i5")])
    feed, _ = side.encoder.encode(user, [Candidate(f"i{i}") for i in range(20)])
    for item in side.encoder.schema.fields:
        assert len(feed[item.name]) == (1 if item.side == "user" else 20), item.name
    assert feed["history"] is first["history"]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20))
def test_the_sigmoid_is_within_its_bounds_and_symmetric(logits: list[float]) -> None:
    x = np.asarray(logits, dtype=np.float32)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        p, mirrored = sigmoid(x), sigmoid(-x)
    assert p.dtype == np.float64
    assert ((p >= 0.0) & (p <= 1.0)).all()
    np.testing.assert_allclose(p + mirrored, 1.0, rtol=0, atol=1e-12)
    assert (np.diff(sigmoid(np.sort(x))) >= 0.0).all()
    mild = np.abs(x) < 30
    np.testing.assert_allclose(p[mild], 1.0 / (1.0 + np.exp(-x[mild].astype(np.float64))), rtol=1e-12)


OPENED = """
import sys
from pathlib import Path
from corella_edge.bundle.artefact import Bundle
from corella_edge_runtime.crm import Crm
bundle = Bundle.open(Path(sys.argv[1]))
print(Crm(bundle.path("crm.onnx"), bundle.schema()[0]).provider)
"""


@pytest.mark.parametrize("code", [OPENED, "import corella_edge_export, onnxruntime; print('CPUExecutionProvider')"])
def test_onnx_runtime_leaves_nothing_in_the_home_folder(tmp_path: Path, code: str) -> None:
    home, bundle = tmp_path / "home", make_bundle(tmp_path / "bundle", llm=False)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", *XDG)}
    fresh = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-c", code, str(bundle)]
    done = subprocess.run(command, env=fresh, capture_output=True, text=True, check=True)
    assert "CPUExecutionProvider" in done.stdout
    assert list(home.rglob("*")) == []
