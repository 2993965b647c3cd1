"""`corella-edge benchmark` on a small bundle, and its parts one by one."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from bundles import reseal
from corella_edge import metrics
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.json_lines import Traffic, parse_traffic
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.routing.gate import Gate
from corella_edge.routing.measure import BY_ENTROPY, Margin
from corella_edge.routing.policy import Policy
from corella_edge.scores import Scores
from corella_edge_runtime import box, drawing
from corella_edge_runtime.bench.measure import machine, quality, traffic
from corella_edge_runtime.bench.reports.report import FILES
from corella_edge_runtime.bench.results.journal import FILE
from corella_edge_runtime.bench.results.result import decode, read
from sessions import start

GIVEN = ["--llm-threads", "1", "--budget", "1s", "--repeats", "1", "--scenario", "single", "--max-labelled", "60"]
QUICK = [*GIVEN, "--candidates", "5"]


def result_of(done):
    assert done.code == 0, done.err
    return decode(done.out.encode(), "stdout")


@pytest.fixture(scope="module")
def report(bundle, tmp_path_factory):
    """One whole run in a process of its own, without what only training needs; (folder, stdout, stderr)."""
    out = tmp_path_factory.mktemp("report") / "deep"
    out.mkdir()
    for name in ("benchmark.md", ".benchmark.svg.partial"):  # of an earlier run, and of a killed one
        (out / name).write_text("old")
    blocked = ["torch", "transformers", "tokenizers", "matplotlib", "polars", "onnx", "gguf", "starlette", "httpx"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
            "from corella_edge.cli import main; main(sys.argv[1:])")  # fmt: skip
    args = ["benchmark", bundle, "--out", out, "--ratios", "0,5%,1", "--slo", "p99=1s", *QUICK, "--scenario",
            "single,server,offline", "--budget", "4s"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


def test_prints_a_short_table_and_where_the_files_are(report):
    told = report[1].splitlines()
    assert told[0].startswith(("Quiet machine", "NOISY machine"))
    assert not [line for line in told if line.startswith("{")]
    assert [line.partition(": ")[0] for line in told[-len(FILES) :]] == [str(report[0] / name) for name in FILES]
    assert "one at a time: " in report[2]
    assert "(p90 takes 100)" in report[2] or "takes" in report[2]


def test_files(report):
    assert {p.name for p in report[0].iterdir()} == {*FILES, FILE}


def test_figures_are_consistent(report, rows, bundle):
    found = read(report[0])
    assert found.bundle.label == "tiny@1"
    assert found.settings.thresholds == ("ratio:0", "ratio:0.05", "ratio:1")
    assert found.settings.slo == "p99=1s"
    points = {point.threshold: point for point in found.points
              if (point.scenario, point.routing, point.users) == ("single", "policy", "new")}  # fmt: skip
    never, always = points["ratio:0"], points["ratio:1"]
    assert (never.share.value, never.tokens_evaluated, never.touched.value) == (0.0, 0.0, 0.0)
    assert always.share.value > 0.7
    assert never.latency.p50.value <= never.latency.p90.value <= never.latency.p99.value <= never.latency.max.value
    assert always.candidates == 5.0
    expected = json.loads((bundle / "verification.json").read_text())["metrics"]["crm"]
    alone = next(point for point in found.quality.points if point.line == "crm")
    assert 50 <= found.quality.rows <= 60 <= len(rows)  # as many as its part of the budget allows
    assert alone.metrics["auc"].value == pytest.approx(expected["auc"], abs=0.1)


def test_names_no_path_and_no_host(report, bundle):
    everything = "".join(p.read_text() for p in report[0].iterdir())
    assert str(bundle.parent) not in everything
    assert "/" + "root" not in everything


@pytest.mark.slow
def test_requests_as_they_are(corella, bundle, requests):
    found = result_of(corella("benchmark", bundle, "--requests", requests, "--ratios", "0,1", *GIVEN, "--json"))
    data = found.data
    assert (data.source, data.requests, data.users, data.labelled_rows) == ("requests.jsonl", 30, 4, 0)
    assert {point.candidates for point in found.points} == {3.0}
    assert found.quality.why == "no row of these requests has a label"


@pytest.mark.slow
def test_requests_with_labels(corella, bundle, rows, tmp_path):
    path, lines = tmp_path / "labelled.jsonl", []
    for row in rows[:20]:
        candidates = [{**row["request"]["candidates"][0], "label": row["label"]}, {"item": "i3", "label": 0}]
        lines.append(json.dumps({**row["request"], "candidates": candidates}))
    path.write_text("\n".join(lines))
    found = result_of(corella("benchmark", bundle, "--requests", path, "--ratios", "0", *GIVEN, "--json"))
    assert found.quality.rows == 40
    assert "ndcg@10" in found.quality.points[0].metrics


@pytest.mark.slow
def test_whole_catalogue(corella, bundle, tmp_path):
    (tmp_path / "all.jsonl").write_text('{"user": {"id": "u1"}}\n')
    found = result_of(
        corella("benchmark", bundle, "--requests", tmp_path / "all.jsonl", "--ratios", "0,1", *GIVEN, "--json")
    )
    assert found.points[0].candidates == 40
    assert found.ceilings.crm_candidates == 40


def test_bundle_without_llm_and_without_a_sample(corella, crm_bundle, requests):
    done = corella("benchmark", crm_bundle, "--ratios", "0,1", *QUICK, "--json")
    found = result_of(done)
    assert "warning: the bundle has no LLM" in done.err
    assert (found.bundle.llm, found.ceilings.llm_tokens_per_s) == (False, None)
    assert found.data.source.startswith("made-up users")
    assert [(point.threshold, point.users, point.share.value) for point in found.points] == [
        ("ratio:0", "new", 0.0), ("ratio:0", "returning", 0.0)
    ]  # fmt: skip
    assert "there is no LLM to ask: share 0 alone is measured" in done.err
    assert corella("benchmark", crm_bundle, "--requests", requests, "--require-llm").code == 3


def test_mistakes_are_one_line(corella, bundle, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"user": {}, "candidates": [{"item": "a", "label": 2}]}')
    (tmp_path / "empty.jsonl").write_text("")
    cases = [
        ([bundle, "--out", tmp_path], 2, "holds 'bad.jsonl', which this command did not write"),
        ([bundle, "--candidates", 41], 2, "the catalogue has only 40 items"),
        ([bundle, "--requests", tmp_path / "none"], 2, "none: no such file"),
        ([bundle, "--requests", tmp_path / "bad.jsonl"], 2, "bad.jsonl line 1: candidates[0].label: expected 0 or 1"),
        ([bundle, "--requests", tmp_path / "empty.jsonl"], 2, "holds no requests"),
        ([bundle, "--out", tmp_path / "empty.jsonl"], 2, "cannot be made a folder"),
        ([bundle, "--url", "ftp://box"], 2, "needs an address of the form http://HOST:PORT"),
        ([bundle, "--url", "http://127.0.0.1:9"], 2, "no answer from /v2/health/ready"),
        ([bundle, "--slo", "p99=fast"], 2, "slo: 'p99=fast' is not a quantile and a time"),
        ([tmp_path], 3, "not a bundle"),
    ]
    for args, code, message in cases:
        done = corella("benchmark", *args)
        lines = [line for line in done.err.splitlines() if line.startswith("corella-edge: ")]
        told = [line for line in lines if ": warning: " not in line]
        assert (done.code, message in done.err, len(told)) == (code, True, 1), done
    for args in (["--ratios", "0,2"], ["--scenario", "double"], ["--users", ""], ["--budget", "soon"],
                 ["--requests", tmp_path / "bad.jsonl", "--made-up"],
                 ["--requests", tmp_path / "bad.jsonl", "--candidates", 5],
                 ["--url", "http://127.0.0.1:9", "--no-llm"]):  # fmt: skip
        assert corella("benchmark", bundle, *args).code == 2, args


def test_a_bundle_that_scores_otherwise_is_an_error(corella, bundle, tmp_path):
    root = shutil.copytree(bundle, tmp_path / "other")
    lines = [json.loads(line) for line in (root / "reference.jsonl").read_text().splitlines()]
    (root / "reference.jsonl").write_text(
        "".join(json.dumps({**line, "crm": 1 - line["crm"]}) + "\n" for line in lines)
    )
    reseal(root)
    done = corella("benchmark", root, "--out", tmp_path / "report", *QUICK)
    assert done.code == 3
    assert "the parity gate failed: reference.jsonl row 1: the CRM gives" in done.err
    assert read(tmp_path / "report").void
    assert "VOID" in (tmp_path / "report" / "benchmark.md").read_text()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(bundle, tmp_path):
    out, more = tmp_path / "report", ["--budget", "60s", "--max-labelled", "0"]
    process = start("benchmark", bundle, "--out", out, *QUICK, *more)
    end = time.monotonic() + 120
    while (not (out / FILE).exists() or (out / FILE).read_bytes().count(b"\n") < 3) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    found = read(out)
    assert not found.complete
    assert 2 <= len(found.points) < found.planned


# the parts


def user_row(user, item="a", label=1):
    return Traffic(Request(User(user), (Candidate(item),)), (label,))


def test_one_request_a_user():
    rows = [user_row(u) for u in ("x", "y", "x", None, None, "x")]
    chosen = traffic.one_per_user(rows, 10, seed=0)
    assert len(chosen) == 4
    assert len({traffic.user_keys(rows)[i] for i in chosen}) == 4
    assert chosen == traffic.one_per_user(rows, 10, seed=0)
    assert len(traffic.one_per_user(rows, 2, seed=0)) == 2


def test_grouped_rows_keep_each_users_order():
    rows = [user_row(u) for u in ("x", "y", "x", "z", "y", "x")]
    order = traffic.grouped(rows, 10, seed=3)
    assert sorted(order) == list(range(6))
    places = {key: [order.index(i) for i in group] for key, group in {"x": [0, 2, 5], "y": [1, 4]}.items()}
    for found in places.values():
        assert found == list(range(found[0], found[0] + len(found)))


def test_fill_avoids_the_history_while_it_can():
    catalog = Catalog([str(i) for i in range(10)], [{}] * 10)
    history = tuple(Event(str(i)) for i in range(4))
    request = Request(User("u", {}, history), (Candidate("9"),), top_k=3)
    rng = np.random.default_rng(0)
    for n in range(1, 7):
        items = [c.item for c in traffic.fill(request, catalog, n, rng).candidates]
        assert items[0] == "9"
        assert len(set(items)) == n
        assert not set(items) & {"0", "1", "2", "3"}
    everything = traffic.fill(request, catalog, 10, rng)
    assert {c.item for c in everything.candidates} == set(catalog.ids)
    assert everything.top_k is None
    unknown = replace(request, candidates=(Candidate("new"),))
    assert len(traffic.fill(unknown, catalog, 11, rng).candidates) == 11
    with pytest.raises(InputError, match="has only 10 items"):
        traffic.fill(request, catalog, 11, rng)


class Asked:
    """A rank function that remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, request):
        self.calls.append(request)
        n = len(request.candidates)
        return Scores(("a",) * n, np.full(n, 0.25), np.full(n, 0.75), np.full(n, True), ("ratio",) * n, ((),) * n)


def test_each_labelled_candidate_is_scored_once_by_both():
    rank, rows = Asked(), [user_row("x"), user_row("y", label=0), user_row("z", label=None)]
    found = quality.score(rank, rows, ["x", "y", "z"], lambda *_: None)
    assert [request.threshold for request in rank.calls] == ["ratio:1"] * 3
    assert (found.label.tolist(), found.crm.tolist(), found.llm.tolist()) == ([1, 0], [0.25] * 2, [0.75] * 2)
    assert found.user.tolist() == ["x", "y"]
    short = quality.score(rank, [user_row("x")] * 80, ["x"] * 80, lambda *_: None, seconds=0.0)
    assert len(short) == quality.LEAST


def labelled():
    rng = np.random.default_rng(0)
    rows = [replace(user_row(f"u{i % 30}"), labels=(int(rng.random() < 0.5),)) for i in range(300)]
    truth = np.array([row.labels[0] for row in rows], float)
    found = quality.score(Asked(), rows, [row.request.user.id for row in rows], lambda *_: None)
    crm = np.clip(0.5 + 0.2 * (truth - 0.5) + 0.15 * rng.standard_normal(300), 0.01, 0.99)
    llm = np.clip(0.5 + 0.6 * (truth - 0.5) + 0.15 * rng.standard_normal(300), 0.01, 0.99)
    llm[::50] = np.nan
    return replace(found, crm=crm, llm=llm)


POLICIES = {"ratio:0": Policy(), "ratio:0.5": Policy(threshold=0.68), "ratio:1": Policy(threshold=0.0)}


def test_quality_has_every_line_and_the_ends_are_the_models():
    rows = labelled()
    found = quality.judged(rows, POLICIES, {"ratio:0": 0.0, "ratio:0.5": 0.5, "ratio:1": 1.0}, BY_ENTROPY, draws=50)
    lines = {(point.line, point.threshold): point for point in found.points}
    assert (found.rows, found.users) == (300, 30)
    assert lines["policy", "ratio:0"].metrics == lines["crm", None].metrics
    assert lines["policy", "ratio:1"].metrics == lines["llm", None].metrics
    some = lines["policy", "ratio:0.5"]
    chosen = (rows.crm > 0) & (BY_ENTROPY(rows.crm) >= 0.68) & ~np.isnan(rows.llm)
    assert some.share == pytest.approx(chosen.mean())
    assert some.metrics["auc"].value == pytest.approx(metrics.auc(np.where(chosen, rows.llm, rows.crm), rows.label))
    assert some.gains["auc"].value == pytest.approx(some.metrics["auc"].value - metrics.auc(rows.crm, rows.label))
    assert lines["random", "ratio:0.5"].metrics["auc"].value < lines["oracle", "ratio:0.5"].metrics["auc"].value
    assert lines["random", "ratio:0.5"].share == some.share
    assert found.knee is not None
    assert not [line for line, _ in lines if line == "entropy"]  # the policy itself


def test_another_measure_stands_beside_the_entropy():
    policies = {"ratio:0.3": Policy(Margin(0.3), 0.45)}
    found = quality.judged(labelled(), policies, {"ratio:0.3": 0.3}, Margin(0.3), draws=20)
    own, other = (next(p for p in found.points if p.line == line) for line in ("policy", "entropy"))
    assert own.share == other.share
    assert own.metrics != other.metrics


def test_published_rules_ask_about_as_many_rows(monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(
        quality.rules, "orders", lambda rows, rule: {"entropy": rows.crm, "drawn": rng.random(len(rows))}
    )
    rows = labelled()
    found = quality.judged(rows, POLICIES, {"ratio:0": 0.0, "ratio:0.5": 0.5, "ratio:1": 1.0}, BY_ENTROPY, draws=20)
    lines = {(point.line, point.threshold): point for point in found.points}
    (drawn,) = [key for key in lines if key[0] == "drawn"]
    assert drawn == ("drawn", "ratio:0.5")  # the ends are the models
    assert lines[drawn].share == lines["policy", "ratio:0.5"].share
    assert lines[drawn].gains["auc"].low < lines[drawn].gains["auc"].high
    assert not [line for line, _ in lines if line == "entropy"]


def test_what_a_gate_looks_at_and_a_server_does_not_tell_is_said():
    gate = Gate("ridge", ("text",), (0.0,), (0.0,) * 6)
    told = quality.judged(labelled(), POLICIES, {}, gate)
    assert told.why == "the bundle's policy looks at text, which the answers do not tell"
    assert not told.points


def test_without_labels_there_is_no_quality():
    assert quality.judged(labelled().take(np.zeros(300, bool)), POLICIES, {}, BY_ENTROPY).why == quality.NO_LABELS


def test_labels_are_read_from_both_forms():
    single = parse_traffic({"request": {"user": {}, "candidates": [{"item": "a"}]}, "label": 0})
    many = parse_traffic({"user": {}, "candidates": [{"item": "a", "label": 1}, {"item": "b"}]})
    assert (single.labels, many.labels) == ((0,), (1, None))
    assert parse_traffic({"user": {}}).labels == ()
    for bad in ({"request": {"user": {}}}, {"request": {"user": {}}, "x": 1}, [], {"user": {}, "candidates": [1]}):
        with pytest.raises(InputError):
            parse_traffic(bad)


@pytest.mark.parametrize(("low", "high"), [(0.4, 400.0), (0.4, 0.41), (1.0, 1.0), (3.0, 9.0), (0.001, 90_000.0),
                         *((math.nextafter(10.0**k, 0), math.nextafter(10.0**j, math.inf)) for k in range(-4, 4)
                           for j in range(k, 7))])  # fmt: skip
def test_log_ticks_enclose(low, high):
    ticks = drawing.log_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert len(ticks) >= 2
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(("low", "high"), [(0.51, 0.79), (0.7, 0.7), (0.0, 1.0), (0.7831, 0.7839)])
def test_linear_ticks_enclose(low, high):
    ticks = drawing.linear_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 7


def test_labels_are_spread():
    assert drawing.spread([10, 11, 12, 60], 14) == [10, 24, 38, 60]


def test_disturbance_counts_what_is_not_ours():
    cores = machine.machine()["cores"]
    before, after = machine.Ticks(0, 0, 0, 0), machine.Ticks(10, 6 * cores, 1 * cores, 5 * cores)
    assert machine.disturbance(before, after) == pytest.approx({"foreign": 0.1, "steal": 0.1})


def test_a_cpu_is_named_with_what_it_is_strongest_in():
    assert box.cpu_name("AMD EPYC", {"fpu", "avx", "avx2"}) == "AMD EPYC, AVX2"
    assert box.cpu_name("AMD EPYC", {"avx2", "avx512f", "avx512_bf16"}) == "AMD EPYC, AVX-512 BF16"
    assert box.cpu_name("aarch64", {"asimd", "asimddp"}) == "aarch64, dot products"
    assert box.cpu_name("riscv64", set()) == "riscv64"


def test_inputs_of_requests_are_columns_with_nan_where_one_has_none():
    parts = [({"text": np.array([1.0, 0.0, 1.0])}, [0, 2]), ({}, [1]), ({"text": np.array([5.0])}, [0])]
    found = quality.columns(parts)
    assert list(found) == ["text"]
    assert found["text"].tolist() == pytest.approx([1.0, 1.0, math.nan, 5.0], nan_ok=True)
