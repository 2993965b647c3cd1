"""`replay` and `evaluate --log`, as a person types them, on a log that a real engine wrote while it explored."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bundles import make_bundle
from corella_edge.decision_log import read_logged, read_outcomes
from corella_edge.errors import InputError
from corella_edge.labelled_files import read_json_lines
from corella_edge.request_message import parse_request
from corella_edge_runtime.decisions import DecisionLog
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.partitions import parquet
from sessions import run, succeed

REQUESTS = 150
# What `replay` and `evaluate --log` must do without.
HEAVY = ("polars", "torch", "onnxruntime", "llama_cpp", "pyarrow", "matplotlib")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with bundle, log, labels.csv and clicks.csv."""
    root = tmp_path_factory.mktemp("replay")
    rng = np.random.default_rng(0)
    labels, clicks = ["request,item,label"], ["request,item,time"]
    with (
        Engine.open(make_bundle(root / "bundle"), llm_threads=1, tuned=False, explore=0.3) as engine,
        DecisionLog.open(root / "log", 2**20, clock=lambda: 1_700_000_000.0) as log,
    ):
        engine.router._rng = rng
        for k in range(REQUESTS):
            items = [f"i{i}" for i in rng.permutation(35)[:8]]
            candidates = [{"item": item} for item in items]
            user = {"id": f"u{k % 40}", "history": [{"item": f"i{k % 30}", "rating": 4}]}
            request = parse_request({"id": f"r{k}", "user": user, "candidates": candidates, "threshold": 0.66})
            scores = engine.rank(request)
            log.put(request, scores, engine.name, wait=True, know=engine.gate_inputs)
            for item, p in zip(items, scores.crm.tolist(), strict=True):
                hit = rng.random() < p
                labels.append(f"r{k},{item},{int(hit)}")
                clicks += [f"r{k},{item},{1_700_000_060}"] if hit else []
    (root / "labels.csv").write_text("\n".join(labels) + "\n")
    (root / "clicks.csv").write_text("\n".join(clicks) + "\n")
    return root


def test_the_policy_that_logged_changes_nothing_but_what_chance_added(place: Path) -> None:
    done = succeed("replay", place / "log", "--policy", place / "bundle", "--threshold", "0.66", "--json")
    told = json.loads(done.out)
    logged = read_logged(sorted((place / "log").glob("*.jsonl")))
    assert (told["rows"], told["requests"]) == (8 * REQUESTS, REQUESTS)
    assert told["added"] == 0
    assert told["dropped"] == int((logged.reason == "explore").sum()) > 0
    assert told["undecided"] == 0
    assert told["share"]["then"] == pytest.approx(logged.routed.mean())


def test_a_lower_threshold_asks_more_and_says_what_nobody_knows(place: Path, tmp_path: Path) -> None:
    args = ("replay", place / "log", "--policy", place / "bundle", "--threshold", "ratio:1")
    text = succeed(*args, "--rows", tmp_path / "rows.jsonl").out
    told = json.loads(succeed(*args, "--json").out)
    assert f"{told['undecided']:,} of the {told['wanted']:,} rows to be asked have no answer in the log" in text
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sum(row["undecided"] for row in rows) == told["undecided"] > 0
    assert all(row["wanted"] and row["llm"] is None for row in rows if row["undecided"])
    assert {"request", "item", "crm", "propensity", "reason", "routed", "input.dispersion", "input.history"} <= {
        *rows[0]
    }
    assert run(*args, "--rows", tmp_path / "rows.jsonl").code == 2
    succeed(*args, "--rows", tmp_path / "rows.parquet")
    assert parquet.count(tmp_path / "rows.parquet") == len(rows)


def test_labels_by_name_and_by_clicks_say_the_same(place: Path) -> None:
    args = ("replay", place / "log", "--policy", place / "bundle", "--json", "--labels")
    by_label, by_click = (
        json.loads(succeed(*args, place / name).out)["quality"] for name in ("labels.csv", "clicks.csv")
    )
    assert by_label == by_click
    assert list(by_label) == ["base model", "as answered", "now"]
    assert by_label["base model"]["auc"]["value"] > 0.55
    assert by_label["base model"]["share"] == 0.0


def test_the_curve_and_the_labelled_rows(place: Path, tmp_path: Path) -> None:
    args = (
        "evaluate",
        place / "bundle",
        "--log",
        place / "log",
        "--labels",
        place / "labels.csv",
        "--ratios",
        "0,0.2,1",
    )
    told = json.loads(succeed(*args, "--json", "--out", tmp_path / "labelled.parquet").out)
    nothing, some, everything = told["curve"]
    assert [one["asked"] for one in told["curve"]] == [0.0, 0.2, 1.0]
    assert (nothing["share"], everything["share"]) == (0.0, 1.0)
    assert some["effective"] < 0.2 * 8 * REQUESTS + 1
    for one in told["curve"]:
        assert one["undecided"] == 0.0
        assert one["auc"]["low"] < one["auc"]["value"] < one["auc"]["high"]
        assert one["logloss_robust"] is not None
    text = succeed(*args, "--out", tmp_path / "labelled.jsonl")
    assert "ratio:0.2" in text.out
    assert "asked at random" in text.out
    rows, same = read_json_lines(tmp_path / "labelled.jsonl"), parquet.read_labelled(tmp_path / "labelled.parquet")
    assert rows.sha256() == same.sha256()
    assert told["random"] == int((rows.known & (rows.propensity < 1)).sum()) > 0
    # The table says the same as the log it was made of.
    again = json.loads(succeed("evaluate", place / "bundle", "--log", tmp_path / "labelled.parquet", "--json",
                               "--ratios", "0,0.2,1").out)  # fmt: skip
    assert again["curve"][1]["auc"]["value"] == pytest.approx(some["auc"]["value"])


def test_chance_is_missed_only_where_answers_are(place: Path, tmp_path: Path) -> None:
    succeed("evaluate", place / "bundle", "--log", place / "log", "--labels", place / "labels.csv", "--ratios", "0",
            "--out", tmp_path / "rows.jsonl")  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    sure = [{**row, "propensity": 1.0} for row in rows if row.get("llm") is not None]
    for name, kept in (("whole", sure), ("part", [*sure[1:], {**sure[0], "llm": None}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    whole, part = (
        succeed("evaluate", place / "bundle", "--log", tmp_path / f"{name}.jsonl", "--ratios", "0").out
        for name in ("whole", "part")
    )
    assert "left to chance" in part
    assert "left to chance" not in whole


def test_neither_needs_more_than_the_light_core(place: Path) -> None:
    code = (
        "import sys\nfrom corella_edge.cli import main\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\nmain(sys.argv[1:])"
    )
    log, bundle = place / "log", place / "bundle"
    for args in (["replay", log, "--policy", bundle, "--labels", place / "clicks.csv"],
                 ["evaluate", bundle, "--log", log, "--labels", place / "labels.csv", "--ratios", "0"]):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [("replay LOG --policy none.json", "none.json"), ("replay none --policy BUNDLE", "LOG none: no such file"),
     ("replay LOG --policy POLICY", "policy.threshold: expected a number"),
     ("replay LOG --policy LIST", "corella-edge: LIST: expected an object"),
     ("replay LOG --policy HALF", "corella-edge: HALF: the calibration has no thresholds"),
     ("replay NOTHING --policy BUNDLE", "corella-edge: NOTHING: holds no decision that was scored"),
     ("replay LOG --policy BUNDLE --labels EMPTY", "no row of the log has a label"),
     ("evaluate BUNDLE --log LOG", "no row of the log has a label"),
     ("evaluate BUNDLE --log LOG --data LOG", "--log excludes --data"), ("evaluate BUNDLE", "Missing option"),
     ("evaluate BUNDLE --log LOG --labels TWICE", "has two labels"),
     ("evaluate KEPT --log LOG --labels LABELS --out OUT", "looks at the input 'kept'")],
)  # fmt: skip
def test_bad_input_is_one_clear_error(place: Path, tmp_path: Path, args: str, said: str) -> None:
    (tmp_path / "policy.json").write_text('{"measure": {"name": "margin"}, "threshold": "high"}')
    (tmp_path / "empty.csv").write_text("request,item,label\nnone,i1,1\n")
    (tmp_path / "twice.csv").write_text("request,item,label\nr0,i1,1\nr0,i1,0\n")
    (tmp_path / "kept.json").write_text('{"measure": {"name": "disagreement"}, "threshold": 0.5}')
    names = {"LABELS": place / "labels.csv", "KEPT": tmp_path / "kept.json", "OUT": tmp_path / "out.jsonl",
             "LOG": place / "log", "BUNDLE": place / "bundle", "POLICY": tmp_path / "policy.json",
             "EMPTY": tmp_path / "empty.csv", "TWICE": tmp_path / "twice.csv", "LIST": tmp_path / "list.json",
             "NOTHING": tmp_path / "nothing.jsonl", "HALF": tmp_path / "half.json"}  # fmt: skip
    names["HALF"].write_text('{"calibration": {}}')
    names["LIST"].write_text("[1, 2]")
    names["NOTHING"].write_text("")
    said = re.sub("LIST|NOTHING|HALF", lambda found: str(names[found[0]]), said)
    done = run(*(names.get(word, word) for word in args.split()))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_with_a_policy_alone_decides(place: Path, tmp_path: Path) -> None:
    (tmp_path / "new.json").write_text('{"measure": {"name": "margin"}, "threshold": 0.4}')
    told = json.loads(succeed("replay", place / "log", "--policy", tmp_path / "new.json", "--json").out)
    crm = read_logged(sorted((place / "log").glob("*.jsonl"))).rows.crm
    assert told["share"]["now"] == pytest.approx((np.abs(crm - 0.5) <= 0.1).mean(), abs=0.01)


def test_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"request": 7, "item": "a", "label": 1}\n{"request": "7", "item": "b", "label": 0}\n')
    outcome = read_outcomes(path, 60.0)
    assert [outcome("7", item, 0.0) for item in "ab"] == [1.0, 0.0]
    assert np.isnan(outcome("7", "c", 0.0))
    path.write_text("request,item,time\n7,a,100\n")
    outcome = read_outcomes(path, 60.0)
    assert [outcome("7", "a", time) for time in (50.0, 100.0, 39.0, 101.0)] == [1.0, 1.0, 0.0, 0.0]
    path.write_text("request,item,label\n7,a,2\n")
    with pytest.raises(InputError, match="line 2: label"):
        read_outcomes(path, 60.0)
