from __future__ import annotations

import gc
import json
import math
import shutil
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import ITEMS, make_bundle, reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.request_message import parse_request
from corella_edge.routing.measure import LN2, entropy
from corella_edge.scores import Scores, answer
from corella_edge.selection import Selection
from corella_edge_runtime import crm as crm_module
from corella_edge_runtime.crm import Crm, sigmoid
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.backends.thread import ThreadBackend
from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt
from corella_edge_runtime.llm.llama.scorer import Counters

UNTITLED = f"i{ITEMS - 1}"  # the last item of the bundle's catalogue has no title
EVERYTHING = tuple(Candidate(f"i{i}") for i in range(ITEMS))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("engine") / "bundle")


@pytest.fixture(scope="module")
def engine(root: Path) -> Any:
    with Engine.open(root, llm_threads=1) as opened:
        yield opened


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "bundle"))


class Echo:
    """A backend whose answer tells which prompt it was given."""

    @staticmethod
    def probability(prompt: Prompt) -> float:
        return zlib.crc32(repr((prompt.prefix, prompt.suffix)).encode()) / 2**32

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        result: Future[Answers] = Future()
        result.set_result(Answers.of(LlmAnswer(self.probability(prompt)) for prompt in prompts))
        return result

    def forget(self) -> None:
        pass

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def echo(engine: Engine) -> Engine:
    """The same engine with another backend: what it gives can be told in advance."""
    assert engine.llm
    return Engine(engine.bundle, engine.encoder, engine.crm, Llm(engine.llm.prompts, Echo()))


def expected_llm(engine: Engine, user: User, candidate: Candidate) -> float:
    """What `Echo` answers for one candidate, asked alone; nan without text."""
    assert engine.llm
    prefix, suffix = engine.llm.prompts.prefix(user), engine.llm.prompts.suffix(candidate)
    return math.nan if suffix is None else Echo.probability(Prompt(tuple(prefix), tuple(suffix)))


def user(number: int = 1, events: int = 4) -> User:
    return User(f"u{number}", {}, tuple(Event(f"i{(number * 5 + n) % 39}", float(n % 5 + 1)) for n in range(events)))


def test_easy_rows_keep_the_crms_score_and_hard_ones_get_the_llms(echo: Engine, root: Path) -> None:
    schema, catalog = Bundle.open(root).schema()
    feed, unknown = FeatureEncoder(schema, catalog).encode(user(), EVERYTHING)
    crm = Crm(root / "crm.onnx", schema).probability(feed)
    threshold = float(np.median(entropy(crm)))
    found = echo.rank(Request(user(), EVERYTHING, threshold=threshold))
    hard = entropy(crm) >= threshold
    assert 0 < hard.sum() < ITEMS
    assert found.items == tuple(c.item for c in EVERYTHING)
    assert found.unknown == tuple(unknown)
    np.testing.assert_allclose(found.crm, crm, atol=1e-6)
    np.testing.assert_array_equal(found.entropy, entropy(found.crm))
    assert ("no_text" if hard[-1] else "") == found.reason[-1]
    assert found.routed[:-1].tolist() == hard[:-1].tolist()
    assert list(found.reason[:-1]) == ["entropy" if h else "" for h in hard[:-1]]
    asked = [expected_llm(echo, user(), c) if h else math.nan for c, h in zip(EVERYTHING, hard, strict=True)]
    np.testing.assert_array_equal(found.llm, asked)
    np.testing.assert_array_equal(found.probability, np.where(np.isnan(asked), found.crm, asked))


def test_what_is_not_asked_about_is_shared_and_stays_so(echo: Engine) -> None:
    """An earlier answer does not change when a later request of as many candidates is routed."""
    easy = echo.rank(Request(user(), EVERYTHING, threshold="ratio:0"))
    hard = echo.rank(Request(user(), EVERYTHING, threshold="ratio:1"))
    assert hard.routed.any()
    for scores in (easy, echo.rank(Request(user(2), EVERYTHING, threshold="ratio:0"))):
        assert np.isnan(scores.llm).all()
        assert not scores.routed.any()
        assert scores.reason == ("",) * ITEMS
        with pytest.raises(ValueError, match="read-only"):
            scores.llm[0] = 0.5


def test_the_llm_is_asked_what_the_reference_was_asked(engine: Engine, root: Path) -> None:
    records = [json.loads(line) for line in (root / "reference.jsonl").read_text().splitlines()]
    for record in records[:20]:
        found = engine.rank(Request(parse_request(record["request"]).user, EVERYTHING, threshold=0))
        place = int(record["request"]["candidates"][0]["item"][1:])
        assert found.crm[place] == pytest.approx(record["crm"], abs=1e-6)
        if record["llm"] is None:
            assert found.reason[place] == "no_text"
        else:
            assert found.llm[place] == pytest.approx(record["llm"], abs=5e-3)


@pytest.mark.parametrize(
    ("threshold", "unit", "most", "least"),
    [("ratio:0", "", 0, 0), (0.0, "entropy", ITEMS, ITEMS), ("ratio:1", "ratio", ITEMS, ITEMS), (LN2, "entropy", 2, 0),
     ("ratio:0.5", "ratio", ITEMS - 1, 1), ("margin:0.5", "margin", ITEMS, ITEMS), (None, "ratio", 15, 0)],
)  # fmt: skip
def test_thresholds(engine: Engine, threshold: Any, unit: str, most: int, least: int) -> None:
    found = engine.rank(Request(user(), EVERYTHING, threshold=threshold))
    assert least <= sum(map(bool, found.reason)) <= most
    assert set(found.reason) <= {"", unit, "no_text"}


@pytest.mark.parametrize("threshold", ["ratio:2", "margin:0.6", 0.7, "x", -1.0])
def test_a_bad_threshold_is_an_input_error(engine: Engine, root: Path, threshold: Any) -> None:
    with pytest.raises(InputError):
        engine.rank(Request(user(), EVERYTHING, threshold=threshold))
    with pytest.raises(InputError):
        Engine.open(root, llm=None, threshold=threshold)


def test_the_engines_own_threshold_is_the_default(root: Path, engine: Engine) -> None:
    with Engine.open(root, threshold="ratio:0", llm_threads=1) as never:
        assert not never.rank(Request(user(), EVERYTHING)).routed.any()
        assert never.rank(Request(user(), EVERYTHING, threshold="ratio:1")).routed.sum() == ITEMS - 1
    assert engine.policy == engine.parse_threshold("ratio:0.05")


def test_no_candidates_means_the_whole_catalogue(engine: Engine) -> None:
    whole = engine.rank(Request(user(), threshold="ratio:0", selection=Selection(exclude_seen=False)))
    listed = engine.rank(Request(user(), EVERYTHING, threshold="ratio:0"))
    assert whole.items == listed.items
    np.testing.assert_array_equal(whole.crm, listed.crm)
    assert engine.rank(Request(user(), ())).items == ()


def test_candidates_without_text_stay_with_the_crm(engine: Engine) -> None:
    new = Candidate("new", {"title": "Film 3", "genres": ["Drama"]})
    found = engine.rank(Request(user(), (Candidate("i3"), Candidate(UNTITLED), Candidate("gone"), new), threshold=0))
    assert found.reason == ("entropy", "no_text", "no_text", "entropy")
    assert found.routed.tolist() == [True, False, False, True]
    assert found.probability[1:3].tolist() == found.crm[1:3].tolist()
    only = engine.rank(Request(user(), (Candidate("gone"),), threshold=0))
    assert only.reason == ("no_text",)


def test_an_inline_title_is_what_the_llm_reads(echo: Engine) -> None:
    known = echo.encoder.catalog.attributes[3]
    pair = (Candidate("i3"), Candidate("other", dict(known)), Candidate("i3", {"title": "Other"}))
    found = echo.rank(Request(user(), pair, threshold=0))
    assert found.llm[0] == found.llm[1] != found.llm[2]
    assert found.crm[0] != found.crm[1]


def test_unknown_users_and_items_are_scored_and_flagged(engine: Engine) -> None:
    candidates = (Candidate("i0"), Candidate("i36"), Candidate("gone"), Candidate("i0", {"genres": ["Noir"]}))
    known = engine.rank(Request(user(), candidates, threshold="ratio:0"))
    assert known.unknown == ((), ("item",), ("item",), ("genres",))
    stranger = engine.rank(Request(User("nobody"), candidates, threshold="ratio:0"))
    assert stranger.unknown == (("user",), ("user", "item"), ("user", "item"), ("user", "genres"))
    assert np.isfinite(stranger.probability).all()


def test_many_candidates_are_scored_in_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(Candidate(f"i{(7 * i) % 50}") for i in range(crm_module.MAX_BATCH + 300))
    whole = engine.rank(Request(user(), many, threshold="ratio:0")).crm
    assert len(whole) == len(many)
    for size in (1, 7, len(many) - 1, len(many)):
        few = many[:60] if size < 8 else many
        monkeypatch.setattr(crm_module, "MAX_BATCH", size)
        found = engine.rank(Request(user(), few, threshold="ratio:0")).crm
        np.testing.assert_allclose(found, whole[: len(few)], atol=1e-6)


def test_without_time_the_crm_decides(engine: Engine) -> None:
    found = engine.rank(Request(user(7, 9), EVERYTHING[:-1], threshold=0, timeout_ms=0.0))
    assert set(found.reason) == {"deadline"}
    assert found.probability.tolist() == found.crm.tolist()
    assert engine.rank(Request(user(7, 9), EVERYTHING[:-1], threshold=0, timeout_ms=1e6)).routed.all()


class Slow:
    """A scorer whose decodes last until they are given up, or until `go`; `jobs`: whether each was given up."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.stop, self.go, self.busy = threading.Event(), threading.Event(), threading.Event()
        self.jobs: list[bool] = []

    def refuse(self, job: Job) -> None: ...

    def step(self, jobs: Iterable[Job], cost: Cost, watch: Any) -> None:
        job = next(iter(jobs))
        with watch([job]):
            self.busy.set()
            until(lambda: self.stop.is_set() or self.go.is_set())
        self.jobs.append(given_up := self.stop.is_set())
        if not given_up:
            job.tell(job.open, [(0.5, math.nan, 0.0, 0, 0, 0)] * len(job.open))

    def stats(self) -> dict[str, float]:
        return {}

    def give_up(self) -> None:
        self.stop.set()

    def go_on(self) -> None:
        self.stop.clear()

    def close(self) -> None:
        pass


@pytest.fixture
def slow(engine: Engine) -> Iterator[tuple[Engine, Slow]]:
    assert engine.llm
    scorer = Slow()
    backend = ThreadBackend(lambda: scorer)  # type: ignore[arg-type, return-value]
    yield Engine(engine.bundle, engine.encoder, engine.crm, Llm(engine.llm.prompts, backend)), scorer
    scorer.go.set()
    backend.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30.0
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def in_time(engine: Engine, milliseconds: float) -> None:
    """The request is answered by the CRM alone, at its deadline."""
    started = time.monotonic()
    found = engine.rank(Request(user(), EVERYTHING[:3], threshold=0, timeout_ms=milliseconds))
    seconds = time.monotonic() - started
    assert found.reason == ("deadline",) * 3
    assert found.probability.tolist() == found.crm.tolist()
    assert milliseconds / 1000 <= seconds < 20.0  # its decode would last 30


def test_a_deadline_holds_behind_another_request(slow: tuple[Engine, Slow]) -> None:
    engine, scorer = slow
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(engine.rank, Request(user(), EVERYTHING[:1], threshold=0))
        assert scorer.busy.wait(20)
        in_time(engine, 50.0)
        assert not other.done()
        scorer.go.set()
        assert other.result(20).routed.all()
    assert scorer.jobs == [False]  # the late one was never begun


def test_a_deadline_ends_a_running_job(slow: tuple[Engine, Slow]) -> None:
    engine, scorer = slow
    in_time(engine, 50.0)
    until(lambda: bool(scorer.jobs))
    assert scorer.jobs == [True]


@pytest.mark.parametrize("milliseconds", [1e300, math.inf])
def test_any_length_of_time_is_accepted(echo: Engine, milliseconds: float) -> None:
    assert echo.rank(Request(user(), EVERYTHING[:3], threshold=0, timeout_ms=milliseconds)).routed.all()


class Broken(Echo):
    """Fails, before or after it has taken the prompts."""

    def __init__(self, error: Exception, at_once: bool) -> None:
        self.error, self.at_once = error, at_once

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        if self.at_once:
            raise self.error
        result: Future[Answers] = Future()
        result.set_exception(self.error)
        return result


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error", [ValueError("the secret title"), TimeoutError("the secret title")])
def test_a_failing_llm_costs_its_scores_alone_and_is_told_once(
    engine: Engine, error: Exception, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine.llm
    broken = Engine(engine.bundle, engine.encoder, engine.crm, Llm(engine.llm.prompts, Broken(error, at_once)))
    for _ in range(3):
        found = broken.rank(Request(user(), (Candidate("i1"), Candidate("gone")), threshold=0, timeout_ms=1e4))
        assert found.reason == ("llm_error", "no_text")
        assert found.probability.tolist() == found.crm.tolist()
    assert [type(error).__name__ in record.getMessage() for record in caplog.records] == [True]
    assert "secret" not in caplog.text


def test_a_threshold_is_read_before_the_llm_is_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("corella_edge_runtime.engine.open_llm", load)
    with pytest.raises(InputError, match="'two'"):
        Engine.open(root, threshold="ratio:two")


def test_an_engine_that_can_not_be_made_ends_the_llms_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    before = threading.active_count()
    monkeypatch.setattr(Engine, "__init__", fail)
    with pytest.raises(MemoryError):
        Engine.open(root, llm_threads=1)
    assert threading.active_count() == before


def test_a_provider_that_was_not_taken_is_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = crm_module.ort.InferenceSession

    def without_cuda(path: str, options: Any, providers: list[str]) -> Any:
        assert providers[0] == "CUDAExecutionProvider"
        return real(path, options, providers=providers[1:])

    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(crm_module.ort, "get_available_providers", lambda: wanted)
    monkeypatch.setattr(crm_module.ort, "InferenceSession", without_cuda)
    with Engine.open(root, llm_threads=1) as opened:
        assert len(opened.warnings) == 1
        assert "CUDAExecutionProvider" in opened.warnings[0]
        assert opened.crm.provider == "CPUExecutionProvider"


def test_without_an_llm_the_crm_decides(root: Path, tmp_path: Path) -> None:
    with Engine.open(root, llm=None) as switched_off:
        found = switched_off.rank(Request(user(), EVERYTHING, threshold="ratio:1"))
        assert set(found.reason) == {"no_llm"}
        assert not found.routed.any()
        assert len(switched_off.warnings) == 1
        assert switched_off.stats() == {}
    bare = make_bundle(tmp_path / "bare", llm=False)
    with Engine.open(bare) as opened:
        assert "no LLM" in opened.warnings[0]
        assert set(opened.rank(Request(user(), threshold="ratio:1")).reason) == {"no_llm"}
    with pytest.raises(BundleError, match="no LLM"):
        Engine.open(bare, require_llm=True)


def test_an_llm_that_can_not_be_started_is_a_warning_or_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Engine.open(root, llm="process", retry_llm=True) as engine:
        assert len(engine.warnings) == 1
        assert engine.warnings[0].startswith("the LLM does not start (the LLM process cannot be started: ")
        assert engine.warnings[0].endswith("; the CRM decides alone, and it is tried again")
        engine.warm_up()
        found = engine.rank(Request(user(), (Candidate("i1"), Candidate("i2")), threshold="ratio:1"))
        assert set(found.reason) == {"llm_error"}
        assert found.probability.tolist() == found.crm.tolist()
    for options in ({"require_llm": True}, {"require_llm": True, "retry_llm": True}, {}):
        with pytest.raises(BundleError, match="cannot be started"):
            Engine.open(root, llm="process", **options)


def test_an_engine_with_its_llm_warns_of_nothing(engine: Engine) -> None:
    assert engine.warnings == []
    engine.warm_up()
    engine.know_cost()
    assert engine.routing.cost is not None  # measured once
    before = engine.stats()["prompts"]
    engine.warm_up()
    assert engine.stats()["prompts"] == before + 2
    assert engine.name == "tiny@1"


def test_a_closed_engine_frees_its_model(root: Path) -> None:
    engine = Engine.open(root, llm_threads=1)
    freed: Any = engine.llm.backend.inner._scorer._context.model._free  # type: ignore[union-attr]
    engine.close()
    assert freed.alive
    del engine
    gc.collect()
    assert not freed.alive


def test_an_unknown_way_to_run_the_llm_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match="carrier"):
        Engine.open(root, llm="carrier pigeon")


def test_requests_from_many_threads_do_not_mix(engine: Engine) -> None:
    requests = [Request(user(n, n % 7), EVERYTHING[n : n + 9], threshold=(0, "ratio:0.5", "ratio:0")[n % 3])
                for n in range(25)]  # fmt: skip
    alone = [engine.rank(request) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(engine.rank, requests))
    for a, b in zip(alone, together, strict=True):
        assert (a.items, a.reason, a.unknown) == (b.items, b.reason, b.unknown)
        np.testing.assert_allclose(a.crm, b.crm, atol=1e-6)
        np.testing.assert_allclose(a.llm, b.llm, atol=5e-3)


def test_prompts_from_many_threads_do_not_mix(echo: Engine) -> None:
    requests = [Request(user(n, n % 7), EVERYTHING[n : n + 9], threshold=0) for n in range(30)]
    with ThreadPoolExecutor(8) as pool:
        for request, found in zip(requests, pool.map(echo.rank, requests), strict=True):
            asked = [expected_llm(echo, request.user, c) for c in request.candidates or ()]
            np.testing.assert_array_equal(found.llm, asked)


JUNK = st.none() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["Drama"])
IDS = st.sampled_from(["i0", "i38", UNTITLED, "u1"]) | st.text(min_size=1, max_size=4)
RATING = st.none() | st.floats(-1e6, 1e6)
DOCUMENTS = st.fixed_dictionaries(
    {
        "user": st.fixed_dictionaries({}, optional={
            "id": IDS, "history": st.lists(st.fixed_dictionaries({"item": IDS, "rating": RATING}), max_size=9)}),
        "candidates": st.lists(st.fixed_dictionaries({"item": IDS}, optional={
            "features": st.dictionaries(st.sampled_from(["title", "genres", "x"]), JUNK | st.lists(JUNK, max_size=4))}),
            min_size=1, max_size=5),
    },
    optional={"threshold": st.sampled_from(["ratio:0", "ratio:0.3", 0, 0.5]), "top_k": st.integers(1, 3)},
)  # fmt: skip


@settings(max_examples=60)
@given(DOCUMENTS)
def test_any_request_gets_an_answer_in_strict_json(engine: Engine, document: Any) -> None:
    request = parse_request(document)
    scores = engine.rank(request)
    text = json.dumps(answer(request, scores, engine.name), allow_nan=False)
    assert len(json.loads(text)["candidates"]) == min(len(document["candidates"]), document.get("top_k", 99))
    assert ((scores.probability >= 0) & (scores.probability <= 1)).all()


def test_a_damaged_bundle_is_not_opened(copy: Path) -> None:
    (copy / "crm.onnx").write_bytes((copy / "crm.onnx").read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"crm\.onnx"):
        Engine.open(copy)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [("crm.onnx", b"no graph", "crm.onnx"), ("llm.gguf", b"no model", "llm.gguf"),
     ("vocab/genre.json", b'["Action"]', "'genre'"), ("vocab/item.json", b"[]", "'item'")],
)  # fmt: skip
def test_a_forged_file_is_an_error_of_the_bundle(copy: Path, name: str, content: bytes, part: str) -> None:
    (copy / name).write_bytes(content)
    reseal(copy)
    with pytest.raises(BundleError) as caught:
        Engine.open(copy)
    assert part in str(caught.value)


@pytest.mark.parametrize("name", ["yes", "no", "bos"])
@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_outside_the_vocabulary_is_refused(copy: Path, name: str, token: int) -> None:
    data = json.loads((copy / "prompt.json").read_text())
    data["tokens"][name] = token
    (copy / "prompt.json").write_text(json.dumps(data))
    reseal(copy)
    with pytest.raises(BundleError, match=str(token)):
        Engine.open(copy)


def test_a_graph_with_other_inputs_is_refused(copy: Path) -> None:
    data = json.loads((copy / "schema.json").read_text())
    data["fields"][0]["name"] = "visitor"
    (copy / "schema.json").write_text(json.dumps(data))
    reseal(copy)
    with pytest.raises(BundleError, match=r"'user', 'visitor'"):
        Engine.open(copy)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=5))
def test_sigmoid_without_overflow(logits: list[float]) -> None:
    found = sigmoid(np.asarray(logits, dtype=np.float32))
    expected = [1 / (1 + np.exp(-np.clip(np.float32(x), -700, 700).astype(np.float64))) for x in logits]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


def test_in_two_phases_it_scores_the_same(engine: Engine) -> None:
    request = Request(user(), (Candidate("i1"), Candidate("i39"), Candidate("i2")), threshold="ratio:1")
    draft = engine.begin(request)
    first = engine.before_llm(draft)
    assert not first.routed.any()
    assert set(first.reason) == {"pending"}
    assert first.probability.tolist() == first.crm.tolist()
    assert draft.asking is not None
    assert draft.asking.future is not None
    draft.asking.future.result(20)
    assert _close(engine.finish(draft), engine.rank(request))


def _close(left: Scores, right: Scores) -> bool:
    """Equal but for the LLM's tolerance between batches."""
    same = (left.items, left.reason, left.unknown) == (right.items, right.reason, right.unknown)
    return same and np.allclose(left.llm, right.llm, atol=5e-3, equal_nan=True)


def test_what_is_refused_never_reaches_the_llm(engine: Engine) -> None:
    draft = engine.begin(Request(user(), (Candidate("i1"),), threshold="ratio:1"), "queue_full")
    assert draft.asking is None
    assert engine.finish(draft).reason == ("queue_full",)


def test_a_trace_tells_what_it_cost(engine: Engine) -> None:
    easy = engine.rank(Request(user(), (Candidate("i1"),), threshold="ratio:0")).trace
    assert list(easy.seconds) == ["encode", "crm", "policy"]
    assert easy.threshold == math.inf
    hard = engine.rank(Request(user(2), (Candidate("i1"), Candidate("i2")), threshold="ratio:1")).trace
    assert list(hard.seconds) == ["encode", "crm", "policy", "prompt", "queue", "prefill"]
    assert hard.threshold == 0.0


@pytest.mark.parametrize("llm", [None, "process"])
def test_a_closed_engine_leaves_memory_without_the_garbage_collector(root: Path, llm: str | None) -> None:
    gc.collect()
    gc.disable()
    try:
        opened = Engine.open(root, llm=llm, llm_threads=1)
        opened.warm_up()
        parts = [weakref.ref(part) for part in (opened, opened.encoder, opened.encoder.catalog, opened.crm)]
        parts += (
            [weakref.ref(part) for part in (opened.llm, opened.llm.prompts, opened.llm.backend)] if opened.llm else []
        )
        opened.close()
        del opened
        assert [part() for part in parts] == [None] * len(parts)
    finally:
        gc.enable()


@pytest.mark.parametrize("events", range(0, 40, 3))
def test_what_counts_of_a_history_scores_as_the_whole_one(echo: Engine, events: int) -> None:
    least, step, _ = echo.memory
    whole = user(3, events)
    left_out = (events - least) // step * step if events > least else 0
    part = User(whole.id, whole.features, whole.history[left_out:])
    candidates = (Candidate("i1"), Candidate("i7"))
    scores = [echo.rank(Request(who, candidates, threshold="ratio:1")) for who in (whole, part)]
    assert [found.llm.tolist() for found in scores] == [scores[0].llm.tolist()] * 2
    assert [found.crm.tolist() for found in scores] == [scores[0].crm.tolist()] * 2


def test_a_misspelt_feature_is_told_to_those_who_are_strict(engine: Engine) -> None:
    misspelt = Request(user(), (Candidate("i1", {"genre": ["Drama"]}),), threshold="ratio:0")
    assert len(engine.rank(misspelt).items) == 1
    with pytest.raises(InputError, match=r"candidates\[0\].features: no model reads 'genre'.*did you mean 'genres'"):
        engine.rank(replace(misspelt, strict=True))
    known = Candidate("i1", {"genres": ["Drama"], "title": "Film"})
    assert engine.rank(replace(misspelt, candidates=(known,), strict=True)).items == ("i1",)
