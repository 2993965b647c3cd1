"""The installed wheel has kernels for every kind of CPU, and each kind that this one runs answers alike."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np
import pytest

from corella_edge_runtime.llm.llama.binding import quantize
from corella_edge_runtime.machine.wheel import GLIBC, TARGETS

if TYPE_CHECKING:
    from conftest import Llama

LIBRARIES = Path(llama_cpp.__file__).parent / "lib"
KINDS = sorted(path.name[len("libggml-cpu-") : -len(".so")] for path in LIBRARIES.glob("libggml-cpu-*.so"))
TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K_M")
GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1" / "llm.gguf"  # rows of 32 numbers in Q8_0
EVERY = TARGETS.get(os.uname().machine, "")

SCORES = """
import ctypes, json, sys
import llama_cpp
print(json.dumps([ctypes.CDLL(path).ggml_backend_score() for path in sys.argv[1:]]))
"""
DECODE = """
import json, sys
from pathlib import Path
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.build import features
from corella_edge_runtime.llm.llama.tree import Branches, unfold
found = {}
for path in map(Path, sys.argv[1:]):
    model = Model(path)
    context = Context(model, 128, 1, 128, 1)
    leaves, rows = unfold(Branches.one(tuple(range(5, 105)), 0))
    context.decode(rows)
    found[path.stem] = context.logits(leaves.last, range(model.vocab_size))[0]
print(json.dumps([features(), found]))
"""


def alone(kind: str, folder: Path) -> Path:
    """A folder with the libraries of one kind of CPU."""
    folder.mkdir()
    for path in LIBRARIES.iterdir():
        if path.is_file() and (path.name == f"libggml-cpu-{kind}.so" or not path.name.startswith("libggml-cpu-")):
            (folder / path.name).symlink_to(path)
    return folder


def child(code: str, *args: object, libraries: Path = LIBRARIES) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True,
        env={**os.environ, "LLAMA_CPP_LIB_PATH": str(libraries)},
    )  # fmt: skip
    assert done.returncode == 0, (libraries, done.returncode, done.stderr[-1000:])
    return done.stdout


@pytest.fixture(scope="module")
def files(llama: Llama) -> list[Path]:
    """The tiny model in the types whose kernels differ from CPU to CPU."""
    found = [llama.path.with_name(f"kernels.{kind}.gguf") for kind in TYPES]
    for path, kind in zip(found, TYPES, strict=True):
        quantize(llama.path, path, kind)
    return found


def test_a_build_without_kernels_for_every_cpu_is_another_one() -> None:
    if not KINDS:
        pytest.skip("llama-cpp-python was built for one kind of CPU; `corella-edge wheel` builds it for all")
    assert EVERY in KINDS


@pytest.mark.skipif(not KINDS, reason="llama-cpp-python was built for one kind of CPU")
def test_an_old_system_runs_the_wheel() -> None:
    """No library wants more of glibc than what the wheel's name says, and none but libc's own."""
    for path in LIBRARIES.glob("*.so"):
        found = re.findall(rb"\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)", path.read_bytes())
        assert max((int(major), int(minor)) for major, minor in found) <= tuple(map(int, GLIBC.split("."))), path.name
        assert not re.search(rb"lib(stdc\+\+|gcc_s|gomp|omp|c\+\+)\.so", path.read_bytes()), path.name


@pytest.mark.slow
@pytest.mark.skipif(not KINDS, reason="llama-cpp-python was built for one kind of CPU")
def test_every_kind_that_this_cpu_runs_answers_alike(files: list[Path], tmp_path: Path) -> None:
    """Each decodes alone; the others are compared with the plainest, which every CPU of the architecture runs."""
    scores = json.loads(child(SCORES, *(LIBRARIES / f"libggml-cpu-{kind}.so" for kind in KINDS)))
    runs = [kind for kind, score in zip(KINDS, scores, strict=True) if score > 0]
    assert EVERY in runs
    answers = {kind: json.loads(child(DECODE, *files, libraries=alone(kind, tmp_path / kind))) for kind in runs}
    plain = answers[EVERY][1]
    for kind, (features, found) in answers.items():
        assert ("AVX2" in features) == (kind not in ("x64", "sse42", "sandybridge", "ivybridge", "piledriver") and
                                        "arm" not in kind), kind  # fmt: skip
        for name, logits in found.items():
            spread = float(np.std(plain[name]))
            assert np.isfinite(logits).all(), (kind, name)
            np.testing.assert_allclose(logits, plain[name], atol=0.1 * spread, err_msg=f"{kind} {name}")


def test_an_empty_name_of_the_folder_of_libraries_is_none(tmp_path: Path) -> None:
    code = "from corella_edge_runtime.llm.llama.build import C; print(C._base_path)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "LLAMA_CPP_LIB_PATH": ""},
    )  # fmt: skip
    assert done.stdout.strip() == str(LIBRARIES)


ROWS = """
import json, sys
from pathlib import Path
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.tree import Branches, unfold
found = []
for extra in (None, False):
    model = Model(Path(sys.argv[1]), extra=extra)
    context = Context(model, 128, 1, 128, 1)
    for count in (32, 47, 64, 64, 96):
        context.clear()
        leaves, rows = unfold(Branches.one(tuple(range(5, 5 + count)), 0))
        context.decode(rows)
        found.append(context.logits(leaves.last, range(5))[0])
print(json.dumps(found))
"""


def test_rows_of_one_block_are_computed_right_at_any_length() -> None:
    """AMX takes 32 tokens at a time, and of such short rows makes nonsense then."""
    usual, plain = np.split(np.asarray(json.loads(child(ROWS, GOLDEN))), 2)
    np.testing.assert_allclose(usual, plain, atol=0.05)
