"""A ready GGUF in a bundle: a run of the base model alone, and an LLM that nobody here trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bundles import write_gguf
from checkpoints import random_llama, save_scratch_tokenizer, smollm2_gguf
from corella_edge.cli import main
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import Template
from corella_edge_export.bundling import ready as ready_llm
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.ready import ReadyLlm
from corella_edge_export.llm.to_gguf import write_gguf as write_llama
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.reference import compare
from tiny_run import recipe

OFF = {"epochs": 0}
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|a|>{% endif %}"
)


@pytest.fixture(scope="module")
def run(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ready") / "run"
    stages.train(folder, recipe(llm=OFF, joint=OFF, continuation=OFF), data, quiet=True)
    return Run.open(folder, data)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with random weights, and beside its files the GGUF of them."""
    folder = tmp_path_factory.mktemp("source")
    model = random_llama(save_scratch_tokenizer(folder), max_position_embeddings=512)
    model.save_pretrained(folder)
    write_llama(model, load_tokenizer(folder), folder / "ready.gguf", "Random One")
    return folder


def test_it_is_taken_as_it_is_and_answers(run: Run, source: Path, tmp_path: Path) -> None:
    said: list[str] = []
    ready = ReadyLlm(source / "ready.gguf", source=source)
    export(run, tmp_path / "bundle", ExportOptions(ready=ready, threads=1), said.append)
    assert (tmp_path / "bundle" / "llm.gguf").read_bytes() == ready.file.read_bytes()
    found = json.loads((tmp_path / "bundle" / "verification.json").read_text())
    assert found["differences"]["llm_f16_whole"] <= 2e-3
    assert {"F16", "llm_valid"} <= found["metrics"].keys()
    assert any("texts tokenised alike" in line for line in said)
    with Engine.open(tmp_path / "bundle", require_llm=True, tuned=False) as engine:
        assert list(compare(engine).problems) == []
        about = engine.bundle.manifest.about
    assert about["models"]["llm"] == {"llm.gguf": "F16"}
    assert about["ready"] == {"file": "ready.gguf", "form": "plain", "name": "Random One", "licence": "",
                              "architecture": "llama"}  # fmt: skip


def test_a_slow_model_is_asked_about_fewer_rows(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ready_llm, "SECONDS", 1e-6)
    monkeypatch.setattr(ready_llm, "FEWEST", 12)
    export(run, tmp_path / "bundle", ExportOptions(ready=ReadyLlm(source / "ready.gguf"), threads=1), said.append)
    assert any("12 of 20 (what 0 minutes allow) validation rows" in line for line in said)
    assert any("12 of 20 (what 0 minutes allow) test rows" in line for line in said)
    assert json.loads((tmp_path / "bundle" / "verification.json").read_text())["rows"]["valid"] == 12
    with Engine.open(tmp_path / "bundle", require_llm=True, tuned=False) as engine:
        assert list(compare(engine).problems) == []


@given(st.floats(1e-6, 1e6), st.integers(1, 100_000))
def test_rows_are_afforded_by_time(seconds: float, rows: int) -> None:
    count = ready_llm.affordable(seconds, rows)
    assert min(rows, ready_llm.FEWEST) <= count <= rows
    assert count <= ready_llm.FEWEST or count * seconds <= ready_llm.SECONDS * (1 + 1e-9)
    assert count == rows or (count + 1) * seconds > ready_llm.SECONDS or count >= ready_llm.FEWEST


def test_another_tokenizer_is_found(run: Run, source: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", np.random.default_rng(1), 32)
    with pytest.raises(ExportError, match="tokenisation differs for"):
        export(run, tmp_path / "bundle", ExportOptions(ready=ReadyLlm(tmp_path / "other.gguf", source=source)))
    assert not (tmp_path / "bundle").exists()


def test_a_prompt_beyond_the_context_is_an_error(run: Run, source: Path, tmp_path: Path) -> None:
    options = ExportOptions(ready=ReadyLlm(source / "ready.gguf"))
    long = replace(run.recipe, prompt=replace(run.recipe.prompt, instruction="Like it? " * 500))
    with pytest.raises(ExportError, match=r"a prompt has \d+ tokens, the LLM reads 512: lower prompt.history_lines"):
        export(Run(run.folder, long, run.data), tmp_path / "bundle", options)


def with_chat(source: Path, target: Path, template: str) -> Path:
    """The folder's GGUF with a chat template."""
    reader, writer = gguf.GGUFReader(source / "ready.gguf"), gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_chat_is_asked_in_turns(run: Run, source: Path, tmp_path: Path) -> None:
    file = with_chat(source, tmp_path / "chat.gguf", CHAT)
    model = Model(file, vocabulary_only=True)
    tokens = ReadyLlm(file, "chat").tokens(model, Template(yes=" Y", no=" N"))
    assert list(tokens.before) == model.tokenize("<|user|>")
    assert list(tokens.after) == [*model.tokenize("</s>", special=True), *model.tokenize("<|a|>")]
    assert [tokens.yes, tokens.no] == [*model.tokenize("Y"), *model.tokenize("N")]
    model.close()
    lettered = replace(run.recipe, prompt=replace(run.recipe.prompt, yes=" Y", no=" N"))
    asked = Run(run.folder, lettered, run.data)
    export(asked, tmp_path / "bundle", ExportOptions(ready=ReadyLlm(file, "chat"), threads=1))
    with Engine.open(tmp_path / "bundle", require_llm=True, tuned=False) as engine:
        assert list(compare(engine).problems) == []
        assert engine.llm is not None
        assert engine.llm.prompts.tokens == tokens
        assert engine.bundle.manifest.about["ready"]["form"] == "chat"


def test_a_model_that_reasons_gets_an_empty_think_block(source: Path, tmp_path: Path) -> None:
    file = with_chat(source, tmp_path / "chat.gguf", CHAT + "{# </think> #}")
    model = Model(file, vocabulary_only=True)
    after = ReadyLlm(file, "chat").tokens(model, Template(yes="Y", no="N")).after
    assert after[-len(model.tokenize("<think>\n\n</think>\n\n")) :] == tuple(model.tokenize("<think>\n\n</think>\n\n"))
    model.close()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "has no chat template"),
        ("{{ raise_exception('no') }}", "cannot be filled"),
        ("{% for", "cannot be filled"),
        ("fixed text", "opens no turn for the model"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(source: Path, tmp_path: Path, template: str, message: str) -> None:
    file = with_chat(source, tmp_path / "chat.gguf", template)
    model = Model(file, vocabulary_only=True)
    with pytest.raises(ExportError, match=message):
        ReadyLlm(file, "chat").tokens(model, Template(yes="Y", no="N"))
    model.close()


def test_what_is_no_model_is_refused_by_the_command(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF, they say")
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.folder), "--out", str(tmp_path / "b"), "--llm-gguf", str(tmp_path / "x.gguf")])
    assert left.value.code == InputError.exit_code
    assert f"--llm-gguf {tmp_path}/x.gguf: not a model that this release can run: its head is cut off" in (
        capsys.readouterr().err
    )


def test_the_command_takes_prompt_and_rows_of_another_recipe(run: Run, source: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.toml").write_text(
        'name = "asked"\n[prompt]\ninstruction = "Good?\\n"\nitem = "{title}:"\nprofile = {}\nhistory_lines = 2\n'
        "[export]\ncalibration_rows = 10\nsample_rows = 10\nreference_rows = 3\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.folder), "--out", str(tmp_path / "b"), "--llm-gguf", str(source / "ready.gguf"),
              "--recipe", str(tmp_path / "asked.toml"), "--llm-threads", "1"])  # fmt: skip
    assert left.value.code in (0, None)
    prompt = json.loads((tmp_path / "b" / "prompt.json").read_text())
    assert (prompt["template"]["instruction"], prompt["template"]["history_lines"]) == ("Good?\n", 2)
    assert len((tmp_path / "b" / "sample.jsonl").read_text().splitlines()) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--llm-gguf", "FILE", "--llm-type", "Q4_0"], "are for an LLM that the run has trained"),
        (["--llm-form", "chat"], "--llm-form is for --llm-gguf"),
    ],
)
def test_options_without_an_effect_are_refused(
    run: Run, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = [str(source / "ready.gguf") if option == "FILE" else option for option in options]
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.folder), "--out", str(tmp_path / "b"), *given])
    assert left.value.code == InputError.exit_code
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "chat"])
def test_smollm2_is_taken_as_it_is(run: Run, tmp_path: Path, form: str) -> None:
    """A real model: 30 blocks, 49,152 tokens, Q4_1; transformers computes in float32 with the same weights."""
    torch.set_num_threads(1)
    ready = ReadyLlm(smollm2_gguf(), "chat" if form == "chat" else "plain")
    export(run, tmp_path / "bundle", ExportOptions(ready=ready, threads=1))
    found = json.loads((tmp_path / "bundle" / "verification.json").read_text())
    assert found["differences"]["llm_f16_whole"] <= 2e-3
    with Engine.open(tmp_path / "bundle", require_llm=True, tuned=False) as engine:
        assert list(compare(engine).problems) == []
