"""Files of arrays: mapped as they were written, opened by the safetensors package, refused where they are damaged."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from corella_edge.errors import BundleError
from corella_edge.formats.arrays import DTYPES, map_arrays, write_arrays

LAYOUT = "corella-edge test 1"
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(sorted(DTYPES.values())).flatmap(lambda kind: arrays_of.arrays(np.dtype(kind), SHAPES))
FILES = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), ARRAYS, max_size=5)


def write(path: Path, arrays: dict[str, Any], layout: str = LAYOUT) -> Path:
    with path.open("wb") as file:
        write_arrays(file, layout, arrays)
    return path


@given(FILES)
def test_arrays_survive_their_file(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    arrays.pop("__metadata__", None)
    found = map_arrays(write(tmp_path_factory.mktemp("arrays") / "a.safetensors", arrays), LAYOUT)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert not found[name].flags.writeable


def test_the_safetensors_package_opens_it(tmp_path: Path) -> None:
    load = pytest.importorskip("safetensors.numpy").load_file
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 2), np.float32), "c": np.arange(5, dtype=np.uint64)}
    found = load(write(tmp_path / "a.safetensors", arrays))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


def test_another_layout_is_refused_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {}, "corella-edge test 2")
    with pytest.raises(
        BundleError, match=r"a\.safetensors: its layout 'corella-edge test 2' is not known, .* 'corella"
    ):
        map_arrays(path, LAYOUT)


def head(header: Any, data: bytes = b"\0" * 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> bytes:
    about = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8], **changes}
    return head({"__metadata__": {"layout": LAYOUT}, "a": about})


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cannot be read"), (b"\x08", "no proper length"), (b"\xff" * 8 + b"{}", "no proper length"),
        (head(b"[1, 2]  "), "not an object"), (head(b"{{"), "not JSON"), (head(b'{"a": 1, "a": 2}'), "not JSON"),
        (head(b"[" * 5000), "not JSON"), (head({"__metadata__": 3}), "not an object"),
        (entry(dtype="F8"), "not described"), (entry(shape=[7]), "does not lie"), (entry(shape=[-8]), "does not lie"),
        (entry(data_offsets=[0, 9], shape=[9]), "does not lie"), (entry(data_offsets=[8, 0], shape=[]), "does not lie"),
        (entry(data_offsets=[4, 8], shape=[4]), "overlap or leave a gap"), (entry(shape=["8"]), "does not lie"),
        (entry(dtype="U32", data_offsets=[2, 6], shape=[1]), "does not lie"), (entry(data_offsets=[]), "not described"),
        (entry(shape=[2**62, 4]), "does not lie"), (entry(data_offsets=[True, 8]), "does not lie"),
        (entry(shape=[8, *[1] * 99]), "no array can have"), (entry(shape={}), "does not lie"),
        (entry(shape=[0, 2**80], data_offsets=[0, 0]), "no array can have"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"^vocab/a: ") as caught:
        map_arrays(tmp_path / "a.safetensors", LAYOUT, "vocab/a")
    assert part in str(caught.value)


@settings(max_examples=200)
@given(st.data())
def test_no_change_of_a_byte_leads_out_of_the_file(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.safetensors"
    raw = bytearray(write(path, {"a": np.arange(9, dtype=np.uint32), "b": np.arange(5, dtype=np.uint8)}).read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(BundleError):
        assert sum(array.nbytes for array in map_arrays(path, LAYOUT).values()) <= len(raw)
