"""The whole study of a recipe in small: what is trained once, what goes on, and every figure from its kept scores."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

import tiny_run
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.routing.policy import RATIOS, Calibration
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate
from corella_edge_export.evaluation import plots, tables
from corella_edge_export.evaluation.fusion import fusion
from corella_edge_export.evaluation.scored import Floats, Json, ScoredRows, ScoredSplits
from corella_edge_export.evaluation.shares import RANDOM_DRAWS
from corella_edge_export.recipe import Recipe
from corella_edge_export.study.predictions import Predictions, scorer
from corella_edge_export.study.study import StudySettings, shared_by_seeds, study
from corella_edge_export.training import checkpoint, loop, stages
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks import llm as train_llm
from sessions import REPOSITORY, run

SETTINGS = StudySettings(seeds=(1, 2), draws=20)
VARIANTS = ("full", "without-stage-1", "without-stage-2", "without-alignment", "without-stage-3")
LINES = ("replace", "blend", "stack", "random", "oracle")


@dataclass
class Studied:
    data: PreparedData
    recipe: Recipe
    folder: Path
    result: Json
    trained: list[str]

    def variant(self, seed: int, name: str = "full") -> Path:
        return self.folder / f"seed-{seed}" / name


def without_text(folder: Path, count: int) -> PreparedData:
    """Synthetic data whose most frequent items of the test rows have lost their titles."""
    write_prepared(generate(SyntheticConfig(seed=3, users=60, items=60, genres=2, events=18.0)), folder, requests=5)
    test = pl.read_parquet(folder / "test.parquet")["item_id"].value_counts(sort=True)["item_id"].head(count)
    items = pl.read_parquet(folder / "items.parquet")
    title = pl.when(pl.col("item_id").is_in(test.to_list())).then(None).otherwise(pl.col("title"))
    items.with_columns(title.alias("title")).write_parquet(folder / "items.parquet")
    about = json.loads((folder / "dataset.json").read_text("utf-8"))
    about["files"]["items.parquet"]["sha256"] = hashlib.sha256((folder / "items.parquet").read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(about), "utf-8")
    return PreparedData.open(folder)


class Counting:
    """`loop.fit`, noting the stages that it trains; Ctrl-C comes instead of number `stop`."""

    def __init__(self, stop: int = 0) -> None:
        self.stages: list[str] = []
        self.stop, self.fit = stop, loop.fit

    def __call__(self, task: Any, schedule: Any, folder: Path, *more: Any) -> Any:
        if len(self.stages) + 1 == self.stop:
            raise KeyboardInterrupt
        self.stages.append(folder.name)
        return self.fit(task, schedule, folder, *more)


def make(data: PreparedData, recipe: Recipe, out: Path) -> Json:
    return study(recipe, data, out, SETTINGS, lambda message: None, quiet=True)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    torch.set_num_threads(1)  # so small a model is trained twice as fast by one thread as by two
    root = tmp_path_factory.mktemp("study")
    data, recipe, counting = without_text(root / "data", 2), tiny_run.recipe(), Counting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit", counting)
        result = make(data, recipe, root / "out")
    return Studied(data, recipe, root / "out", result, counting.stages)


def kept(folder: Path, split: str, model: str) -> Floats:
    (path,) = (folder / "predictions").glob(f"{split}-{model}-*.f64")
    return np.frombuffer(path.read_bytes(), dtype=np.float64)


def scored(studied: Studied, seed: int, split: str) -> ScoredRows:
    rows = studied.data.split(split)
    base, crm, llm = (kept(studied.variant(seed), split, model) for model in ("base", "crm", "llm"))
    seen = np.isin(rows.users, studied.data.split("train").users)
    return ScoredRows(base, crm, llm, rows.labels, rows.users.astype(np.int64), seen)


def metrics(p: Floats, labels: Any) -> dict[str, float]:
    hit = np.mean([(score >= 0.5) == (label > 0) for score, label in zip(p, labels, strict=True)])
    return {"auc": roc_auc_score(labels, p), "logloss": log_loss(labels, p), "accuracy": float(hit)}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def by_hand(pair: ScoredSplits, line: str, ratio: float) -> list[Floats]:
    """Final scores of the test rows, one at a time; several sets for the random line, which is their mean."""
    nats = Calibration.fit(pair.valid.entropies).threshold(ratio)
    crm, llm, labels = (values.tolist() for values in (pair.test.crm, pair.test.llm, pair.test.labels))
    chosen = [
        -p * math.log(p) - (1 - p) * math.log1p(-p) >= nats and yes == yes for p, yes in zip(crm, llm, strict=True)
    ]
    if line == "random":
        rng, able = np.random.default_rng(0), np.flatnonzero(~np.isnan(pair.test.llm))
        picks = [set(rng.permutation(able)[: sum(chosen)].tolist()) for _ in range(RANDOM_DRAWS)]
        return [np.array([llm[i] if i in pick else crm[i] for i in range(len(crm))]) for pick in picks]
    if line == "oracle":
        loss = [[-math.log(p if y else 1 - p) for p, y in zip(scores, labels, strict=True)] for scores in (crm, llm)]
        able = [i for i in range(len(crm)) if llm[i] == llm[i]]
        pick = set(sorted(able, key=lambda i: loss[1][i] - loss[0][i])[: sum(chosen)])
        return [np.array([llm[i] if i in pick else crm[i] for i in range(len(crm))])]
    weights = [0.0, 0.5, 0.5] if line == "blend" else fusion(line, pair.valid, nats).weights
    final = []
    for p, yes, routed in zip(crm, llm, chosen, strict=True):
        odds = 0.0 if weights is None or not routed else weights[0] + weights[1] * logit(p) + weights[2] * logit(yes)
        final.append(p if not routed else yes if line == "replace" else 1 / (1 + math.exp(-odds)))
    return [np.array(final)]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("seed", SETTINGS.seeds)
def test_every_point_of_the_curve_row_by_row(studied: Studied, seed: int, line: str) -> None:
    pair = ScoredSplits(*(scored(studied, seed, split) for split in ("valid", "test")))
    assert np.isnan(pair.test.llm).any()
    curve = studied.result["by_seed"][str(seed)]["curve"]
    assert [point["ratio"] for point in curve] == list(RATIOS)
    for point in curve:
        found = [metrics(p, pair.test.labels) for p in by_hand(pair, line, point["ratio"])]
        for metric in ("auc", "logloss", "accuracy"):
            expected = np.mean([one[metric] for one in found])
            assert point["lines"][line][metric]["value"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", SETTINGS.seeds)
def test_share_0_is_the_crm_and_share_1_the_llm(studied: Studied, seed: int) -> None:
    test = scored(studied, seed, "test")
    first, *_, last = studied.result["by_seed"][str(seed)]["curve"]
    assert (first["share"], last["share"]) == (0.0, test.answered.mean())
    for point, p in ((first, test.crm), (last, np.where(np.isnan(test.llm), test.crm, test.llm))):
        for metric, value in metrics(p, test.labels).items():
            assert point["lines"]["replace"][metric]["value"] == pytest.approx(value, abs=1e-9)


def test_its_structure(studied: Studied) -> None:
    text = (studied.folder / "study.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == json.loads(json.dumps(studied.result))
    result = studied.result
    assert (result["what"], result["name"], result["seeds"]) == ("study", "tiny", [1, 2])
    assert list(result["by_seed"]) == list(result["analysis"]["seeds"]) == ["1", "2"]
    names = [name.replace("-", " ", 1).replace("stage-", "stage ") for name in VARIANTS]
    assert [row["name"] for row in result["ablation"]] == [*names, "without routing", "LLM alone", "stage-1 CRM"]
    assert list(result["analysis"]["boundary_by_variant"]) == names
    assert list(result["analysis"]["models_by_variant"]) == names
    assert [group["group"] for group in result["analysis"]["groups"]] == [1, 2, 3]
    assert set(result["analysis"]["users"]) <= {"all", "seen", "unseen", "unseen items"}
    combined = result["analysis"]["operating_point"]["auc"]
    seeds = [found["operating_point"]["auc"]["value"] for found in result["by_seed"].values()]
    assert combined["value"] == pytest.approx(np.mean(seeds))
    markdown = (studied.folder / "study.md").read_text("utf-8")
    for title, _ in tables.sections(result["analysis"], result["ablation"]):
        assert f"## {title}\n" in markdown
    assert "nan" not in markdown
    assert len(list(studied.folder.glob("*.svg"))) == 5


def test_without_matplotlib_there_are_no_plots(studied: Studied, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert plots.write(studied.result["analysis"], tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", SETTINGS.seeds)
def test_both_base_models_rank_the_catalogue(studied: Studied, seed: int) -> None:
    """Through the encoder that serves, they give each row's own item the score that the study kept of the row."""
    found = studied.result["by_seed"][str(seed)]["ranking"]["slices"]["all"]
    assert list(found["rankings"]) == ["crm", "base", "popular", "following"]
    test, split = scored(studied, seed, "test"), studied.data.split("test")
    liked = np.flatnonzero(split.labels > 0)
    assert found["rows"] == len(liked)
    full = Run(studied.variant(seed), replace(studied.recipe, seed=seed), studied.data)
    encoder = FeatureEncoder(*full.fit_inputs())
    for stage, kept_scores in ((None, test.crm), ("crm", test.base)):
        score = scorer(full.crm(stage), encoder, studied.data)
        for row in liked[::9].tolist():
            user = studied.data.request(int(split.users[row]), int(split.positions[row]), [], 50).user
            logits = score(user)
            assert logits.shape == (len(studied.data.item_ids),)
            assert 1 / (1 + np.exp(-logits[split.items[row]])) == pytest.approx(kept_scores[row], abs=1e-5)
    for model in ("crm", "base"):
        assert 0 < found["rankings"][model]["mrr"]["value"] <= 1
    again = Predictions(full, full).ranking(SETTINGS.ranking_rows)["slices"]["all"]
    assert again["rankings"] == found["rankings"]


def test_the_baseline_is_ranked_beside_it(studied: Studied) -> None:
    train, test = studied.data.split("train"), studied.data.split("test")
    overall = train.labels.mean()

    def rate(column: str, value: int) -> float:
        labels = train.labels[getattr(train, column) == value]
        return float((labels.sum() + 5 * overall) / (len(labels) + 5))

    pairs = zip(test.items.tolist(), test.users.tolist(), strict=True)
    scores = [logit(rate("items", item)) + logit(rate("users", user)) for item, user in pairs]
    found = studied.result["by_seed"]["1"]["baseline"]["all"]
    auc = roc_auc_score(test.labels, scores)
    assert found["auc"]["value"] == pytest.approx(auc, abs=1e-9)
    base = roc_auc_score(test.labels, scored(studied, 1, "test").base)
    assert found["base_over"]["auc"]["value"] == pytest.approx(base - auc, abs=1e-9)


def test_what_variants_and_seeds_share_is_trained_once(studied: Studied) -> None:
    counts = {name: studied.trained.count(name) for name in ("llm", "crm", "joint", "continuation")}
    assert counts == {"llm": 1, "crm": 2, "joint": 6, "continuation": 8}

    def weights(stage: str, seed: int, *names: str) -> set[bytes]:
        return {(studied.variant(seed, name) / stage / "best.safetensors").read_bytes() for name in names}

    assert len(weights("llm", 1, *VARIANTS) | weights("llm", 2, *VARIANTS)) == 1
    for seed in SETTINGS.seeds:
        assert len(weights("crm", seed, "full", "without-stage-2", "without-alignment", "without-stage-3")) == 1
        assert len(weights("joint", seed, "full", "without-stage-3")) == 1
        assert len(weights("joint", seed, "full", "without-stage-1", "without-alignment")) == 3
    assert weights("crm", 1, "full") != weights("crm", 2, "full")
    for split in ("valid", "test"):
        (once,) = studied.folder.glob(f"seed-1/*/predictions/{split}-base-*")
        assert once.parent == studied.variant(1) / "predictions"


@pytest.mark.slow  # it trains all of it once more; a second call is the quick one
def test_an_interrupted_study_goes_on_to_the_same_end(
    studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Counting(stop=6), Counting()
    monkeypatch.setattr(loop, "fit", first)
    with pytest.raises(KeyboardInterrupt):
        make(studied.data, studied.recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "study.json").exists()
    monkeypatch.setattr(loop, "fit", second)
    make(studied.data, studied.recipe, tmp_path / "out")
    assert first.stages + second.stages == studied.trained
    ours, theirs = ((folder / "study.json").read_bytes() for folder in (tmp_path / "out", studied.folder))
    assert ours == theirs


@pytest.mark.slow
def test_a_second_call_neither_trains_nor_scores(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fit", None)
    monkeypatch.setattr(train_llm, "predict", None)
    before = (studied.folder / "study.json").read_bytes()
    assert make(studied.data, studied.recipe, studied.folder) == studied.result
    assert (studied.folder / "study.json").read_bytes() == before


def test_other_weights_are_scored_anew(studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "full"
    shutil.copytree(studied.variant(1), folder)
    trained = Run(folder, replace(studied.recipe, seed=1), studied.data)
    before = kept(folder, "test", "llm")
    with monkeypatch.context() as patch:
        patch.setattr(train_llm, "predict", None)
        Predictions(trained, trained).pair()
    best = folder / "continuation" / "best.safetensors"
    tensors = checkpoint.load_tensors(best)
    checkpoint.save_tensors({name: 1.5 * tensor for name, tensor in tensors.items()}, best, 1)
    after = Predictions(trained, trained).pair().test
    assert (after.answered == ~np.isnan(before)).all()
    assert (np.abs(after.llm - before)[after.answered] > 1e-6).any()
    assert (after.crm == kept(studied.variant(1), "test", "crm")).all()


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (1, 2**32)])
def test_bad_seeds_are_one_clear_error(studied: Studied, tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^seeds: different whole numbers .*$"):
        study(studied.recipe, studied.data, tmp_path / "out", StudySettings(seeds), lambda message: None)
    assert not (tmp_path / "out").exists()


def test_errors_of_the_command(studied: Studied, tmp_path: Path) -> None:
    recipe = tmp_path / "no-warm-up.toml"
    recipe.write_text('name = "x"\n[crm]\nepochs = 0\n[joint]\nepochs = 1\n', "utf-8")
    arguments = ["study", recipe, "--data", studied.data.root, "--out", tmp_path / "out"]
    for more, words in (([], "crm.epochs must be above 0"), (["--seeds", "1,1"], "no list of different whole numbers"),
                        (["--seeds", "1,x"], "no list of different whole numbers")):  # fmt: skip
        done = run(*arguments, *more)
        assert done.code == 2
        assert words in done.err
        assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_what_is_kept_becomes_a_page(studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    keep_study, study_page = (importlib.import_module(name) for name in ("keep_study", "study_page"))
    (tmp_path / "published").mkdir()
    published = {"data": "synthetic", "what": "Printed", "notes": ["no intervals"],
                 "baseline": {"method": "no learning", "auc": 0.5, "uauc": 0.5, "source": "x"},
                 "rows": [{"method": "MF", "llm": "none", "auc": 0.6, "uauc": 0.61, "source": "a paper"}]}  # fmt: skip
    (tmp_path / "published" / "synthetic.json").write_text(json.dumps(published), "utf-8")
    out = tmp_path / "results" / "study-tiny.json"
    keep_study.keep(studied.folder, out, ["a note"])
    found = json.loads(out.read_text("utf-8"))
    assert {"commit", "machine", "versions", "recipe", "analysis", "ablation"} <= set(found)
    assert "by_seed" not in found
    assert list(found["analysis"]["seeds"]) == ["1", "2"]
    exact = studied.result["analysis"]["operating_point"]["auc"]["value"]
    assert found["analysis"]["operating_point"]["auc"]["value"] == pytest.approx(exact, abs=5.001e-6)
    text = study_page.page(tmp_path / "results", tmp_path / "published")
    for words in (
        "- a note\n", "synthetic data", "study-tiny-curve-auc.svg", "| MF | none | 0.6000 | 0.6100 | a paper |",
        "corella-edge study tiny --data data/synthetic --seeds 1,2 --draws 20", "### Ablation",
    ):  # fmt: skip
        assert words in text
    assert (tmp_path / "results" / "study-tiny-curve-auc.svg").exists()
    (tmp_path / "empty").mkdir()
    assert study_page.NONE in study_page.page(tmp_path / "empty", tmp_path)


def test_several_processes_are_refused_before_anything_is_written(
    studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "joined", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(InputError, match=r"a study is one process; .* --reuse"):
        make(studied.data, studied.recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_all_training_seeds_share_is_noted() -> None:
    off = {"epochs": 0}
    reads = {"text": {"files": ["a.txt"]}}
    for changes, title in (({}, "own training"), (reads, "own training"), ({**reads, **off}, "reading of plain text")):
        (note,) = shared_by_seeds(tiny_run.recipe(llm=changes))
        assert note.startswith(f"The LLM's {title} has one seed (1)")
    assert shared_by_seeds(tiny_run.recipe(llm=off)) == []


def test_two_regimes_are_held_side_by_side(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(str(REPOSITORY / folder))
    stages_page, alignment = (importlib.import_module(name) for name in ("stages_page", "alignment"))
    older = {name: part for name, part in studied.result["analysis"].items() if name != "models_by_variant"}
    first, second = stages_page.REGIMES
    both = [{**studied.result, "name": first, "analysis": older}, {**studied.result, "name": second}]
    run = alignment.one(Run.open(studied.variant(1), studied.data))
    text = "\n".join(stages_page.lines([*both, {"what": "alignment", "notes": ["a note"], "runs": [run]}]))
    rows = [line for line in text.splitlines() if line.startswith("| without stage 2 ")]
    assert [row.split(" | ")[2] == "n/a" for row in rows] == [True, False]
    assert "### What the alignment moves\n" in text
    assert "\n- a note\n" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8, 10}
    assert list(stages_page.lines(both[1:])) == []


def test_what_the_alignment_moves_is_measured(studied: Studied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    alignment = importlib.import_module("alignment")
    x = torch.randn(50, 6, generator=torch.manual_seed(1))
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert alignment.likeness(x, 3.0 * x @ turn + 1.0) == pytest.approx(1.0, abs=1e-5)
    assert alignment.likeness(x, torch.randn(50, 4)) < 0.5
    runs = (Run.open(studied.variant(1, name), studied.data) for name in ("full", "without-alignment"))
    aligned, free = map(alignment.one, runs)
    assert aligned["before"] == {**free["before"], **{k: aligned["before"][k] for k in ("pull_llm", "pull_crm")}}
    assert free["before"]["pull_llm"] == free["after"]["pull_crm"] == 0.0 < aligned["after"]["pull_llm"]
    assert aligned["after"]["gap"] < aligned["before"]["gap"]
    assert free["moved_llm"] > 0
    with pytest.raises(InputError, match=r"without-stage-2: its recipe, .* has no joint stage"):
        alignment.one(Run.open(studied.variant(1, "without-stage-2"), studied.data))
