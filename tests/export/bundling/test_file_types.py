"""The file types of a bundle's LLM: what a sweep chooses, what a gate refuses, and what weighs the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import random_model, save_scratch_tokenizer
from corella_edge.cli import main
from corella_edge.errors import ExportError
from corella_edge.routing.measure import entropy
from corella_edge_export.bundling.file_types import FEWEST, NEAR, Tried, check, choose, hard_rows, table, tried
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.importance import importance
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_runtime.llm.llama.binding import quantize
from tiny_run import recipe

ROW = Tried("Q8_0", 1000, 1.0, 0.7, 0.6, 0.05, 0.0, -0.01, 0.01, 0.01, 0.1)
ROWS = st.lists(
    st.builds(
        lambda size, ms, drop: replace(ROW, kind=f"{size} {ms} {drop}", size=size, milliseconds=ms, drop=drop),
        st.integers(1, 10**9), st.floats(0.01, 100), st.floats(-0.1, 0.5),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@given(ROWS, st.floats(0, 0.2))
def test_the_chosen_type_keeps_the_rule(rows: list[Tried], most: float) -> None:
    good = [row for row in rows if row.drop <= most]
    if not good:
        with pytest.raises(ExportError, match="no file type keeps the AUC of hard rows within"):
            choose(rows, most)
        return
    chosen, fastest = choose(rows, most), min(row.milliseconds for row in good)
    assert chosen in good
    assert chosen.milliseconds <= NEAR * fastest
    assert all(chosen.size <= row.size for row in good if row.milliseconds <= NEAR * fastest)


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=900))
def test_hard_rows_are_those_of_highest_entropy(values: list[float]) -> None:
    crm = np.asarray(values)
    hard, of = hard_rows(crm), entropy(crm)
    assert hard.sum() == min(len(crm), max(FEWEST, round(0.3 * len(crm))))
    assert not (~hard).any() or of[hard].min() >= of[~hard].max()


def test_a_type_is_judged_against_f16() -> None:
    labels, f16, users = np.array([1, 0, 1, 0]), np.array([0.9, 0.2, 0.8, 0.1]), np.array([1, 1, 2, 2])
    same = tried("X", 5, 1.0, f16, f16, labels, users)
    assert (same.drop, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = tried("X", 5, 1.0, np.array([0.1, 0.2, 0.8, 0.9]), f16, labels, users)
    assert (worse.auc, worse.drop) == (0.25, 0.75)
    assert worse.low <= 0.75 <= worse.high <= 1.0
    assert worse.furthest == pytest.approx(0.8)
    assert len(list(table([worse]))) == 2


def test_the_gate_names_the_type() -> None:
    check([ROW], 0.0)
    check([replace(ROW, drop=0.4)], None)
    with pytest.raises(ExportError, match=r"Q8_0 loses 0\.4000 \[-0\.0100, 0\.0100\] of AUC .* allows 0\.1"):
        check([replace(ROW, drop=0.4)], 0.1)
    with pytest.raises(ExportError, match="loses nan"):
        check([replace(ROW, drop=float("nan"))], 0.1)


def test_importance_is_the_mean_square_of_what_a_column_meets(tmp_path: Path) -> None:
    model = random_model("qwen3", save_scratch_tokenizer(tmp_path))
    texts = [[5, 6, 7], [8, 9]]
    found = importance(model, texts)
    with torch.inference_mode():
        states = [model.model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts]
    expected = torch.cat(states).square().mean(0)
    np.testing.assert_allclose(found["token_embd.weight"], expected.numpy(), rtol=1e-4)
    assert found["blk.1.ffn_down.weight"].shape == (48,)
    assert len(found) == 2 * 7 + 1
    assert importance(model, texts[:1])["blk.0.attn_q.weight"].shape == (32,)  # nothing is left of the first


@pytest.mark.slow  # IQ2_XS alone takes seconds
def test_types_that_need_importance_are_written_with_it(tmp_path: Path) -> None:
    count = save_scratch_tokenizer(tmp_path)
    model = random_model("llama", count, hidden_size=256, intermediate_size=512)
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "f16.gguf", "x")
    with pytest.raises(ExportError, match="needs an importance matrix; export with --imatrix"):
        quantize(tmp_path / "f16.gguf", tmp_path / "x.gguf", "IQ2_XS")
    weights = importance(model, [list(range(3, 60))])
    quantize(tmp_path / "f16.gguf", tmp_path / "x.gguf", "IQ2_XS", importance=weights)
    quantize(tmp_path / "f16.gguf", tmp_path / "plain.gguf", "Q4_0")
    quantize(tmp_path / "f16.gguf", tmp_path / "weighed.gguf", "Q4_0", importance=weights)
    assert (tmp_path / "plain.gguf").read_bytes() != (tmp_path / "weighed.gguf").read_bytes()


@pytest.fixture(scope="module")
def run(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Rows of 256: what quantised types need."""
    folder = tmp_path_factory.mktemp("types") / "run"
    wide = {"hidden": 256, "intermediate": 256, "layers": 1}
    stages.train(folder, recipe(llm=wide, joint={"epochs": 0}, continuation={"epochs": 0}), data, quiet=True)
    return Run.open(folder, data)


@pytest.mark.slow
def test_a_sweep_writes_the_type_it_chose(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("IQ2_XS", "Q8_0", "Q4_0")
    asked = [part for kind in kinds for part in ("--llm-type", kind)]
    with pytest.raises(SystemExit) as left:
        main(["export", str(run.folder), "--out", str(tmp_path / "b"), "--sweep", "--imatrix", *asked,
              "--max-auc-drop", "1", "--llm-threads", "1"])  # fmt: skip
    assert left.value.code in (0, None)
    found = json.loads((tmp_path / "b" / "verification.json").read_text())["types"]
    assert {row["kind"] for row in found} == set(kinds)
    said = capsys.readouterr()
    chosen = next(line for line in said.err.splitlines() if "is chosen" in line).split()[1]
    about = json.loads((tmp_path / "b" / "manifest.json").read_text())["about"]
    assert about["models"]["llm"] == {"llm.gguf": chosen}
    assert "importance matrix of" in said.err
    assert "File types on the rows that the base model is least sure of" in said.out
    assert all(kind in said.out for kind in kinds)


def test_what_cannot_be_written_is_left_out_of_a_sweep(run: Run, tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ExportError, match="none of the file types"):
        export(run, tmp_path / "c", ExportOptions(("IQ1_S", "IQ1_M"), threads=1, sweep=True), said.append)
    assert sum("needs an importance matrix" in line for line in said) == 2


def test_the_gate_stops_an_export(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worse: Callable[..., Tried] = lambda *given: replace(tried(*given), drop=0.01)  # noqa: E731
    monkeypatch.setattr("corella_edge_export.bundling.file_types.tried", worse)
    with pytest.raises(ExportError, match=r"Q4_0 loses 0\.0100"):
        export(run, tmp_path / "b", ExportOptions(("Q4_0",), threads=1, max_drop=0.005))
    assert not (tmp_path / "b").exists()
