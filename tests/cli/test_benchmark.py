"""`corella-edge benchmark` on a small bundle, and its parts one by one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace

import numpy as np
import pytest

from corella_edge import metrics
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.json_lines import Traffic, parse_traffic
from corella_edge.metrics import Bootstrap
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.routing.policy import Policy
from corella_edge.scores import Scores
from corella_edge_runtime import box, drawing
from corella_edge_runtime.bench import machine, quality, traffic
from corella_edge_runtime.bench import run as bench
from corella_edge_runtime.bench.measure import latency, measure

QUICK = ["--llm-threads", "1", "--max-requests", "6", "--candidates", "5"]


def result_of(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.fixture(scope="module")
def report(bundle, tmp_path_factory):
    """One whole run in a process of its own, without what only training needs; (folder, stdout)."""
    out = tmp_path_factory.mktemp("report") / "deep"
    out.mkdir()
    for name in ("benchmark.md", ".benchmark.svg.partial"):  # of an earlier run, and of a killed one
        (out / name).write_text("old")
    blocked = ["torch", "transformers", "tokenizers", "matplotlib", "polars", "onnx", "gguf", "starlette"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
            "from corella_edge.cli import main; main(sys.argv[1:])")  # fmt: skip
    args = ["benchmark", bundle, "--out", out, "--ratios", "0,0.05,1", *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_prints_floors_a_short_table_and_where_the_files_are(report):
    told = report[1].splitlines()
    assert told[0].startswith("Base model (CRM) alone, bare session run of 5 candidates: ")
    assert told[1].startswith("LLM alone, reading whole prompts of ")
    assert told[3].split()[:2] == ["ratio", "share"]
    assert [line.split()[0] for line in told[4:7]] == ["0", "0.05", "1"]
    assert told[4].split()[2] == "never"
    assert told[5].split()[3] == "nats"
    assert max(map(len, told[:8])) <= 100
    assert not [line for line in told if line.startswith("{")]
    assert [line.partition(": ")[0] for line in told[-3:]] == [
        str(report[0] / f"benchmark.{e}") for e in ("json", "md", "svg")
    ]
    assert len(report[1]) < 2000


def test_files(report):
    out = report[0]
    assert sorted(p.name for p in out.iterdir()) == ["benchmark.json", "benchmark.md", "benchmark.svg"]
    page = (out / "benchmark.md").read_text()
    assert "| 0.05 |" in page
    assert "benchmark.svg" in page
    picture = ET.fromstring((out / "benchmark.svg").read_text())
    words = {"".join(part.itertext()) for part in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"p50", "p90", "p99", "AUC", "CRM alone", "0.05"} <= words


def test_figures_are_consistent(report, rows, bundle):
    found = json.loads((report[0] / "benchmark.json").read_text())
    assert found["bundle"]["label"] == "tiny@1"
    assert found["settings"]["llm_threads"] == 1
    assert found["machine"]["cores"] >= 1
    never, some, always = found["ratios"]
    assert (never["share"], never["threshold"], never["llm_tokens_per_request"]) == (0.0, None, 0.0)
    assert always["share"] > 0.9
    assert some["quality"]["share"] == pytest.approx(0.05, abs=0.02)
    assert some["request_ms"]["p50"] <= some["request_ms"]["p90"] <= some["request_ms"]["p99"]
    assert always["request_ms"]["p50"] == pytest.approx(5 * always["candidate_ms"]["p50"])
    assert always["candidates_per_s"] == pytest.approx(5 * always["requests_per_s"])
    assert all(row["requests"] == 6 and row["new_users"] == 1.0 for row in found["ratios"])
    expected = json.loads((bundle / "verification.json").read_text())["metrics"]["crm"]
    assert never["quality"]["auc"]["value"] == pytest.approx(expected["auc"])
    assert never["quality"]["logloss"] == pytest.approx(expected["logloss"])
    assert never["quality"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert never["quality"]["rows"] == len(rows)


def test_names_no_path_and_no_host(report, bundle):
    everything = "".join(p.read_text() for p in report[0].iterdir())
    assert str(bundle.parent) not in everything
    assert "/" + "root" not in everything


def test_requests_as_they_are(corella, bundle, requests):
    found = result_of(corella("benchmark", bundle, "--requests", requests, "--ratios", "0,1", *QUICK, "--json"))
    assert found["traffic"] == {
        "source": "requests.jsonl", "requests": 6, "users": len({i // 8 for i in range(6)}), "labelled_rows": 0,
    }  # fmt: skip
    assert [row["candidates"] for row in found["ratios"]] == [18, 18]
    assert "quality" not in found["ratios"][0]


def test_requests_with_labels(corella, bundle, rows, tmp_path):
    path, lines = tmp_path / "labelled.jsonl", []
    for row in rows[:20]:
        candidates = [{**row["request"]["candidates"][0], "label": row["label"]}, {"item": "i3"}]
        lines.append(json.dumps({**row["request"], "candidates": candidates}))
    path.write_text("\n".join(lines))
    found = result_of(corella("benchmark", bundle, "--requests", path, "--ratios", "0", *QUICK, "--json"))
    assert found["ratios"][0]["quality"]["rows"] == 20


def test_whole_catalogue(corella, bundle, tmp_path):
    (tmp_path / "all.jsonl").write_text('{"user": {"id": "u1"}}\n')
    found = result_of(
        corella("benchmark", bundle, "--requests", tmp_path / "all.jsonl", "--ratios", "0,1", *QUICK, "--json")
    )
    assert found["ratios"][0]["candidates"] == 40
    assert found["ceiling"]["crm_candidates"] == 40


def test_bundle_without_llm(corella, crm_bundle, requests):
    done = corella("benchmark", crm_bundle, "--requests", requests, "--ratios", "0,1", *QUICK, "--json")
    found = result_of(done)
    assert "warning: the bundle has no LLM" in done.err
    assert found["llm"] is False
    assert found["ceiling"]["llm_tokens_per_s"] is None
    assert [row["share"] for row in found["ratios"]] == [0.0, 0.0]
    assert corella("benchmark", crm_bundle, "--requests", requests, "--require-llm").code == 3


def test_mistakes_are_one_line(corella, bundle, crm_bundle, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"user": {}, "candidates": [{"item": "a", "label": 2}]}')
    (tmp_path / "empty.jsonl").write_text("")
    cases = [
        ([bundle, "--out", tmp_path], 2, "holds 'bad.jsonl', which `benchmark` did not write"),
        ([crm_bundle], 2, "the bundle has no sample.jsonl; give --requests FILE"),
        ([bundle, "--candidates", 41], 2, "the catalogue has only 40 items"),
        ([bundle, "--requests", tmp_path / "none"], 2, "none: no such file"),
        ([bundle, "--requests", tmp_path / "bad.jsonl"], 2, "bad.jsonl line 1: candidates[0].label: expected 0 or 1"),
        ([bundle, "--requests", tmp_path / "empty.jsonl"], 2, "holds no requests"),
        ([bundle, "--out", tmp_path / "empty.jsonl"], 2, "cannot be made a folder"),
        ([tmp_path], 3, "not a bundle"),
    ]
    for args, code, message in cases:
        done = corella("benchmark", *args)
        lines = [line for line in done.err.splitlines() if line.startswith("corella-edge: ")]
        told = [line for line in lines if ": warning: " not in line]
        assert (done.code, message in done.err, len(told)) == (code, True, 1), done
    assert corella("benchmark", bundle, "--ratios", "0,2").code == 2


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


class Recorder:
    def __init__(self):
        self.calls, self.tokens = [], 0

    def rank(self, request):
        self.calls.append((request.threshold, request.user.id))
        self.tokens += 7
        n = len(request.candidates)
        routed = np.full(n, request.threshold == "ratio:1.0")
        llm = np.where(routed, 0.5, np.nan)
        return Scores(("a",) * n, np.full(n, 0.5), llm, routed, ("",) * n, ((),) * n)

    def stats(self):
        return {"evaluated_tokens": float(self.tokens), "reused_tokens": 0.0}


def test_every_ratio_gets_every_request_and_neighbours_differ():
    requests = [Request(User(str(i)), (Candidate("a"), Candidate("b"))) for i in range(12)]
    recorder = Recorder()
    timed = measure(recorder.rank, recorder.stats, requests, [0.0, 0.5, 1.0], 2, 60.0, 0, lambda *_: None)
    assert len(timed) == 72
    for threshold in ("ratio:0.0", "ratio:0.5", "ratio:1.0"):
        assert sorted(u for t, u in recorder.calls if t == threshold) == sorted([str(i) for i in range(12)] * 2)
    assert all(a[1] != b[1] for a, b in zip(recorder.calls, recorder.calls[1:], strict=False))
    for i in range(0, 72, 3):
        assert len({t for t, _ in recorder.calls[i : i + 3]}) == 3
    assert all(one.new_user and one.evaluated == 7 for one in timed)
    assert {one.routed for one in timed if one.ratio == 2} == {2}


def test_time_limit_ends_after_a_whole_round():
    recorder = Recorder()
    requests = [user_row(str(i)).request for i in range(50)]
    assert len(measure(recorder.rank, recorder.stats, requests, [0.0, 1.0], 1, 0.0, 0, lambda *_: None)) == 2


def test_same_user_again_is_not_new():
    recorder = Recorder()
    requests = [user_row("same").request] * 3
    timed = measure(recorder.rank, recorder.stats, requests, [0.0, 1.0], 1, 120.0, 0, lambda *_: None)
    assert [one.new_user for one in timed] == [True, False, False, False, False, False]


def test_latency_percentiles():
    found = latency([i / 1000 for i in range(1, 102)])
    assert (found.p50, found.p90, found.p99, found.mean) == pytest.approx((51.0, 91.0, 100.0, 51.0))


def test_quality_replaces_the_routed_scores():
    crm, llm = np.array([0.1, 0.5, 0.52, 0.9]), np.array([0.2, 0.0, np.nan, 1.0])
    data = quality.Labelled(crm, llm, np.array([0, 0, 1, 1], dtype=np.int8), ("a", "b", "c", "d"))
    p, chosen = quality.routed(data, Policy(threshold=0.69))
    assert p.tolist() == [0.1, 0.0, 0.52, 0.9]
    assert chosen.tolist() == [False, True, False, False]
    found = quality.under(data, Policy(threshold=0.69), Bootstrap(data.users, 50))
    assert (found.rows, found.share) == (4, 0.25)
    assert found.auc.value == metrics.auc(p, data.labels)
    assert found.gain.value == pytest.approx(found.auc.value - metrics.auc(crm, data.labels))


def test_the_crms_auc_is_drawn_once(monkeypatch):
    crm, llm = np.array([0.1, 0.5, 0.52, 0.9]), np.array([0.2, 0.0, 0.7, 1.0])
    data = quality.Labelled(crm, llm, np.array([0, 0, 1, 1], dtype=np.int8), ("a", "b", "c", "d"))
    alone = [quality.under(data, Policy(threshold=nats), Bootstrap(data.users, 50)) for nats in (0.1, 0.69)]
    calls = []
    monkeypatch.setattr(bench, "DRAWS", 50)
    for module in (bench, quality):
        monkeypatch.setattr(module, "sampled_auc", lambda *args: calls.append(args) or metrics.sampled_auc(*args))
    found = bench._qualities(data, [Policy(threshold=0.1), Policy(threshold=0.69)])
    assert [one["quality"]["gain"] for one in found] == [asdict(one.gain) for one in alone]
    assert len(calls) == 3
    assert bench._qualities(replace(data, labels=data.labels[:0]), [0.1, 0.69]) == [{}, {}]


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
    found = quality._columns(parts)
    assert list(found) == ["text"]
    assert found["text"].tolist() == pytest.approx([1.0, 1.0, math.nan, 5.0], nan_ok=True)
