"""The benchmark of what a language model adds: which rows it asks about, and its figures of tiny models."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import language_worth as worth  # noqa: E402
from checkpoints import save_checkpoint  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.data.table.description import Negatives, SplitPlan  # noqa: E402
from corella_edge_export.recipe import recipe_from  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from encoders import make_encoder  # noqa: E402
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


def test_each_like_has_a_dislike_that_is_as_new(data: PreparedData) -> None:
    rows = worth.asked(data, "test", 15, 6, 1)
    split, of = data.split("test"), rows.split
    assert rows.key == worth.asked(data, "test", 15, 6, 1).key != worth.asked(data, "test", 15, 6, 2).key
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
        worth.asked(bought(tmp_path / "all", None), "test", 10, 5, 1)


def test_what_knows_the_answers_gains_and_what_knows_nothing_does_not(data: PreparedData) -> None:
    rows = {name: worth.asked(data, name, 40, 40, 1) for name in ("valid", "test")}
    rng = np.random.default_rng(2)
    crm = {name: rng.uniform(0.3, 0.7, len(of.origin)) for name, of in rows.items()}
    knows = {name: 0.2 + 0.6 * of.split.labels for name, of in rows.items()}
    nothing = {name: np.full(len(of.origin), 0.5) for name, of in rows.items()}
    found = worth.judged(crm, knows, rows)
    assert found["alone"][worth.NEW]["auc"]["value"] == 1.0
    assert found["routed 100%"][worth.ALL]["auc"]["value"] == 1.0
    assert found["asked about new items"][worth.NEW]["gain"]["low"] > 0.1
    gains = [found[f"routed {share}"][worth.ALL]["gain"]["value"] for share in ("5%", "20%", "50%", "100%")]
    assert gains == sorted(gains)
    without = worth.judged(crm, nothing, rows)
    assert abs(without["routed 50%"][worth.ALL]["gain"]["value"]) < 0.2
    assert without["alone"][worth.ALL]["auc"]["value"] == 0.5


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
    page = "\n".join(importlib.import_module("language_page").lines(tmp_path))
    assert page.count("| lora |") == 1 + len(worth.SHARES) + 1
    assert "base model `tiny-words`" in page


def toml(table: dict[str, Any], prefix: str = "") -> str:
    """A nested table as TOML: plain keys first."""
    plain = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict))
    parts = [f"[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}" for key, value in table.items()
             if isinstance(value, dict)]  # fmt: skip
    return plain + "".join(parts)
