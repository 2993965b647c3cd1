"""The benchmark of what a language model adds: which rows it asks about, and its figures of tiny models."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import language_worth as worth  # noqa: E402
from checkpoints import save_checkpoint  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge.routing.measure import entropy  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.data.table.description import Negatives, SplitPlan  # noqa: E402
from corella_edge_export.llm.sequences import TokenSequence  # noqa: E402
from corella_edge_export.recipe import recipe_from  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from encoders import make_encoder  # noqa: E402
from harness import worth_rows  # noqa: E402
from harness.worth_rows import ALL, NEW, THIRDS, asked  # noqa: E402
from tables import Event, prepared  # noqa: E402

TABLE: dict[str, Any] = {
    "name": "tiny-words",
    "crm": {"kind": "sequence", "oov_rate": 0.2, "epochs": 1, "evaluations": 1, "features": {"user_ids": False},
            "sequence": {"embedding_dim": 8, "heads": 1, "inner": 8, "head": "dot", "loss": "softmax"}},
    "llm": {"source": "checkpoint", "context": 200, "batch_tokens": 512, "rows": 60, "valid_rows": 20,
            "lora": {"layers": 1, "r": 2}},
    "prompt": {"item": "{title}:", "history_lines": 3, "block": 2, "rating": ""},
}  # fmt: skip


def bought(folder: Path, hidden: float | None) -> PreparedData:
    rng = np.random.default_rng(5)
    items = [f"thing{i}" for i in range(40)]
    events = [
        Event(f"u{user:02}", item, 1_500_000_000 + 1000 * place + user)
        for user in range(40)
        for place, item in enumerate(rng.choice(items, size=6, replace=False).tolist())
    ]
    plan = SplitPlan(rule="leave-one-out", hide_items=hidden)
    return prepared(folder, events, plan, Negatives(1), more_items=items)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return bought(tmp_path_factory.mktemp("prepared") / "bought", 0.3)


@pytest.fixture(autouse=True)
def _slices_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth_rows, "FEW", 4)


def test_each_like_has_a_dislike_that_is_as_new(data: PreparedData) -> None:
    rows = asked(data, "test", 15, 6, 1)
    split, of = data.split("test"), rows.split
    assert rows.key == asked(data, "test", 15, 6, 1).key != asked(data, "test", 15, 6, 2).key
    assert of.labels.tolist() == [1, 0] * (len(of.labels) // 2)
    assert rows.drawn.sum() <= 30
    assert rows.new[~rows.drawn].all()
    assert rows.new.any()
    assert not rows.new.all()
    trained = set(data.split("train").items.tolist())
    for place in range(0, len(of.labels), 2):
        origin, user = int(rows.origin[place]), int(of.users[place])
        liked, other = of.items[place : place + 2].tolist()
        first = int(data.log.offsets[user])
        assert (of.users[place + 1], rows.origin[place + 1]) == (user, origin)
        assert (liked, split.labels[origin]) == (split.items[origin], 1)
        assert liked != other
        assert other not in data.log.items[first : first + int(of.positions[place])]
        if rows.new[place]:
            assert not {liked, other} & trained
        else:
            assert other in split.items[(split.users == user) & (split.labels == 0)]


def test_data_without_new_items_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--hide-items"):
        asked(bought(tmp_path / "all", None), "test", 10, 5, 1)


def test_what_knows_the_answers_gains_and_what_knows_nothing_does_not(data: PreparedData) -> None:
    rows = {name: asked(data, name, 40, 40, 1) for name in ("valid", "test")}
    rng = np.random.default_rng(2)
    crm = {name: rng.uniform(0.3, 0.7, len(of.origin)) for name, of in rows.items()}
    knows = {name: np.where(of.split.labels == 1, 0.8, 0.2) for name, of in rows.items()}
    nothing = {name: np.full(len(of.origin), 0.5) for name, of in rows.items()}
    found = worth.judged(crm, knows, rows)
    assert found["alone"][NEW]["auc"]["value"] == 1.0
    assert found["routed 100%"][ALL]["auc"]["value"] == 1.0
    gains = [found[f"routed {share}"][ALL]["gain"]["value"] for share in ("5%", "20%", "50%", "100%")]
    assert gains == sorted(gains)
    without = worth.judged(crm, nothing, rows)
    assert abs(without["routed 50%"][ALL]["gain"]["value"]) < 0.2
    assert without["alone"][ALL]["auc"]["value"] == 0.5


def test_new_items_gain_by_weights_of_their_own(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth, "ENOUGH", 10)
    rows = {name: asked(data, name, 40, 40, 1) for name in ("valid", "test")}
    rng = np.random.default_rng(2)
    crm = {name: rng.uniform(0.3, 0.7, len(of.origin)) for name, of in rows.items()}
    of_new = {name: np.where(of.new, np.where(of.split.labels == 1, 0.8, 0.2), 0.9) for name, of in rows.items()}
    found = worth.judged(crm, of_new, rows)["routed 100%"]
    assert found["weights by newness"][NEW]["low"] > 0.1
    assert found["weights by newness"][ALL]["value"] >= found[ALL]["gain"]["value"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """People who said what they like and what not, some of them after the training's end."""
    rng = np.random.default_rng(6)
    items = [f"thing{i}" for i in range(60)]
    events = [
        Event(f"u{user:02}", item, 1_500_000_000 + 1000 * place + 400 * user, int(rng.integers(2)))
        for user in range(40)
        for place, item in enumerate(rng.choice(items, size=12, replace=False).tolist())
    ]
    plan = SplitPlan(rule="time", shares=(0.6, 0.2, 0.2), hide_items=0.2)
    return prepared(tmp_path_factory.mktemp("prepared") / "labelled", events, plan)


def test_labelled_rows_are_neighbouring_rows_of_drawn_users(labelled: PreparedData) -> None:
    rows = asked(labelled, "test", 8, 5, 1, most=3)
    split, of, train = labelled.split("test"), rows.split, labelled.split("train")
    assert rows.key == asked(labelled, "test", 8, 5, 1, most=3).key != asked(labelled, "test", 8, 5, 2, most=3).key
    assert len(np.unique(rows.origin)) == len(rows.origin)
    for name in ("users", "items", "labels", "positions"):
        assert (getattr(of, name) == getattr(split, name)[rows.origin]).all()
    assert (rows.new == ~np.isin(of.items, train.items)).all()
    assert (rows.seen == np.isin(of.users, train.users)).all()
    assert len(np.unique(of.users[rows.drawn])) == 8
    for user in np.unique(of.users[rows.drawn]).tolist():
        own = split.positions[split.users == user]
        taken = of.positions[rows.drawn & (of.users == user)]
        (window,) = np.unique((taken - 1) // 3)
        assert sorted(taken.tolist()) == sorted(own[(own - 1) // 3 == window].tolist())
    assert rows.new[~rows.drawn].all()
    assert 0 < (~rows.drawn).sum() <= 5


def test_all_rows_of_all_users_are_the_split(labelled: PreparedData) -> None:
    rows = asked(labelled, "test", 0, 0, 1, most=0)
    assert sorted(rows.origin.tolist()) == list(range(len(labelled.split("test").users)))
    assert rows.drawn.all()


def test_slices_have_both_labels_and_are_not_everything(labelled: PreparedData) -> None:
    rows = asked(labelled, "test", 0, 0, 1, most=0)
    crm = np.random.default_rng(3).uniform(0.02, 0.98, len(rows.origin))
    parts = rows.with_thirds(crm).parts
    assert next(iter(parts)) == ALL
    assert {NEW, "known items", "new users", "known users", *THIRDS} == set(parts) - {ALL}
    for name in set(parts) - {ALL}:
        assert set(rows.split.labels[parts[name]].tolist()) == {0, 1}
        assert 0 < parts[name].sum() < len(rows.origin)
    assert (np.stack([parts[name] for name in THIRDS]).sum(axis=0) == 1).all()
    surest, middle, least = (entropy(crm[parts[name]]) for name in THIRDS)
    assert surest.max() <= middle.min() <= middle.max() <= least.min()


def test_a_part_of_all_rows_is_no_slice(labelled: PreparedData) -> None:
    rows = asked(labelled, "test", 0, 0, 1, most=0)
    whole = replace(rows, new=np.zeros_like(rows.new), seen=np.ones_like(rows.seen))
    assert list(whole.parts) == [ALL]


def test_a_slice_of_few_rows_is_not_told(labelled: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth_rows, "FEW", 10_000)
    assert list(asked(labelled, "test", 0, 0, 1, most=0).parts) == [ALL]


def test_what_knows_the_labels_gains_in_every_slice(labelled: PreparedData) -> None:
    rows = {name: asked(labelled, name, 0, 0, 1, most=0) for name in ("valid", "test")}
    rng = np.random.default_rng(4)
    crm = {name: rng.uniform(0.3, 0.7, len(of.origin)) for name, of in rows.items()}
    rows = {name: of.with_thirds(crm[name]) for name, of in rows.items()}
    knows = {name: np.where(of.split.labels == 1, 0.8, 0.2) for name, of in rows.items()}
    found = worth.judged(crm, knows, rows)
    assert "weights by newness" not in found["routed 100%"]  # too few new items to fit weights on
    for part in rows["test"].parts:
        assert found["routed 100%"][part]["auc"]["value"] == 1.0
    half = found["routed 50%"]
    assert half["oracle"][ALL]["value"] >= half["at random"][ALL]["value"]
    assert half["oracle"][ALL]["value"] >= half[ALL]["gain"]["value"]


def test_an_llm_that_knows_the_labels_is_ahead_of_one_that_guesses(labelled: PreparedData) -> None:
    rows = asked(labelled, "test", 0, 0, 1, most=0)
    knows, guesses = np.where(rows.split.labels == 1, 0.8, 0.2), np.random.default_rng(5).uniform(size=len(rows.origin))
    knows[:3] = np.nan
    found = worth.over(knows, guesses, rows)
    assert found["auc"]["low"] > 0.2
    assert worth.over(guesses, knows, rows)["auc"]["value"] == -found["auc"]["value"]


def test_a_prompts_tokens_are_its_history_and_its_question() -> None:
    straight = TokenSequence(np.zeros(10, np.int32), np.array([3, 9], np.int32), np.array([0, 1], np.int8),
                             np.arange(2))  # fmt: skip
    assert worth.prompt_tokens(straight) == 4 + 10
    branching = TokenSequence(np.zeros(10, np.int32), np.array([7, 9], np.int32), np.array([0, 1], np.int8),
                              np.arange(2), ((5, 3), (8, 5)))  # fmt: skip
    assert worth.prompt_tokens(branching) == (3 + 3) + (5 + 2)


@pytest.mark.slow
def test_a_checkpoint_and_a_run_are_asked_once(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(tmp_path / "small")
    table = {**TABLE, "llm": {**TABLE["llm"], "path": str(checkpoint)}}
    table["crm"] = {**TABLE["crm"], "text": {"source": "encoder", "path": str(make_encoder(tmp_path / "encoder"))}}
    stages.train(tmp_path / "run", recipe_from(table, "tiny"), data, quiet=True)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(table))
    command = ["language_worth.py", str(data.root), str(tmp_path / "run"), "--plain", f"plain={recipe}",
               "--llm", f"lora={tmp_path / 'run'}", "--users", "20", "--new", "10", "--valid", "1",
               "--keep", str(tmp_path / "kept"), "--out", str(tmp_path / "found.json")]  # fmt: skip
    results = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            worth.main()
        assert left.value.code == 0
        results.append(json.loads((tmp_path / "found.json").read_text()))
        monkeypatch.setattr(worth, "predict", None)  # everything is kept
    capsys.readouterr()
    assert results[0]["models"] == results[1]["models"]
    assert [model["name"] for model in results[0]["models"]] == ["plain", "lora"]
    assert results[0]["models"][1]["trained"]["tokens"] > 0
    assert results[0]["scoring"]["lora, test"]["tokens"] > 0
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    (tmp_path / "found.json").rename(tmp_path / "language-worth-tiny.json")
    page_module = importlib.import_module("language_page")
    page, first = ("\n".join(lines(tmp_path)) for lines in (page_module.lines, page_module.pays))
    parts = len(results[0]["rows"]["test"])
    assert page.count("| lora |") == 1 + len(worth.SHARES) + (parts - 1)
    told = [part for part in page_module.ASKED if part in results[0]["rows"]["test"]]
    assert first.count("| lora |") == len(told) * len(page_module.PAYS) > len(page_module.PAYS)
    assert "base model `tiny-words`" in page


def toml(table: dict[str, Any], prefix: str = "") -> str:
    """A nested table as TOML: plain keys first."""
    plain = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict))
    parts = [f"[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}" for key, value in table.items()
             if isinstance(value, dict)]  # fmt: skip
    return plain + "".join(parts)
