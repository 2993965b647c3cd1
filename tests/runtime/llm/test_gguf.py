"""What is looked at in a GGUF file before llama.cpp is; the single cases are in test_corrupt_bundles.py."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import make_bundle, write_gguf
from corella_edge.errors import BundleError
from corella_edge_runtime.llm.llama.dangers import ARCHITECTURES, check_gguf, metadata

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1" / "llm.gguf"
FUZZ = Path(__file__).with_name("fuzz_gguf.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("gguf") / "bundle") / "llm.gguf"


def test_what_export_writes_passes(made: Path) -> None:
    check_gguf(made)
    check_gguf(GOLDEN)


def test_another_version_is_refused(made: Path, tmp_path: Path) -> None:
    raw = bytearray(made.read_bytes())
    struct.pack_into("<I", raw, 4, 1)
    (tmp_path / "old.gguf").write_bytes(raw)
    with pytest.raises(BundleError, match=r"old\.gguf: not a model that this release can run: GGUF version 1"):
        check_gguf(tmp_path / "old.gguf")
    with pytest.raises(BundleError, match=r"none\.gguf: cannot be read"):
        check_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_passes_with_keys_that_nobody_knows(tmp_path: Path, architecture: str) -> None:
    write_gguf(tmp_path / "a.gguf", np.random.default_rng(1), 32, architecture, blocks=3)
    strange = {"tokenizer.chat_template": "{{ x }}", f"{architecture}.made_up": 7, "imatrix.file": "a.dat"}
    changed = with_values(tmp_path / "a.gguf", strange)
    assert check_gguf(changed) == {"F32"}
    assert metadata(changed)["tokenizer.chat_template"] == b"{{ x }}"


DANGERS: dict[str, tuple[object, str]] = {
    "llama.expert_count": (4, "mixture of experts"),
    "llama.expert_used_count": (2, "mixture of experts"),
    "llama.nextn_predict_layers": (1, "predict several tokens"),
    "llama.attention.causal": (False, "looks ahead"),
    "llama.pooling_type": (1, "a model of embeddings"),
    "llama.rope.scaling.type": ("longrope", "scaled in another way"),
    "llama.rope.dimension_count_swa": (8, "its blocks differ in size"),
    "split.count": (3, "one part of several; join them"),
    "general.type": ("adapter", "no whole model"),
    "llama.block_count": (2**30, "its block_count is 1073741824"),
    "llama.attention.head_count": ("two", "'llama.attention.head_count' is of another type"),
    "tokenizer.ggml.token_type": ("none", "'tokenizer.ggml.token_type' is of another type"),
}


@pytest.mark.parametrize(("key", "value", "message"), [(key, *what) for key, what in DANGERS.items()], ids=DANGERS)
def test_what_llama_cpp_would_end_the_process_for_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    write_gguf(tmp_path / "a.gguf", np.random.default_rng(1), 32)
    with pytest.raises(BundleError, match=message):
        check_gguf(with_values(tmp_path / "a.gguf", {key: value}))


def test_a_norm_that_is_quantised_is_refused(tmp_path: Path) -> None:
    """Declared as a matrix of one row, its shape is right for llama.cpp, and its kernels have no such product."""
    write_gguf(tmp_path / "a.gguf", np.random.default_rng(1), 32)
    raw = bytearray((tmp_path / "a.gguf").read_bytes())
    name = b"output_norm.weight"
    place = raw.index(name) + len(name) + 4 + 8
    struct.pack_into("<I", raw, place, 8)
    (tmp_path / "a.gguf").write_bytes(raw)
    with pytest.raises(BundleError, match=r"'output_norm.weight' is of the type Q8_0, not F32"):
        check_gguf(tmp_path / "a.gguf")


def with_values(path: Path, values: dict[str, object]) -> Path:
    """A copy with other values, or keys that it has not."""
    kinds = {str: gguf.GGUFValueType.STRING, int: gguf.GGUFValueType.UINT32, bool: gguf.GGUFValueType.BOOL}
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("with.gguf"), str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")) and key not in values:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for key, value in values.items():
        writer.add_key_value(key, value, kinds[type(value)])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("with.gguf")


EDITS = st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(EDITS, st.integers(0, 113_280))
def test_any_head_passes_or_is_refused(made: Path, edits: list[tuple[int, bytes]], length: int) -> None:
    raw = bytearray(made.read_bytes())
    for place, new in edits:
        raw[place : place + len(new)] = new
    path = made.with_name("changed.gguf")
    path.write_bytes(raw[: length or None])
    try:
        check_gguf(path)
    except BundleError as error:
        told = str(error)
        assert told.startswith("changed.gguf: "), told


def fuzz(source: Path, folder: Path, count: int, seed: int) -> dict[str, int]:
    command = [sys.executable, str(FUZZ), str(source), str(folder), str(count), str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "GGML_NO_BACKTRACE": "1"}
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def check_outcomes(found: dict[str, int]) -> None:
    assert found.keys() <= {"refused", "not loaded", "scored"}
    assert {"refused", "scored"} <= found.keys()


def test_changed_files_do_not_end_the_process(made: Path, tmp_path: Path) -> None:
    check_outcomes(fuzz(made, tmp_path, 60, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_changed_files_of_any_architecture_do_not_end_the_process(tmp_path: Path, architecture: str) -> None:
    write_gguf(tmp_path / "a.gguf", np.random.default_rng(1), 32, architecture, blocks=7)
    check_outcomes(fuzz(tmp_path / "a.gguf", tmp_path, 400, seed=4))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_thousands_of_changed_files_do_not_end_the_process(made: Path, tmp_path: Path, seed: int) -> None:
    check_outcomes(fuzz(made, tmp_path, 1000, seed))
    check_outcomes(fuzz(GOLDEN, tmp_path, 1000, seed))
