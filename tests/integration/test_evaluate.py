"""`evaluate`: its table against a row-by-row calculation, and what happens when it is interrupted or run again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from corella_edge.bundle.artefact import Bundle
from corella_edge.metrics import ece
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import HistoryCut, RowSet
from corella_edge_export.evaluation import evaluate as module
from corella_edge_runtime.engine import Engine
from sessions import ONE, prepare_tiny, run, succeed

RATIOS = (0.0, 0.05, 0.2, 0.5, 1.0)
ARGS = [*ONE, "--split", "test", "--ratios", ",".join(map(str, RATIOS))]


@dataclass
class Evaluated:
    folder: Path
    table: dict
    crm: np.ndarray
    llm: np.ndarray
    labels: np.ndarray
    users: list


def arguments(tiny, out, *more):
    return ["evaluate", tiny.bundle, "--data", tiny.data, "--out", out, *ARGS, *more]


@pytest.fixture(scope="module")
def evaluated(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "out"
    succeed(*arguments(tiny, folder))
    data = PreparedData.open(tiny.data)
    split = data.split("test")
    order = sorted(range(len(split.users)), key=lambda row: (split.users[row], split.positions[row]))
    crm, llm = np.frombuffer((folder / "scores-0000.f64").read_bytes()).reshape(2, -1)
    users = [data.user_ids[split.users[row]] for row in order]
    table = json.loads((folder / "evaluation.json").read_text("utf-8"))
    return Evaluated(folder, table, crm, llm, split.labels[order], users)


def final_scores(evaluated, nats):
    """Row by row, straight from the rule: the LLM's word where the CRM's entropy reaches the threshold."""
    final, routed = [], []
    for p, yes in zip(evaluated.crm.tolist(), evaluated.llm.tolist(), strict=True):
        entropy = -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
        routed.append(entropy >= nats and not math.isnan(yes))
        final.append(yes if routed[-1] else p)
    return np.array(final), np.array(routed)


@pytest.mark.parametrize("group", ["all", "seen users", "unseen users"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_each_line_of_the_table(tiny, evaluated, ratio, group):
    bundle = Bundle.open(tiny.bundle)
    known = set(json.loads((tiny.bundle / "vocab" / "user_id.json").read_text("utf-8")))
    mask = np.array([group == "all" or (user in known) == (group == "seen users") for user in evaluated.users])
    final, routed = final_scores(evaluated, bundle.calibration().threshold(ratio))
    final, labels = final[mask], evaluated.labels[mask]
    found = next(row for row in evaluated.table["groups"][group]["at"] if row["ratio"] == ratio)
    assert found["rows"] == mask.sum()
    assert found["share"] == pytest.approx(routed[mask].mean(), abs=1e-9)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(labels, final), abs=1e-9)
    assert found["logloss"]["value"] == pytest.approx(log_loss(labels, final), abs=1e-9)
    assert found["accuracy"]["value"] == pytest.approx(((final >= 0.5) == labels).mean(), abs=1e-9)
    assert found["ece"]["value"] == pytest.approx(ece(final, labels), abs=1e-9)
    for metric in ("auc", "logloss", "accuracy"):
        assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
        assert found[metric] == found["lines"]["replace"][metric]
    over = found["lines"]["replace"]["over_llm"]["logloss"]["value"]
    assert over == pytest.approx(log_loss(labels, final) - log_loss(labels, evaluated.llm[mask]), abs=1e-9)
    gain = roc_auc_score(labels, final) - roc_auc_score(labels, evaluated.crm[mask])
    assert found["gain"]["value"] == pytest.approx(gain, abs=1e-9)


def test_the_ends_are_the_two_models(evaluated):
    first, *_, last = evaluated.table["groups"]["all"]["at"]
    assert (first["share"], last["share"]) == (0.0, 1.0)
    assert first["auc"]["value"] == pytest.approx(roc_auc_score(evaluated.labels, evaluated.crm), abs=1e-9)
    assert last["auc"]["value"] == pytest.approx(roc_auc_score(evaluated.labels, evaluated.llm), abs=1e-9)
    assert last["gain_over_llm"]["value"] == 0.0


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_other_lines(tiny, evaluated, ratio):
    _, routed = final_scores(evaluated, Bundle.open(tiny.bundle).calibration().threshold(ratio))
    crm, llm = evaluated.crm, evaluated.llm
    found = next(row for row in evaluated.table["groups"]["all"]["at"] if row["ratio"] == ratio)["lines"]
    odds = np.log(crm / (1 - crm)) + np.log(llm / (1 - llm))
    blended = np.where(routed, 1 / (1 + np.exp(-odds / 2)), crm)
    assert found["blend"]["auc"]["value"] == pytest.approx(roc_auc_score(evaluated.labels, blended), abs=1e-9)
    assert found["blend"]["logloss"]["value"] == pytest.approx(log_loss(evaluated.labels, blended), abs=1e-9)
    loss = [-np.log(np.where(evaluated.labels > 0, p, 1 - p)) for p in (crm, llm)]
    best = np.argsort(loss[1] - loss[0], kind="stable")[: routed.sum()]
    oracle = crm.copy()
    oracle[best] = llm[best]
    assert found["oracle"]["auc"]["value"] == pytest.approx(roc_auc_score(evaluated.labels, oracle), abs=1e-9)
    assert set(found) == {"replace", "blend", "random", "oracle"}


@pytest.mark.parametrize("group", ["all", "seen users", "unseen users"])
def test_thirds_and_both_models_alone(tiny, evaluated, group):
    known = set(json.loads((tiny.bundle / "vocab" / "user_id.json").read_text("utf-8")))
    mask = np.array([group == "all" or (user in known) == (group == "seen users") for user in evaluated.users])
    found = evaluated.table["groups"][group]
    p, yes, labels = evaluated.crm[mask], evaluated.llm[mask], evaluated.labels[mask]
    assert found["crm"]["logloss"]["value"] == pytest.approx(log_loss(labels, p), abs=1e-9)
    assert found["llm"]["auc"]["value"] == pytest.approx(roc_auc_score(labels, yes), abs=1e-9)
    order = np.argsort(-np.abs(p - 0.5), kind="stable")
    assert [third["group"] for third in found["thirds"]] == [1, 2, 3]
    assert sum(third["rows"] for third in found["thirds"]) == len(p)
    hard = order[-found["thirds"][2]["rows"] :]
    hit = ((yes[hard] >= 0.5) == labels[hard]).mean()
    assert found["thirds"][2]["llm"]["accuracy"]["value"] == pytest.approx(hit, abs=1e-9)


def test_what_is_written(evaluated):
    json.loads((evaluated.folder / "evaluation.json").read_text("utf-8"), parse_constant=pytest.fail)
    text = (evaluated.folder / "evaluation.md").read_text("utf-8")
    assert "| ratio | routed | replace | blend | random | oracle |" in text
    assert "3, least confident" in text
    svgs = {f"{name}.svg" for name in ("curve-auc", "curve-accuracy", "curve-logloss", "calibration", "groups")}
    assert svgs <= {path.name for path in evaluated.folder.iterdir()}


def test_liked_histories_set_warm_and_cold_rows_apart(tiny, evaluated):
    data = PreparedData.open(tiny.data)
    data.info["history"] = {"events": "liked"}
    split = data.split("test")
    order = np.lexsort((split.positions, split.users))
    with Engine.open(tiny.bundle, llm=None) as engine:
        rows = RowSet(data, split, order, HistoryCut(10))
        found = module.judge(engine, rows, evaluated.crm, evaluated.llm, (0.0,), lambda *_: None)["groups"]
    train = data.split("train")
    warm = np.isin(split.users, train.users) & np.isin(split.items, train.items)
    counts = {"all": len(warm), "warm rows": warm.sum(), "cold rows": (~warm).sum(),
              "unseen items": (~np.isin(split.items, train.items)).sum()}  # fmt: skip
    assert {name: group["rows"] for name, group in found.items()} == {n: c for n, c in counts.items() if c}
    auc = roc_auc_score(evaluated.labels[warm[order]], evaluated.crm[warm[order]])
    assert found["warm rows"]["crm"]["auc"]["value"] == pytest.approx(auc, abs=1e-9)


def test_rows_without_text_are_the_crms(tiny, evaluated):
    """nan is what the engine says of an item without text."""
    data = PreparedData.open(tiny.data)
    split = data.split("test")
    rows = RowSet(data, split, np.lexsort((split.positions, split.users)), HistoryCut(10))
    silent = evaluated.llm.copy()
    silent[::7] = np.nan
    with Engine.open(tiny.bundle, require_llm=True, llm_threads=1) as engine:
        found = module.judge(engine, rows, evaluated.crm, silent, (0.5, 1.0), lambda *_: None)["groups"]["all"]
    json.dumps(found, allow_nan=False)
    answered = ~np.isnan(silent)
    assert found["answered"] == found["at"][-1]["share"] == answered.mean()
    either = np.where(answered, silent, evaluated.crm)
    assert found["llm"]["auc"]["value"] == pytest.approx(roc_auc_score(evaluated.labels, either), abs=1e-9)
    assert found["at"][-1]["gain_over_llm"]["value"] == 0.0


def test_running_it_again_scores_nothing(tiny, evaluated, monkeypatch):
    before = (evaluated.folder / "evaluation.json").read_text("utf-8")
    monkeypatch.setattr(Engine, "rank", None)
    succeed(*arguments(tiny, evaluated.folder))
    after = json.loads((evaluated.folder / "evaluation.json").read_text("utf-8"))
    assert after["groups"] == json.loads(before)["groups"]


class Counting:
    """`Engine.rank`, counted; Ctrl-C comes at call number `stop`."""

    def __init__(self, stop=0):
        self.calls, self.stop, self.rank = 0, stop, Engine.rank

    def install(self, monkeypatch):
        def rank(engine, request, **options):
            self.calls += 1
            if self.calls == self.stop:
                raise KeyboardInterrupt
            return self.rank(engine, request, **options)

        monkeypatch.setattr(Engine, "rank", rank)


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(tiny, evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 50)
    with monkeypatch.context() as patch:
        Counting(stop=75).install(patch)
        done = run(*arguments(tiny, tmp_path / "out"))
    assert (done.code, done.err.splitlines()[-1]) == (130, "corella-edge: interrupted")
    counting = Counting()
    counting.install(monkeypatch)
    succeed(*arguments(tiny, tmp_path / "out"))
    assert counting.calls == len(evaluated.crm) - 50
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    ours, theirs = (table["groups"]["all"]["at"][0]["auc"] for table in (found, evaluated.table))
    assert ours == theirs


def test_another_bundle_in_the_same_folder_is_refused(tiny, evaluated, tmp_path):
    other = tmp_path / "bundle"
    succeed("export", tiny.run, "--out", other, "--bundle-version", "2", "--no-sample", *ONE)
    done = run("evaluate", other, "--data", tiny.data, "--out", evaluated.folder, *ARGS)
    assert done.code == 2
    assert "begun with another" in done.err.splitlines()[-1]
    assert done.err.count("corella-edge: ") == 1


def test_other_data_or_rows_in_the_same_folder_are_refused(tiny, evaluated, tmp_path):
    other = prepare_tiny(tmp_path / "data", seed=1)
    for done in (
        run("evaluate", tiny.bundle, "--data", other, "--out", evaluated.folder, *ARGS),
        run(*arguments(tiny, evaluated.folder, "--rows", 30)),
        run(*arguments(tiny, evaluated.folder, "--no-llm")),
        run("evaluate", tiny.bundle, "--data", tiny.data, "--out", evaluated.folder, *ONE, "--split", "valid"),
    ):
        assert done.code == 2
        assert "begun with another" in done.err


def test_without_the_llm_there_is_one_line(tiny, tmp_path):
    done = succeed(*arguments(tiny, tmp_path / "out", "--no-llm"))
    table = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert [row["ratio"] for row in table["groups"]["all"]["at"]] == [0.0]
    assert "switched off" in done.err


def test_a_run_on_other_data_is_not_exported(tiny, tmp_path):
    other = prepare_tiny(tmp_path / "data", seed=1)
    done = run("export", tiny.run, "--data", other, "--out", tmp_path / "bundle")
    assert done.code == 2
    assert "was trained on other data" in done.err
    assert not (tmp_path / "bundle").exists()
