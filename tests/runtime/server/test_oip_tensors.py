"""The codec of the Open Inference Protocol, held against tritonclient's own, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import math
import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from corella_edge.errors import InputError
from corella_edge_runtime.server.routes.oip.models import INPUTS
from corella_edge_runtime.server.routes.oip.tensors import Inference, read, write

NUMBERS = st.floats(width=32, allow_infinity=False)
NAMES = st.sampled_from(["probability", "crm", "llm", "entropy", "routed", "Zoë 🎬"])


def texts(binary: bool) -> st.SearchStrategy[bytes]:
    """Values of BYTES; JSON carries only UTF-8."""
    return st.binary(max_size=20) if binary else st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)


@st.composite
def tensors(draw: st.DrawFn) -> list[tuple[str, np.ndarray, bool]]:
    """Inputs in any order, some left out: name, values, whether in binary form."""
    found: list[tuple[str, np.ndarray, bool]] = []
    for name in draw(st.permutations(["user_id", "history_items", "history_ratings", "candidates"])):
        spec, binary = INPUTS[name], draw(st.booleans())
        if spec.optional and draw(st.booleans()):
            continue
        kind = texts(binary) if spec.datatype == "BYTES" else NUMBERS
        values = draw(st.lists(kind, min_size=spec.least, max_size=min(spec.most, 6)))
        array = np.array(values, np.float32) if spec.datatype == "FP32" else np.empty(len(values), object)
        if spec.datatype == "BYTES":
            array[:] = values
        found.append((name, array, binary))
    return found


def written(values: list[tuple[str, np.ndarray, bool]], **options: Any) -> tuple[bytes, str | None]:
    """A request as tritonclient writes it, and its header."""
    inputs = []
    for name, array, binary in values:
        inputs.append(InferInput(name, list(array.shape), INPUTS[name].datatype))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body(inputs, **options)
    return body, None if length is None else str(length)


@given(tensors(), st.dictionaries(NAMES, st.booleans()), st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
def test_what_tritonclient_writes_is_read(values, outputs, id):
    wanted = [InferRequestedOutput(name, binary_data=binary) for name, binary in outputs.items()]
    found = read(*written(values, outputs=wanted, request_id=id, timeout=5), INPUTS)
    assert found.id == id
    assert list(found.inputs) == [name for name, _, _ in values]
    for name, array, _ in values:
        np.testing.assert_array_equal(found.inputs[name], array)
    assert dict(found.outputs) == outputs
    assert found.binary is not bool(outputs)
    assert found.parameters == {"timeout": 5}


@given(st.lists(st.tuples(NAMES, st.lists(st.floats(0, 1) | st.just(float("nan"))) | st.lists(st.booleans()),
                          st.booleans()), unique_by=lambda output: output[0]))  # fmt: skip
def test_what_is_written_tritonclient_reads(outputs):
    arrays = {name: np.array(values, bool if values and isinstance(values[0], bool) else np.float64)
              for name, values, _ in outputs}  # fmt: skip
    body, length = write({"id": "é"}, [(name, arrays[name], binary) for name, _, binary in outputs])
    assert (length is None) is not any(binary for _, _, binary in outputs)
    found = InferenceServerClient.parse_response_body(body, header_length=length)
    assert found.get_response()["id"] == "é"
    for name, array in arrays.items():
        expected = array if array.dtype == bool else array.astype(np.float32)
        np.testing.assert_array_equal(found.as_numpy(name), expected)
        assert found.get_output(name)["datatype"] == ("BOOL" if array.dtype == bool else "FP32")


def test_null_is_no_number_in_both_directions():
    ratings = {"name": "history_ratings", "datatype": "FP32", "shape": [3], "data": [4, None, 2.5]}
    found = read(message(ratings), None, INPUTS)
    np.testing.assert_array_equal(found.inputs["history_ratings"], [4.0, np.nan, 2.5])
    body, _ = write({}, [("llm", np.array([np.nan, 0.5]), False)])
    assert json.loads(body)["outputs"][0]["data"] == [None, 0.5]


CANDIDATES = {"name": "candidates", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}


def message(*more: Any, **fields: Any) -> bytes:
    """A good request, and what a test adds to its inputs or fields."""
    return json.dumps({"inputs": [CANDIDATES, *more], **fields}).encode()


def candidates(**fields: Any) -> bytes:
    changed = {name: value for name, value in (CANDIDATES | fields).items() if value is not ...}
    return json.dumps({"inputs": [changed]}).encode()


def ratings(**fields: Any) -> bytes:
    return message({"name": "history_ratings", "datatype": "FP32", "shape": [1], "data": [1.0]} | fields)


def binary(datatype: str, shape: list[int], raw: bytes, size: Any = None, more: bytes = b"") -> tuple[bytes, str]:
    """A request whose candidates or ratings lie behind it."""
    name = {"BYTES": "candidates", "FP32": "history_ratings"}[datatype]
    about = {"name": name, "datatype": datatype, "shape": shape,
             "parameters": {"binary_data_size": len(raw) if size is None else size}}  # fmt: skip
    head = json.dumps({"inputs": [about] if datatype == "BYTES" else [CANDIDATES, about]}).encode()
    return head + raw + more, str(len(head))


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


MALFORMED: dict[str, tuple[bytes, str | None, str]] = {
    "no JSON": (b"{", None, "request: not JSON"),
    "NaN": (b'{"inputs": [NaN]}', None, r"inputs\[0\]: expected an object, got nan"),
    "NaN for an id": (message(id=math.nan), None, "id: expected text, got nan"),
    "NaN among texts": (candidates(data=["a", math.nan]), None, r"candidates\[1\]: expected text, got nan"),
    "Infinity": (ratings(data=[math.inf]), None, "request: Infinity is not JSON"),
    "-Infinity": (ratings(data=[-math.inf]), None, "request: -Infinity is not JSON"),
    "a name twice": (b'{"inputs": [], "inputs": []}', None, "occurs twice"),
    "no object": (b"[]", None, "request: expected an object, got a list"),
    "no inputs": (b"{}", None, "inputs: expected a list, got nothing"),
    "inputs null": (b'{"inputs": null}', None, "inputs: expected a list"),
    "an input that is no object": (b'{"inputs": [1]}', None, r"inputs\[0\]: expected an object"),
    "an unknown input": (message({"name": "items"}), None, r"inputs\[1\].name: 'items' is not an input; known"),
    "an input without a name": (candidates(name=...), None, r"inputs\[0\].name: nothing is not"),
    "an input twice": (message(CANDIDATES), None, "candidates is given twice"),
    "no candidates": (b'{"inputs": []}', None, "inputs: candidates is missing"),
    "another datatype": (candidates(datatype="INT64"), None, "expected the datatype BYTES, got 'INT64'"),
    "no datatype": (candidates(datatype=...), None, "expected the datatype BYTES, got nothing"),
    "no shape": (candidates(shape=...), None, "candidates: expected a shape of one dimension"),
    "two dimensions": (candidates(shape=[2, 2]), None, "a shape of one dimension"),
    "three dimensions": (candidates(shape=[1, 1, 2]), None, "a shape of one dimension"),
    "a row of too many": (candidates(shape=[1, 3]), None, "the shape says 3 values, 'data' has 2"),
    "two negative sizes": (candidates(shape=[-1, 1]), None, r"the shape says \[-1, 1\]"),
    "rows of another shape": (candidates(shape=[1, 2], data=[["a"], ["b"]]), None, r"\[0\]: expected text, got a list"),
    "rows of other lengths": (candidates(shape=[2, 1], data=[["a", "b"]]), None, "'data' has 1"),
    "a row without rows": (candidates(shape=[2], data=[["a", "b"]]), None, "'data' has 1"),
    "no dimension": (candidates(shape=[]), None, "a shape of one dimension"),
    "a fraction of a value": (candidates(shape=[2.0]), None, "a shape of one dimension"),
    "a truth as a shape": (candidates(shape=[True]), None, "a shape of one dimension"),
    "a negative shape": (candidates(shape=[-1]), None, "expected 1 to 10000 values"),
    "a shape of none": (candidates(shape=[0], data=[]), None, "expected 1 to 10000 values, the shape says 0"),
    "a shape too large": (candidates(shape=[10_001]), None, "the shape says 10001"),
    "two users": (message({"name": "user_id", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}), None, "1 to 1"),
    "data too short": (candidates(data=["a"]), None, "the shape says 2 values, 'data' has 1"),
    "data too long": (candidates(data=["a", "b", "c"]), None, "'data' has 3"),
    "data that is no list": (candidates(data="ab"), None, "candidates.data: expected a list"),
    "nested data": (candidates(data=[["a"], ["b"]]), None, r"candidates\[0\]: expected text, got a list"),
    "a number as text": (candidates(data=["a", 5]), None, r"candidates\[1\]: expected text, got 5"),
    "text as a number": (ratings(data=["5"]), None, r"history_ratings\[0\]: expected a number"),
    "a truth as a number": (ratings(data=[True]), None, r"history_ratings\[0\]: expected a number"),
    "a number beyond FP32": (ratings(data=[1e39]), None, "that FP32 holds"),
    "an integer beyond FP32": (ratings(data=[10**50]), None, "that FP32 holds"),
    "no data": (candidates(data=...), None, "either 'data' or the parameter"),
    "data and bytes": (candidates(parameters={"binary_data_size": 0}), None, "either 'data' or the parameter"),
    "shared memory": (candidates(parameters={"shared_memory_region": "x"}), None, "'shared_memory_region'"),
    "parameters that are none": (candidates(parameters=[]), None, "candidates.parameters: expected an object"),
    "a header beyond the body": (message(), "999", "Inference-Header-Content-Length: expected a length of at most"),
    "a negative header": (message(), "-1", "Inference-Header-Content-Length"),
    "a header that is no number": (message(), "0x10", "Inference-Header-Content-Length"),
    "a header of many digits": (message(), "9" * 5000, "Inference-Header-Content-Length"),
    "a header in other digits": (message(), "٣", "Inference-Header-Content-Length"),
    "a header of nothing": (message(), "", "Inference-Header-Content-Length"),
    "a header too short": (message(), "5", "request: not JSON"),
    "bytes left over": (*binary("BYTES", [1], packed(b"a"), more=b"x"), "1 bytes are left after the last tensor"),
    "bytes nobody asked for": (message() + b"xy", str(len(message())), "2 bytes are left"),
    "a size beyond the body": (*binary("BYTES", [1], packed(b"a"), 6), "binary_data_size is 6, the body has 5"),
    "a negative size": (*binary("BYTES", [1], packed(b"a"), -1), "binary_data_size is -1"),
    "a size that is no number": (*binary("BYTES", [1], packed(b"a"), "5"), "binary_data_size is '5'"),
    "a size that is true": (*binary("BYTES", [1], packed(b"a"), True), "binary_data_size is true"),
    "a length cut short": (*binary("BYTES", [1], b"\1\0\0"), r"candidates\[0\]: its length is cut short"),
    "no length at all": (*binary("BYTES", [2], packed(b"a")), r"candidates\[1\]: its length is cut short"),
    "a text cut short": (*binary("BYTES", [1], b"\5\0\0\0abc"), r"\[0\]: 5 bytes are announced, 3 are there"),
    "a length beyond all": (*binary("BYTES", [1], b"\xff\xff\xff\xff"), "4294967295 bytes are announced"),
    "more texts than the shape": (*binary("BYTES", [1], packed(b"a", b"b")), "5 bytes are left after 1 values"),
    "too few bytes of numbers": (*binary("FP32", [2], b"\0" * 4), "2 values of FP32 are 8 bytes"),
    "too many bytes of numbers": (*binary("FP32", [1], b"\0" * 8), "1 values of FP32 are 4 bytes"),
    "parts of numbers": (*binary("FP32", [1], b"\0" * 3), "binary_data_size is 3"),
    "outputs that are no list": (message(outputs={}), None, "outputs: expected a list"),
    "an output that is no object": (message(outputs=["crm"]), None, r"outputs\[0\]: expected an object"),
    "an output without a name": (message(outputs=[{}]), None, r"outputs\[0\].name: expected text"),
    "an output twice": (message(outputs=[{"name": "crm"}] * 2), None, "outputs: 'crm' is asked for twice"),
    "an output in shared memory": (message(outputs=[{"name": "crm", "parameters": {"shared_memory_offset": 0}}]), None,
                                   "'shared_memory_offset' is not offered"),
    "classes": (message(outputs=[{"name": "crm", "parameters": {"classification": 1}}]), None, "'classification'"),
    "a form that is no truth": (message(outputs=[{"name": "crm", "parameters": {"binary_data": 1}}]), None,
                                "binary_data: expected true or false, got 1"),
    "a form of all that is no truth": (message(parameters={"binary_data_output": 1}), None, "expected true or false"),
    "options that are none": (message(parameters=[]), None, "parameters: expected an object"),
    "an id that is no text": (message(id=5), None, "id: expected text, got 5"),
    "deep nesting": (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", None, "expected an object, got a list"),
    "deeper nesting": (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", None, "request: nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "header", "told"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_refused_by_name(body, header, told):
    with pytest.raises(InputError, match=told) as error:
        read(body, header, INPUTS)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_the_message_that_the_others_are_made_of_is_good():
    assert read(message(), None, INPUTS).inputs["candidates"].tolist() == [b"a", b"b"]
    assert read(message(), str(len(message())), INPUTS).parameters == {}
    assert read(*binary("BYTES", [2], packed(b"a", b"\xff")), INPUTS).inputs["candidates"].tolist() == [b"a", b"\xff"]


ODDMENTS = {"model_name": "other", "model_version": None, "dtype": 1, "parameters": {"content_type": "str", "x": [{}]}}
SHAPES = [([2], ["a", "b"]), ([2, 1], ["a", "b"]), ([1, 2], ["a", "b"]), ([2, 1], [["a"], ["b"]]),
          ([1, 2], [["a", "b"]])]  # fmt: skip


@pytest.mark.parametrize(("shape", "data"), SHAPES)
def test_a_column_or_a_row_is_the_same_as_one_dimension(shape, data):
    found = read(candidates(shape=shape, data=data), None, INPUTS)
    assert found.inputs["candidates"].tolist() == [b"a", b"b"]
    found = read(*binary("BYTES", shape, packed(b"a", b"b")), INPUTS)
    assert found.inputs["candidates"].tolist() == [b"a", b"b"]
    assert read(ratings(shape=[1, 1]), None, INPUTS).inputs["history_ratings"].tolist() == [1.0]
    assert read(ratings(shape=[0, 1], data=[]), None, INPUTS).inputs["history_ratings"].shape == (0,)


def test_what_the_protocol_does_not_know_is_passed_over():
    output = {"name": "crm", **ODDMENTS}
    whole = json.dumps({"inputs": [CANDIDATES | ODDMENTS], "outputs": [output], **ODDMENTS}).encode()
    found = read(whole, None, INPUTS)
    assert found.inputs["candidates"].tolist() == [b"a", b"b"]
    assert (dict(found.outputs), found.parameters) == ({"crm": False}, ODDMENTS["parameters"])


@given(st.binary(max_size=200), st.none() | st.text(max_size=5) | st.integers(0, 250).map(str))
def test_any_bytes_are_read_or_refused(body, header):
    _read(body, header)


@settings(max_examples=500)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_damaged_messages_are_read_or_refused(rng: random.Random, edits: int):
    body, header = binary("BYTES", [2], packed(b"ab", b"c"))
    damaged = bytearray(body)
    for _ in range(edits):
        start = rng.randrange(len(damaged))
        piece = rng.choice([b"", b"{", b"]", b'"', b"-1", b"1e999", b"null", b"\xff", b"\0", b"[[]]", b",", b"9"])
        damaged[start : start + rng.randrange(4)] = piece
    _read(bytes(damaged), rng.choice([header, str(rng.randrange(200)), None]))


def _read(body: bytes, header: str | None) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(read(body, header, INPUTS), Inference)
