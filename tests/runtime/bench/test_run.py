"""A whole benchmark: in this process on a small bundle, and over HTTP on a server; interrupted, resumed, void."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from bundles import ITEMS, make_bundle, reseal
from corella_edge.errors import InputError
from corella_edge.request import Candidate, Request, User
from corella_edge.routing.gate import NEW_ITEM
from corella_edge.routing.rules import RULES
from corella_edge.stopping import Stopped
from corella_edge_runtime.bench.measure import budget
from corella_edge_runtime.bench.measure.budget import Share
from corella_edge_runtime.bench.measure.opened import Opened
from corella_edge_runtime.bench.measure.remote import KEY_VARIABLE, OverHttp
from corella_edge_runtime.bench.measure.target import InProcess
from corella_edge_runtime.bench.measure.worker import Workers
from corella_edge_runtime.bench.results import result as form
from corella_edge_runtime.bench.results.journal import FILE
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.bench.run import run
from corella_edge_runtime.bench.settings import BenchSettings
from corella_edge_runtime.engine import Engine
from sessions import ONE, serving, start, succeed

THRESHOLDS = ("ratio:0", "ratio:0.3", "ratio:1")
QUICK = BenchSettings(thresholds=THRESHOLDS, candidates=5, budget=2.0, repeats=2, max_labelled=60, cores=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.open(bundle, llm_threads=1, tuned=False, threshold="ratio:0.3") as opened:
        yield opened


@pytest.fixture(scope="module")
def measured(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path, list[str]]:
    out, said = tmp_path_factory.mktemp("out"), list[str]()
    settings = BenchSettings(thresholds=THRESHOLDS, candidates=5, budget=6.0, repeats=2, slo="p99=100ms", cores=2,
                             max_labelled=60)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # however slow the machine is at the moment
        patch.setattr(budget, "affordable", lambda points, *_: (points, ""))
        patch.setattr(budget, "plan", lambda points, *_: dict.fromkeys(points, Share(10, 1.0, (0, 1))))
        return run(engine, None, settings, lambda *_: None, out, said.append), out, said


def test_every_point_is_there_and_is_what_was_asked_for(measured: tuple[Result, Path, list[str]]) -> None:
    found, out, said = measured
    assert found.complete
    assert (found.planned, found.void) == (len(found.points), "")
    keys = {point.key for point in found.points}
    assert len(keys) == len(found.points) == 3 + 3 + 1 + 3 + 2 * 3
    for point in found.points:
        assert point.histogram.count > 0, point.key
        assert point.outcomes.requests == sum(one.requests for one in point.repeats)
        assert len(point.repeats) == 2
        assert {"parse", "encode", "crm", "policy", "fuse", "serialise"} <= {stage.name for stage in point.stages}
    shares = {point.key[:4]: point.share.value for point in found.points}
    for scenario in ("single", "server", "offline"):
        assert shares[scenario, "ratio:0", "policy", "new"] == 0.0
        assert shares[scenario, "ratio:1", "policy", "new"] > 0.7  # some items have no text to ask about
    assert shares["single", "ratio:0.3", "random", "new"] == pytest.approx(0.3, abs=0.25)
    assert said[0].startswith("one at a time: ")
    assert (out / FILE).exists()


def test_the_way_of_a_request_is_its_latency(measured: tuple[Result, Path, list[str]]) -> None:
    for point in (point for point in measured[0].points if point.scenario == "single"):
        ms = {stage.name: stage.ms for stage in point.stages}
        assert 0.999 * point.latency.mean.value <= sum(ms.values()), point.key
        ms.pop("prompt", None)  # the LLM may begin while its question is still being put: these parts overlap
        assert sum(ms.values()) <= 1.02 * point.latency.mean.value, point.key


def test_the_search_is_kept_and_the_rate_is_measured(measured: tuple[Result, Path, list[str]]) -> None:
    for point in (point for point in measured[0].points if point.scenario == "server"):
        assert point.rates is not None
        assert point.rates.tries
        assert point.rate is not None
        assert point.goodput is not None
        assert point.goodput.value <= point.requests_per_s.value


def test_returning_users_are_quicker_to_read(measured: tuple[Result, Path, list[str]]) -> None:
    tokens = {point.users: point for point in measured[0].points
              if (point.scenario, point.threshold, point.routing) == ("single", "ratio:1", "policy")}  # fmt: skip
    assert tokens["returning"].tokens_evaluated < tokens["new"].tokens_evaluated
    assert tokens["returning"].tokens_reused > tokens["new"].tokens_reused


def test_provenance_ceilings_and_quality(measured: tuple[Result, Path, list[str]], bundle: Path) -> None:
    found = measured[0]
    assert found.verified.passed
    assert found.verified.rows > 0
    assert found.bundle.label == "tiny@1"
    assert (found.bundle.llm, found.bundle.llm_file) == (True, "llm.gguf")
    assert found.bundle.llm_parameters > 1000
    assert found.software.provider == "CPUExecutionProvider"
    assert found.software.llama_cpp_instructions
    assert found.threads.llm == 1
    ceilings = found.ceilings
    assert min(ceilings.crm_ms, ceilings.llm_tokens_per_s, ceilings.multiply_gflops, ceilings.llm_gflops) > 0.0
    lines = {(point.line, point.threshold): point for point in found.quality.points}
    assert lines["policy", "ratio:0"].metrics == lines["crm", None].metrics
    assert lines["policy", "ratio:0"].gains["auc"].value == 0.0
    every = {line for line, _ in lines}
    assert every >= {"policy", "random", "oracle", "crm", "llm"}
    assert every - {"policy", "random", "oracle", "crm", "llm"} <= set(RULES)
    assert {"auc", "logloss", "ece", "uauc"} <= set(lines["llm", None].metrics)
    assert (
        lines["oracle", "ratio:0.3"].metrics["logloss"].value <= lines["policy", "ratio:0.3"].metrics["logloss"].value
    )


def test_the_result_is_read_again_and_names_no_path(
    measured: tuple[Result, Path, list[str]], bundle: Path, tmp_path: Path
) -> None:
    form.write(measured[0], tmp_path)
    assert form.read(tmp_path) == measured[0]
    assert str(bundle.parent) not in (tmp_path / form.FILE).read_text()


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(engine: Engine, tmp_path: Path) -> None:
    settings = BenchSettings(thresholds=THRESHOLDS, candidates=5, budget=1.0, repeats=1, max_labelled=0,
                             scenarios=("single",), users=("new",))  # fmt: skip

    def two_are_finished() -> bool:
        return (tmp_path / FILE).read_bytes().count(b"\n") == 3

    kept = run(engine, None, settings, lambda *_: None, tmp_path, stop=two_are_finished)
    assert (kept.complete, len(kept.points), kept.planned) == (False, 2, 4)
    assert kept.quality.why.startswith("interrupted")
    said: list[str] = []
    whole = run(engine, None, settings, lambda *_: None, tmp_path, said.append)
    assert said[0] == "an interrupted run left 2 of 4 measurements; the rest is measured now"
    assert whole.complete
    by_key = {point.key: point for point in whole.points}
    for point in kept.points:  # what was finished is the same, to the last request; the law looks at all points
        assert replace(by_key[point.key], law=point.law) == point
    anew: list[str] = []
    run(engine, None, settings, lambda *_: None, tmp_path, anew.append)
    assert "interrupted" not in anew[0]


@pytest.mark.slow
def test_a_resumed_run_knows_that_its_first_part_was_disturbed(engine: Engine, tmp_path: Path) -> None:
    settings = BenchSettings(thresholds=THRESHOLDS[:2], candidates=5, budget=1.0, repeats=1, max_labelled=0,
                             scenarios=("single",), users=("new",), controls=False)  # fmt: skip

    def one_is_finished() -> bool:
        return (tmp_path / FILE).read_bytes().count(b"\n") == 2

    run(engine, None, settings, lambda *_: None, tmp_path, stop=one_is_finished)
    head, kept, *_ = (tmp_path / FILE).read_bytes().split(b"\n")
    disturbed = json.loads(kept) | {"noise": {"foreign": 0.0, "steal": 0.93}}
    (tmp_path / FILE).write_bytes(b"\n".join([head, json.dumps(disturbed).encode(), b""]))
    found = run(engine, None, settings, lambda *_: None, tmp_path)
    assert found.complete
    assert found.quiet.during.steal >= 0.9
    assert found.quiet.noisy


@pytest.mark.slow
def test_ctrl_c_ends_the_scoring_of_labelled_rows(engine: Engine) -> None:
    settings = BenchSettings(thresholds=("ratio:0", "ratio:1"), candidates=5, budget=1.0, repeats=1, max_labelled=60,
                             scenarios=("single",), users=("new",), controls=False)  # fmt: skip
    scored: list[int] = []

    def progress(what: str, done: int, of: int) -> None:
        scored.extend([done] if what == "labelled rows" else [])

    found = run(engine, None, settings, progress, stop=lambda: len(scored) >= 2)
    assert scored == [1, 2]
    assert (found.complete, found.quality.rows) == (False, 0)
    assert found.quality.why.startswith("interrupted")


def test_what_the_budget_has_no_room_for_is_said_in_the_report(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = BenchSettings(thresholds=("ratio:0",), candidates=5, budget=1.0, repeats=1, max_labelled=0, slo="p99=1s",
                             scenarios=("single", "server"), users=("new",), controls=False)  # fmt: skip
    monkeypatch.setattr(budget, "LEAST_TRY", 10**6)
    said: list[str] = []
    found = run(engine, None, settings, lambda *_: None, say=said.append)
    assert found.complete
    assert {point.scenario for point in found.points} == {"single"}
    (left_out,) = [words for words in found.warnings if "no room" in words]
    assert left_out.startswith("the 1 s for latency have no room for: Server; all of it takes at least ")
    assert left_out in said


def test_interrupted_before_anything_is_finished(engine: Engine) -> None:
    found = run(engine, None, QUICK, lambda *_: None, stop=lambda: True)
    assert (found.points, found.complete) == ((), False)


class AfterAFew:
    """Somebody wants the end when it was asked for a few times."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > 4


BODY = b'{"user": {"id": "u"}, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": "ratio:1"}'


def test_a_stream_ends_when_somebody_wants_it_and_the_engine_goes_on(engine: Engine) -> None:
    target, began = InProcess(engine), time.monotonic()
    with pytest.raises(Stopped):
        target.stream([BODY] * 40, [0.0] * 20 + [600.0] * 20, stop=AfterAFew())
    assert time.monotonic() - began < 30.0
    assert target.ask(BODY).seconds is not None


def test_processes_that_share_the_work_end_when_somebody_wants_it(bundle: Path) -> None:
    with closing(Workers(bundle, True, 2)) as workers, pytest.raises(Stopped):
        workers.run([BODY] * 20_000, lambda: True)


def test_a_bundle_that_scores_otherwise_is_not_measured(bundle: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(bundle, tmp_path / "other"))
    lines = [json.loads(line) for line in (root / "reference.jsonl").read_text().splitlines()]
    for line in lines:
        line["crm"] = 1.0 - line["crm"]
    (root / "reference.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reseal(root)
    with Engine.open(root, llm_threads=1, tuned=False) as opened:
        found = run(opened, None, QUICK, lambda *_: None)
    assert found.points == ()
    assert found.verified.passed is False
    assert found.void.startswith("the parity gate failed: reference.jsonl row 1: the CRM gives ")


def test_a_threshold_that_means_nothing_here_is_refused_first(engine: Engine) -> None:
    with pytest.raises(InputError, match="threshold"):
        run(engine, None, BenchSettings(thresholds=("7",)), lambda *_: None)


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    with serving(start("serve", bundle, "--port", 0, "--threshold", "ratio:0.3", *ONE)) as server:
        yield server.url


def over(url: str, bundle: Path, settings: BenchSettings) -> Result:
    opened = Opened.at(url, bundle)
    with closing(opened.target):
        return run(opened, None, settings, lambda *_: None)


@pytest.mark.slow
def test_over_http(bundle: Path, url: str) -> None:
    settings = BenchSettings(thresholds=THRESHOLDS, candidates=5, budget=5.0, repeats=1,
                             max_labelled=30, cores=2)  # fmt: skip
    found = over(url, bundle, settings)
    assert found.verified.passed
    assert found.settings.transport == "http"
    assert {point.routing for point in found.points} == {"policy"}
    assert {point.workers for point in found.points} == {1}
    assert found.quiet.during.foreign is None
    for point in found.points:
        assert point.outcomes.failed == point.outcomes.rejected == 0, point.key
        assert {"http", "parse", "crm", "serialise"} <= {stage.name for stage in point.stages}
        assert point.memory_bytes
        if point.threshold == "ratio:1":
            assert point.share.value > 0.7
            assert point.tokens_evaluated > 0
            assert point.llm_ms_per_thousand > 0
    assert found.quality.rows == 30
    assert {point.line for point in found.quality.points} >= {"policy", "crm", "llm"}


def test_a_stream_over_http_ends_when_somebody_wants_it(url: str) -> None:
    with closing(OverHttp(url)) as target:
        began = time.monotonic()
        with pytest.raises(Stopped):
            target.stream([BODY] * 4, [0.0, 0.0, 600.0, 600.0], stop=AfterAFew())
        assert time.monotonic() - began < 30.0
        assert target.ask(BODY).seconds is not None


def test_answers_over_http_tell_which_items_are_new(url: str) -> None:
    request = Request(User("u1"), (Candidate("i1"), Candidate(f"i{ITEMS - 1}"), Candidate("other")))
    with closing(OverHttp(url)) as target:
        assert target.scores(request).inputs[NEW_ITEM].tolist() == [0.0, 1.0, 1.0]


def test_another_bundle_at_the_address_is_void(url: str, tmp_path: Path) -> None:
    root = make_bundle(tmp_path / "other")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["version"] = "2"
    (root / "manifest.json").write_text(json.dumps(manifest))
    reseal(root)
    found = over(url, root, QUICK)
    assert found.void == "the parity gate failed: the server serves tiny@1, and the bundle given is tiny@2"


def test_a_server_on_another_machine_is_said_to_be_there(
    url: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OverHttp, "local", False)
    settings = BenchSettings(thresholds=("ratio:0",), candidates=5, budget=1.0, repeats=1, scenarios=("single",),
                             users=("new",), max_labelled=0)  # fmt: skip
    found = over(url, bundle, settings)
    assert found.warnings[0] == "the server runs on another machine: the one described here only sent the requests"
    assert found.points[0].energy.why == "the server runs on another machine"


def test_a_server_with_keys(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = succeed("keys", "add", tmp_path / "keys.json", "--name", "load", "--scope", "rank", "--scope", "metrics").out
    options = ("--port", 0, "--no-llm", "--keys", tmp_path / "keys.json")
    with serving(start("serve", bundle, *options)) as server, closing(OverHttp(server.url)) as without:
        body = b'{"user": {}, "candidates": [{"item": "i1"}]}'
        assert without.ask(body).seconds is None
        monkeypatch.setenv(KEY_VARIABLE, key.strip())
        with closing(OverHttp(server.url)) as target:
            assert target.ask(body).seconds is not None
            assert [one.candidates for one in target.stream([body] * 3, [0.0, 0.01, 0.02])] == [1, 1, 1]
            assert target.memory()


def test_nobody_at_the_address(bundle: Path) -> None:
    with pytest.raises(InputError, match="no answer from /v2/health/ready"):
        Opened.at("http://127.0.0.1:9", bundle)
    with pytest.raises(InputError, match="http://HOST:PORT"):
        OverHttp("https://example.org")
