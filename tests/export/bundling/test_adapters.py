"""Adapters beside a shared LLM, from two trained runs to a bundle that answers by either, or by both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoints import save_checkpoint
from corella_edge.bundle.artefact import Bundle
from corella_edge.cli import cli, main
from corella_edge.errors import ExportError, InputError
from corella_edge.request_message import parse_request
from corella_edge_export.bundling import adapters
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.codes import with_codes
from corella_edge_export.llm.recipe import CodesRecipe
from corella_edge_export.recipe import load_recipe
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.reference import compare

RECIPE = """
name = "own"
seed = {seed}
[crm]
batch_size = 64
epochs = 1
evaluations = 1
[crm.features]
history = 5
window = 16
[crm.dcnv2]
embedding_dim = 4
cross_layers = 1
hidden = [8]
[llm]
source = "checkpoint"
path = "{path}"
context = 200
batch_tokens = 1024
valid_rows = 40
evaluations = 1
learning_rate = 3e-2
[llm.lora]
layers = {layers}
r = 2
targets = ["q_proj", "k_proj", "v_proj", "down_proj"]
[prompt]
item = "{{title}}:"
history_lines = 3
block = 2
[export]
calibration_rows = 30
sample_rows = 40
reference_rows = 8
"""


def trained(folder: Path, name: str, data: PreparedData, seed: int, layers: int) -> Run:
    file = folder / f"{name}.toml"
    file.write_text(RECIPE.format(path=folder / "checkpoint", seed=seed, layers=layers))
    stages.train(folder / name, load_recipe(str(file)), data, quiet=True)
    return Run.open(folder / name, data)


@pytest.fixture(scope="module")
def runs(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs with one checkpoint, the second with adapters on the upper block alone."""
    folder = tmp_path_factory.mktemp("runs")
    save_checkpoint(folder / "checkpoint")
    return trained(folder, "first", data, 1, 0), trained(folder, "second", data, 2, 1)


@pytest.fixture(scope="module")
def bundle(runs: tuple[Run, Run]) -> Path:
    out = runs[0].folder.parent / "bundle"
    options = ExportOptions(("F16", "Q8_0"), threads=1, separate=True, added={"other": runs[1]})
    export(runs[0], out, options)
    return out


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Any:
    with Engine.open(bundle, threshold="ratio:1", llm_threads=1, require_llm=True, tuned=False) as opened:
        yield opened


def reference(bundle: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bundle / "reference.jsonl").read_text().splitlines()]


def asked(engine: Engine, bundle: Path, **more: Any) -> np.ndarray:
    rows = [engine.rank(parse_request({**line["request"], **more}), refuses=False) for line in reference(bundle)]
    return np.array([row.llm[0] for row in rows])


def test_the_bundle_lists_its_adapters_in_a_format_of_their_own(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert json.loads((bundle / "manifest.json").read_text())["format_version"] == 2
    assert opened.adapters().names == ("other", "own")
    assert opened.adapters().default == (("own", 1.0),)
    assert {"adapters.json", "adapters/own.gguf", "adapters/other.gguf"} <= opened.manifest.files.keys()
    assert opened.manifest.about["adapters"]["other"]["recipe"] == "own"


def test_each_adapter_is_checked_against_torch_as_a_merged_model_is(bundle: Path) -> None:
    found = Bundle.open(bundle).json("verification.json")["adapters"]
    for name, rows in (("own", 40), ("other", 8)):
        assert found[name]["rows"] == rows
        assert found[name]["f16_whole"] <= 2e-3
        assert found[name]["f16"] <= 5e-3
    assert found["other"]["tolerance"] >= 5e-3


def test_answers_are_those_of_the_adapter_that_is_asked(engine: Engine, bundle: Path, runs: tuple[Run, Run]) -> None:
    own = np.array([line["llm"] for line in reference(bundle)], float)
    other = np.array([line["adapters"]["other"] for line in reference(bundle)], float)
    assert np.abs(own - other).max() > 0.01
    assert asked(engine, bundle) == pytest.approx(own, abs=5e-3)
    assert asked(engine, bundle, adapter="own") == pytest.approx(own, abs=5e-3)
    assert asked(engine, bundle, adapter="other") == pytest.approx(other, abs=5e-3)
    assert asked(engine, bundle, adapters={"other": 1}) == pytest.approx(other, abs=5e-3)
    alone = asked(engine, bundle, adapters={})
    assert asked(engine, bundle, adapters={"own": 0, "other": 0}) == pytest.approx(alone, abs=5e-3)
    assert np.abs(alone - own).max() > 0.01


def test_a_merged_bundle_of_the_same_run_answers_alike(bundle: Path, runs: tuple[Run, Run], tmp_path: Path) -> None:
    export(runs[0], tmp_path / "merged", ExportOptions(("F16",), threads=1))
    assert Bundle.open(tmp_path / "merged").manifest.format_version == 1
    with Engine.open(tmp_path / "merged", threshold="ratio:1", llm_threads=1, tuned=False) as engine:
        merged = asked(engine, bundle)
    with Engine.open(bundle, threshold="ratio:1", llm_threads=1, tuned=False) as engine:
        assert asked(engine, bundle) == pytest.approx(merged, abs=5e-3)
    assert (tmp_path / "merged" / "llm.gguf").read_bytes() != (bundle / "llm.gguf").read_bytes()


def test_both_adapters_at_half_their_weight_are_torch_with_both_changes_halved(
    engine: Engine, bundle: Path, runs: tuple[Run, Run]
) -> None:
    half = runs[0].llm().unload()
    plain = {name: parameter.clone() for name, parameter in half.named_parameters()}
    for run in runs:
        whole = dict(run.llm().merge_and_unload().named_parameters())
        with torch.no_grad():
            for name, parameter in half.named_parameters():
                parameter += 0.5 * (whole[name] - plain[name])
    tokens = runs[0].prompt_encoder(runs[0].fit_inputs()[1]).tokens
    expected = []
    for line in reference(bundle):
        with torch.inference_mode():
            logits = half(torch.tensor([line["prompt"]])).logits[0, -1].double()
        expected.append(float(torch.sigmoid(logits[tokens.yes] - logits[tokens.no])))
    assert asked(engine, bundle, adapters={"own": 0.5, "other": 0.5}) == pytest.approx(expected, abs=5e-3)


def test_verify_repeats_every_adapter(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["verify", str(bundle), "--llm-threads", "1"], standalone_mode=False)
    said = capsys.readouterr().out
    assert "LLM, adapter other: 8 rows, greatest difference" in said
    with Engine.open(bundle, llm_threads=1, require_llm=True, tuned=False) as engine:
        found = compare(engine)
        assert found.adapters.keys() == {"other"}
        assert found.problems == []
        engine.adapters = replace(engine.adapters, names=("other", "own"))
        engine.llm.backend, kept = _Wrong(engine.llm.backend), engine.llm.backend  # type: ignore[union-attr,arg-type]
        assert any("adapter other gives" in problem for problem in compare(engine).problems)
        engine.llm.backend = kept  # type: ignore[union-attr]


class _Wrong:
    """A backend that answers all further adapters as the first one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def submit(self, prompts: Any, deadline: Any = None) -> Any:
        return self._inner.submit(prompts.by((("own", 1.0),)), deadline)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_an_interrupted_export_leaves_nothing(
    runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = adapters.write_adapter, list[str]()

    def interrupted(model: Any, path: Path, name: str) -> None:
        write(model, path, name)
        written.append(path.name)
        if name == "other":
            raise KeyboardInterrupt

    monkeypatch.setattr(adapters, "write_adapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(runs[0], tmp_path / "bundle", ExportOptions(threads=1, separate=True, added={"other": runs[1]}))
    assert written == ["own.gguf", "other.gguf"]
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_scores_otherwise_than_torch_is_an_error(
    runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = adapters.write_adapter
    monkeypatch.setattr(adapters, "write_adapter", lambda model, path, name: write(runs[0].llm(), path, name))
    with pytest.raises(ExportError, match="adapter other, f16 GGUF: P"):
        export(runs[0], tmp_path / "bundle", ExportOptions(threads=1, separate=True, added={"other": runs[1]}))
    assert list(tmp_path.iterdir()) == []


def changed(run: Run, **llm: Any) -> Run:
    other = Run(run.folder, run.recipe, run.data)
    other.recipe = replace(run.recipe, llm=replace(run.recipe.llm, **llm))
    return other


def test_runs_that_cannot_stand_beside_are_refused_before_any_work(
    runs: tuple[Run, Run], data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = runs
    save_checkpoint(tmp_path / "bigger", num_hidden_layers=3)
    prompt = Run(second.folder, replace(second.recipe, prompt=replace(second.recipe.prompt, history_lines=4)), data)
    wrong = {
        "was trained on another checkpoint": changed(second, path=str(tmp_path / "bigger")),
        "was trained on other prompts": prompt,
        "was trained with other codes of items": changed(second, codes=CodesRecipe(bits=8)),
        "trained an LLM from scratch": changed(second, source="scratch"),
        "has trained no LLM": changed(second, epochs=0),
    }
    for message, run in wrong.items():
        with pytest.raises(InputError, match=f"--add x: .*{message}"):
            adapters.check_runs(first, "own", {"x": run})
    coded = [changed(run, codes=CodesRecipe(bits=8)) for run in runs]
    for run, code in zip(coded, ("1.2", "3.4"), strict=True):
        schema, catalog = first.fit_inputs()
        made = with_codes(catalog, [code] * len(catalog))
        monkeypatch.setattr(run, "fit_inputs", lambda made=made, schema=schema: (schema, made))
    with pytest.raises(InputError, match="with the codes of its own base model"):
        adapters.check_runs(coded[0], "own", {"x": coded[1]})
    for name, added, message in (
        ("own", {"own": second}, "the run's own adapter is called so"), ("ümlaut", {}, "'ümlaut' is no name"),
        ("own", {"a/b": second}, "'a/b' is no name"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            adapters.check_runs(first, name, added)
    with pytest.raises(InputError, match=r"--adapter separate: .* trained an LLM from scratch"):
        adapters.check_runs(changed(first, source="scratch"), "own", {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--add", "a=runs/a"], "--add goes with --adapter separate"),
        (["--adapter", "separate", "--add", "runs/a"], "expected NAME=RUN"),
        (["--adapter", "separate", "--add", "a=x", "--add", "a=y"], "a name is given twice"),
        (["--adapter", "separate", "--no-llm"], "is for an LLM that the run has trained"),
        (["--adapter", "separate", "--add", "a=nowhere"], "nowhere: not a training run"),
    ],
)
def test_wrong_options_are_one_line(
    runs: tuple[Run, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(runs[0].folder), "--out", str(tmp_path / "bundle"), *more])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_the_bundle(runs: tuple[Run, Run], tmp_path: Path) -> None:
    command = ["export", str(runs[0].folder), "--out", str(tmp_path / "bundle"), "--adapter", "separate", "--name",
               "films", "--add", f"b={runs[1].folder}", "--llm-threads", "1"]  # fmt: skip
    cli(command, standalone_mode=False)
    assert Bundle.open(tmp_path / "bundle").adapters().names == ("b", "films")
