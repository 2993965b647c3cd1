"""What an unfinished run or study goes on with: all that decides its weights, whatever else has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from corella_edge.cli import main  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.crm.recipe import flat  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.recipe import Recipe, table_of  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.checkpoint import finished  # noqa: E402
from corella_edge_export.training.run import Run, deciding, hold, settled  # noqa: E402
from corella_edge_export.training.tasks.joint import JointTask  # noqa: E402
from tiny_run import english, recipe  # noqa: E402

STAGES = ("text", "crm", "joint")


def reading(file: Path, **export: Any) -> Recipe:
    """A recipe of three stages whose LLM begins with a text."""
    text = {"files": [str(file)], "block": 32, "batch_tokens": 512, "evaluations": 1}
    joint = {"batch_tokens": 512, "evaluations": 3}
    return recipe(llm={"epochs": 0, "text": text}, joint=joint, continuation={"epochs": 0}, export=export)


def interrupt(folder: Path, chosen: Recipe, data: PreparedData) -> None:
    """The power fails within stage 2, after its first checkpoint."""
    place = folder / "joint" / "checkpoint.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointTask, "losses", _failing(JointTask.losses, place))
        with pytest.raises(RuntimeError, match="power"):
            stages.train(folder, chosen, data, quiet=True)
    assert place.exists()
    assert not finished(folder / "joint")


def _failing(losses: Callable[..., Any], place: Path) -> Callable[..., Any]:
    def broken(*args: Any) -> Any:
        if place.exists():
            raise RuntimeError("the power is gone")
        return losses(*args)

    return broken


def best(folder: Path) -> list[bytes]:
    return [(folder / stage / "best.safetensors").read_bytes() for stage in STAGES]


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_another_export_to_the_same_weights(data: PreparedData, tmp_path: Path) -> None:
    text = english(tmp_path / "a.txt")
    before, after = reading(text), reading(text, fusion="blend", threshold="ratio:0.3", sample_rows=7)
    stages.train(tmp_path / "whole", before, data, quiet=True)
    interrupt(tmp_path / "run", before, data)
    stages.train(tmp_path / "run", after, data, quiet=True)
    assert best(tmp_path / "run") == best(tmp_path / "whole")
    bundle = export(Run.open(tmp_path / "run", data), tmp_path / "bundle", ExportOptions(("F16",), threads=1))
    routing = json.loads((bundle.root / "routing.json").read_text())
    assert (routing["fusion"]["rule"], bundle.routing().threshold) == ("blend", "ratio:0.3")
    assert len((bundle.root / "sample.jsonl").read_text().splitlines()) == 7
    stages.train(tmp_path / "run", before, data, quiet=True)  # a finished one too
    assert Run.open(tmp_path / "run", data).recipe.export == before.export


def test_a_run_does_not_go_on_with_another_text(data: PreparedData, tmp_path: Path) -> None:
    chosen = reading(english(tmp_path / "a.txt"))
    interrupt(tmp_path / "run", chosen, data)
    kept = best(tmp_path / "run")[:2]
    english(tmp_path / "a.txt", 401)
    with pytest.raises(InputError, match="was begun with another texts"):
        stages.train(tmp_path / "run", chosen, data, quiet=True)
    english(tmp_path / "a.txt")
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    assert best(tmp_path / "run")[:2] == kept


def test_a_run_that_was_begun_before_texts_were_kept_goes_on(data: PreparedData, tmp_path: Path) -> None:
    chosen, label = reading(english(tmp_path / "a.txt")), tmp_path / "run" / "run.json"
    with hold(tmp_path / "run", chosen, data):
        about = json.loads(label.read_text())
    older = {name: value for name, value in about.items() if name != "texts"}
    label.write_text(json.dumps(older))
    with hold(tmp_path / "run", replace(chosen, export=replace(chosen.export, fusion="stack")), data):
        now = json.loads(label.read_text())
    assert now["texts"] == about["texts"]
    assert now["recipe"] == {**about["recipe"], "export": {**about["recipe"]["export"], "fusion": "stack"}}


@pytest.mark.parametrize("changes", [{"top": {"seed": 2}}, {"crm": {"history": 4}}, {"prompt": {"block": 3}}])
def test_whatever_decides_weights_is_another_recipe(
    data: PreparedData, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with hold(tmp_path / "run", recipe(), data):
        pass
    with (
        pytest.raises(InputError, match="was begun with another recipe"),
        hold(tmp_path / "run", recipe(**changes), data),
    ):
        pass


def test_only_the_recipes_own_section_is_its_export() -> None:
    prompt = {"profile": {"export": "Sells {}", "path": "Walks {}"}}
    about = {
        "recipe": {"export": {"fusion": "stack"}, "llm": {"path": "a", "hidden": 3}, "prompt": prompt,
                   "crm": {"epochs": 2, "features": {"window": 9}}},
        "data": "x",
    }  # fmt: skip
    crm = {"epochs": 2, "window": 9}
    assert settled(about) == {"recipe": {"llm": {"hidden": 3}, "prompt": prompt, "crm": crm}, "data": "x"}


def before_sections(folder: Path) -> None:
    """The run's file as it was when [crm] was flat and DCNv2 the one family."""
    label = folder / "run.json"
    about = json.loads(label.read_text())
    about["recipe"]["crm"] = flat(about["recipe"]["crm"])
    assert "dcnv2" not in about["recipe"]["crm"]
    assert about["recipe"]["crm"]["cross_layers"] == 2
    label.write_text(json.dumps(about))


def test_a_run_that_was_begun_before_the_crm_had_sections_goes_on_and_exports(
    data: PreparedData, tmp_path: Path
) -> None:
    chosen = recipe(joint={"epochs": 0}, continuation={"epochs": 0})
    stages.train(tmp_path / "whole", chosen, data, quiet=True)
    with hold(tmp_path / "run", chosen, data):
        pass
    before_sections(tmp_path / "run")
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    kept = [[(tmp_path / run / stage / "best.safetensors").read_bytes() for stage in ("crm", "llm")]
            for run in ("run", "whole")]  # fmt: skip
    assert kept[0] == kept[1]
    before_sections(tmp_path / "run")
    run = Run.open(tmp_path / "run", data)
    assert table_of(run.recipe) == table_of(chosen)
    export(run, tmp_path / "bundle", ExportOptions(("F16",), threads=1))


@pytest.mark.parametrize("command", ["train", "study"])
@pytest.mark.parametrize(
    ("name", "content", "part"),
    [("absent.parquet", None, "is no file (seen from "), ("a.csv", b"x", "is none of .txt, .jsonl, .parquet"),
     ("a.jsonl", b'{"title": "x"}\n', "line 1: expected an object with a `text`"),
     ("a.parquet", b"PAR1", "cannot be read as Parquet")],
)  # fmt: skip
def test_a_text_that_can_not_be_read_is_told_before_anything_is_written(
    data: PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    content: bytes | None,
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    Path("mine.toml").write_text(f'base = "demo"\nname = "mine"\n[llm.text]\nfiles = ["{name}"]\n')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main([command, "mine.toml", "--data", str(data.root), "--out", "out"])
    assert left.value.code == 2
    *expected, told = capsys.readouterr().err.splitlines()
    assert all("on this CPU, if it does nothing else" in line for line in expected)
    assert told.startswith(f"corella-edge: recipe mine, llm.text.files: {name}")
    assert part in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_from_before_a_key_of_its_text_vectors_goes_on() -> None:
    """Runs that read words keep that section whole, so each later key of it must be known as one."""
    first = {"source", "path", "attributes", "tokens", "width", "tuned", "said"}
    now = table_of(recipe(crm={"kind": "sequence", "sequence": {}, "text": {"source": "encoder", "path": "words"}}))
    assert set(deciding(now)["crm"]["text"]) == first
