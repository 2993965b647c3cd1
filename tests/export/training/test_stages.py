"""The stages of a run: which there are, what their keys tell apart, what is taken over, and every ablation exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.bundle import artefact  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.llm.tokenizer import speller  # noqa: E402
from corella_edge_export.recipe import Recipe, load_recipe  # noqa: E402
from corella_edge_export.training import (  # noqa: E402
    checkpoint,
    checks,
    stages,
)
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.stage import enabled  # noqa: E402
from corella_edge_export.training.stages import Stages, keys  # noqa: E402
from quick import others_slow  # noqa: E402
from tiny_run import english, recipe  # noqa: E402

ALL = ["text", "crm", "llm", "joint", "continuation"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(english(tmp_path_factory.mktemp("text") / "english.txt"))


def with_text(text: str, **changes: Any) -> Recipe:
    settings = {"files": [text], "block": 32, "batch_tokens": 512, "evaluations": 1}
    return recipe(**{**changes, "llm": {"text": settings, **changes.get("llm", {})}})


@pytest.fixture(scope="module")
def whole(data: PreparedData, text: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    stages.train(folder, with_text(text), data, quiet=True)
    return Run.open(folder, data)


def weights(run: Run, stage: str) -> bytes:
    return (run.folder / stage / "best.safetensors").read_bytes()


def exported(run: Run, out: Path) -> Any:
    return export(run, out, ExportOptions(("F16",), threads=1))


OFF = {"epochs": 0}


def names(chosen: Recipe) -> list[str]:
    return [stage.name for stage in enabled(chosen)]


def test_the_stages_of_a_recipe(text: str) -> None:
    assert names(with_text(text)) == ALL
    assert names(recipe()) == ALL[1:]
    assert names(with_text(text, llm={"text": {"files": [text], "epochs": 0}})) == ALL[1:]
    assert names(recipe(crm=OFF)) == ["llm", "joint", "continuation"]
    assert names(recipe(llm=OFF)) == ["crm", "joint", "continuation"]
    assert names(recipe(joint=OFF)) == ["crm", "llm", "continuation"]
    assert names(recipe(joint=OFF, continuation=OFF)) == ["crm", "llm"]
    assert names(recipe(crm=OFF, llm=OFF, continuation=OFF)) == ["joint"]


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({}, set()),
        ({"export": {"sample_rows": 7}}, set()),
        ({"top": {"name": "renamed"}}, set()),
        ({"joint": {"exponent": 1.0}}, {"joint", "continuation"}),
        ({"joint": {"rows": 100}}, {"joint", "continuation"}),
        ({"continuation": {"rows": 100}}, {"continuation"}),
        ({"crm": {"dropout": 0.5}}, {"crm", "joint", "continuation"}),
        ({"llm": {"learning_rate": 0.1}}, {"text", "llm", "joint", "continuation"}),
        ({"top": {"seed": 2}}, {"crm", "joint", "continuation"}),
        ({"prompt": {"block": 3}}, set(ALL)),
    ],
)
def test_a_key_changes_with_what_decides_the_weights(
    data: PreparedData, text: str, changes: dict[str, Any], other: set[str]
) -> None:
    before, after = keys(with_text(text), data), keys(with_text(text, **changes), data)
    assert before.keys() == after.keys() == set(ALL)
    assert {name for name in ALL if before[name] != after[name]} == other


def test_keys_know_the_stages_before_and_the_text(data: PreparedData, tmp_path: Path) -> None:
    file = str(english(tmp_path / "a.txt"))
    before = keys(with_text(file), data)
    without = keys(with_text(file, joint=OFF), data)
    assert {name for name in without if without[name] != before[name]} == {"continuation"}
    english(tmp_path / "a.txt", 401)
    after = keys(with_text(file), data)
    assert {name for name in ALL if after[name] == before[name]} == {"crm"}
    assert after["crm"] == keys(recipe(), data)["crm"]
    assert after["text"] != before["text"]
    with pytest.raises(InputError, match="is no file"):
        keys(with_text(str(tmp_path / "absent.txt")), data)


def test_a_run_of_all_stages_exports(whole: Run, tmp_path: Path) -> None:
    for name in ALL:
        assert checkpoint.finished(whole.folder / name)
        assert checkpoint.load(whole.folder / name) == ({}, checkpoint.load(whole.folder / name)[1])  # type: ignore[index]
    bundle = exported(whole, tmp_path / "bundle")
    assert bundle.manifest.about["recipe"]["joint"]["rows"] == 120
    # The CRM is the joint stage's, the LLM the continuation's.
    crm = checkpoint.load_tensors(whole.folder / "joint" / "best.safetensors")
    assert torch.equal(whole.crm().state_dict()["head.weight"], crm["crm.head.weight"])
    llm = checkpoint.load_tensors(whole.folder / "continuation" / "best.safetensors")
    assert torch.equal(whole.llm().model.norm.weight, llm["model.norm.weight"])


def test_an_export_seals_and_opens_its_bundle_once(whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of gigabytes are hashed in both."""
    seal, problems, done = artefact.seal, artefact.Bundle.problems, []
    monkeypatch.setattr(artefact, "seal", lambda *args: (done.append("seal"), seal(*args))[1])
    monkeypatch.setattr(artefact.Bundle, "problems", lambda bundle: (done.append("open"), problems(bundle))[1])
    bundle = exported(whole, tmp_path / "bundle")
    assert done == ["seal", "open"]
    assert bundle == artefact.Bundle.open(tmp_path / "bundle")


def test_only_equal_stages_are_taken_over(
    data: PreparedData, whole: Run, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit = stages.loop.fit

    def watched(task: Any, *args: Any) -> Any:
        trained.append(task.name)
        return fit(task, *args)

    monkeypatch.setattr(stages.loop, "fit", watched)
    other = with_text(text, joint={"align_weight": 0.0})
    stages.train(tmp_path / "run", other, data, quiet=True, reuse=(tmp_path / "absent", whole.folder))
    assert trained == ["joint", "continuation"]
    run = Run.open(tmp_path / "run", data)
    assert all(weights(run, name) == weights(whole, name) for name in ("text", "crm", "llm"))
    assert weights(run, "joint") != weights(whole, "joint")
    trained.clear()
    stages.train(tmp_path / "again", with_text(text), data, quiet=True, reuse=(tmp_path / "run", whole.folder))
    assert trained == []
    assert all(weights(Run.open(tmp_path / "again", data), name) == weights(whole, name) for name in ALL)


def test_an_unfinished_stage_is_not_taken_over(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the power is gone")

    chosen = recipe(llm=OFF, continuation=OFF)
    with monkeypatch.context() as patch:
        patch.setattr(stages.loop, "fit", broken)
        with pytest.raises(RuntimeError):
            stages.train(tmp_path / "first", chosen, data, quiet=True)
    summary = stages.train(tmp_path / "second", chosen, data, quiet=True, reuse=(tmp_path / "first",))
    assert list(summary) == ["crm", "joint"]


def test_the_llm_does_not_know_the_recipes_seed(data: PreparedData, whole: Run, text: str, tmp_path: Path) -> None:
    other = with_text(text, top={"seed": 2}, joint=OFF, continuation=OFF)
    stages.train(tmp_path / "run", other, data, quiet=True)
    run = Run.open(tmp_path / "run", data)
    assert weights(run, "llm") == weights(whole, "llm")
    assert weights(run, "crm") != weights(whole, "crm")


LEFT_OUT = [("joint",), ("llm", "crm", "continuation"), ("crm",), ("continuation",)]


@pytest.mark.parametrize("off", others_slow(LEFT_OUT, LEFT_OUT[:2]))
def test_every_ablation_trains_and_exports(
    data: PreparedData, whole: Run, tmp_path: Path, off: tuple[str, ...]
) -> None:
    chosen = recipe(**dict.fromkeys(off, OFF))
    summary = stages.train(tmp_path / "run", chosen, data, quiet=True, reuse=(whole.folder,))
    assert list(summary) == [name for name in ALL[1:] if name not in off]
    run = Run.open(tmp_path / "run", data)
    bundle = exported(run, tmp_path / "bundle")
    assert (bundle.root / "llm.gguf").is_file()


@pytest.mark.parametrize("joint", [{}, OFF])
def test_what_plain_text_taught_goes_into_the_stages_without_the_llms_own(
    data: PreparedData, text: str, tmp_path: Path, joint: dict[str, int]
) -> None:
    """The first words of a text with a token of its own are their mean there."""
    chosen = with_text(text, llm=OFF, joint=joint)
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    run = Run.open(tmp_path / "run", data)
    made = Stages(run, quiet=True)
    begins = made.task("joint" if not joint else "continuation")[0]
    learnt, found = run.best("text"), begins.reader.model.state_dict()
    assert torch.equal(found["model.norm.weight"], learnt["model.norm.weight"])
    words, whole = found["model.embed_tokens.weight"], run.tokenizer().get_added_vocab()
    first = min(whole.values(), default=0)
    assert torch.equal(words[3:first], learnt["model.embed_tokens.weight"][3:first])
    item, index = next((item, index) for item, index in whole.items() if item.startswith("["))
    torch.testing.assert_close(words[index], words[speller(run.tokenizer())(item)].mean(dim=0))


def test_keys_know_the_plain_text_of_an_llm_without_a_stage_of_its_own(data: PreparedData, text: str) -> None:
    before = keys(with_text(text, llm=OFF), data)
    after = keys(with_text(text, llm={**OFF, "text": {"files": [text], "block": 16}}), data)
    assert {name for name in before if after[name] != before[name]} == {"text", "joint", "continuation"}


def rows_of(task: Any, epoch: int) -> list[int]:
    task.batches(epoch)
    return [int(row) for sequence in task._batches._sequences for row in sequence.rows]


@pytest.mark.parametrize("joint", [True, False])
def test_the_continuation_reads_other_rows_than_the_joint_stage(
    data: PreparedData, whole: Run, text: str, joint: bool
) -> None:
    chosen = with_text(text, **({} if joint else {"joint": OFF}))
    made = Stages(Run(whole.folder, chosen, data), quiet=True)
    first = {epoch: rows_of(Stages(whole).task("joint")[0], epoch) for epoch in (0, 1)}
    second = {epoch: rows_of(made.task("continuation")[0], epoch) for epoch in (0, 1)}
    for found in (first, second):
        assert sorted(found[0]) == sorted(found[1])
        assert len(set(found[0])) == len(found[0])
        assert 120 - 5 <= len(found[0]) <= 120 + 5
    assert not set(first[0]) & set(second[0])


def test_no_row_is_read_twice_at_the_end_of_the_data(data: PreparedData, whole: Run, text: str) -> None:
    count = len(data.split("train").users)
    chosen = with_text(text, joint={"rows": 100}, continuation={"rows": 0})
    made = Stages(Run(whole.folder, chosen, data), quiet=True)
    both = rows_of(made.task("joint")[0], 0) + rows_of(made.task("continuation")[0], 0)
    assert sorted(both) == np.arange(count).tolist()


def test_more_rows_than_there_are_is_one_error_before_any_work(data: PreparedData, tmp_path: Path) -> None:
    count = len(data.split("train").users)
    for rows in (count - 119, count, 10**9):
        with pytest.raises(InputError, match=rf"tiny: joint\.rows and continuation\.rows .* {count} training rows"):
            stages.train(tmp_path / "run", recipe(continuation={"rows": rows}), data, quiet=True)
    assert not (tmp_path / "run").exists()
    checks.check_rows(recipe(continuation={"rows": count - 120}), data)
    checks.check_rows(replace(recipe(joint={"rows": 10**9}), continuation=recipe(continuation=OFF).continuation), data)


def test_a_block_that_there_is_not_is_one_error_before_any_work(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipe tiny, joint, pairs: there is no block 3, the LLM has 2"):
        stages.train(tmp_path / "run", recipe(joint={"pairs": [[1, 1], [3, 2]]}), data, quiet=True)
    assert not (tmp_path / "run").exists()
    checks.check_pairs(recipe(joint={"pairs": [[1, 1], [2, 2]]}))
    checks.check_pairs(recipe(joint={"pairs": [[3, 2]], "epochs": 0}))


# Of releases before: what a run has trained is still taken over.
KEYS = {
    "demo": ("6f4e774b4572b60a", "83bfe683aaf6fda7", "6795cceae55fcf2b", "a5671e59c2aadd6a"),
    "ml-1m-small": ("f4f0bc31a4d98994", "efc2462f913815cf", "5c6b6a9d08fe5826", "3515848b16b03bf5"),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_keys_of_shipped_recipes_stay(name: str, data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "fingerprint", lambda data: "data")
    assert tuple(key[:16] for key in keys(load_recipe(name), data).values()) == KEYS[name]
