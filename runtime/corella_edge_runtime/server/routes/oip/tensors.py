"""Messages of the Open Inference Protocol ↔ numpy, in JSON and with the binary tensor extension. Knows no HTTP.

A message is a JSON object. In it null is the same as left out, and what the protocol does not know is passed over, as
clients send hints of their own (`model_name`, `content_type`); but not what would change the meaning of a tensor.
Tensors that name a `binary_data_size` have their bytes after it, one behind the other:
numbers little-endian, BYTES as four bytes of length and the bytes themselves, value by value. NaN is null in JSON; that
which clients write as NaN is read as well.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from corella_edge.errors import InputError
from corella_edge.formats.strict_json import JsonError, decode, no_constant
from corella_edge.messages import shown
from corella_edge_runtime.server.bodies import json_text

LENGTH_HEADER = "Inference-Header-Content-Length"
# Parameters that say where values are or what form they have, by extensions that are not here: not to be passed over.
NOT_HERE = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification")
_LENGTH = struct.Struct("<I")
_FLOAT32_MAX = float(np.finfo(np.float32).max)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a model takes, BYTES or FP32, of `least` to `most` values: [n], or [n, 1] or [1, n] as well."""

    name: str
    datatype: str
    least: int
    most: int
    optional: bool = True


@dataclass(frozen=True, slots=True)
class Inference:
    """A request.

    Attributes:
        inputs: by name, [n]: BYTES as objects of type bytes, FP32 as float32.
        outputs: name → whether in binary form, of those asked for; empty = all of them, in the form of `binary`.
        parameters: those of the request, without the extension's own.
    """

    id: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool]
    binary: bool
    parameters: Mapping[str, Any]


def read(body: bytes, header_length: str | None, known: Mapping[str, Input]) -> Inference:
    """The request in `body`; `header_length` is the extension's header, as it came, or None.

    Raises:
        InputError: not a message, or not one with these inputs; JsonError where it is not even JSON.
    """
    head, binary = _split(body, header_length)
    try:
        data = given(decode(json_text(head), constant=_nan), "request")
    except JsonError as error:
        raise JsonError(f"request: {error}") from None
    parameters = given(data.get("parameters", {}), "parameters")
    binary_output = a_flag(parameters.pop("binary_data_output", False), "parameters.binary_data_output")
    outputs = _outputs(data.get("outputs", []), binary_output)
    inputs = _inputs(a_list(data.get("inputs"), "inputs"), binary, known)
    return Inference(a_text(data.get("id", ""), "id"), inputs, outputs, binary_output, parameters)


def _nan(name: str) -> float:
    """NaN, which Python's clients write where Triton reads it."""
    return math.nan if name == "NaN" else no_constant(name)


def given(value: object, where: str) -> dict[str, Any]:
    """The fields of an object that are not null."""
    return {name: field for name, field in any_object(value, where).items() if field is not None}


def any_object(value: object, where: str) -> dict[str, Any]:
    """An object, whatever its fields."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, got {shown(value)}")
    return value


def a_list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list, got {shown(value)}")
    return value


def a_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text, got {shown(value)}")
    return value


def a_flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: expected true or false, got {shown(value)}")
    return value


def a_whole(value: object, where: str, below: int) -> int:
    """A whole number from 0, below a bound."""
    if type(value) is not int or not 0 <= value < below:
        raise InputError(f"{where}: expected a whole number from 0 to {below - 1}, got {shown(value)}")
    return value


def _hints(value: object, where: str) -> dict[str, Any]:
    """The parameters of a tensor. Raises InputError for those that may not be passed over."""
    parameters = given(value, where)
    if wanted := next((name for name in NOT_HERE if name in parameters), None):
        raise InputError(f"{where}: {wanted!r} is not offered here")
    return parameters


def write(head: Mapping[str, Any], outputs: Iterable[tuple[str, Array, bool]]) -> tuple[bytes, int | None]:
    """A response: its body, and the length of the JSON in it if anything follows.

    Args:
        head: the fields before `outputs`.
        outputs: name, float or bool [n], whether in binary form.
    """
    described, binary = [], []
    for name, values, as_bytes in outputs:
        datatype, form = ("BOOL", "?") if values.dtype == np.bool_ else ("FP32", "<f4")
        held = np.ascontiguousarray(values, form)
        about = {"name": name, "datatype": datatype, "shape": list(held.shape)}
        if as_bytes:
            binary.append(held.tobytes())
            described.append({**about, "parameters": {"binary_data_size": held.nbytes}})
        else:
            described.append({**about, "data": held})
    # Writes NaN as null, and FP32 in its own shortest digits.
    text = orjson.dumps({**head, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return text + b"".join(binary), len(text) if binary else None


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    """The JSON, and what follows it."""
    if header_length is None:
        return body, b""
    number = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not number or int(header_length) > len(body):
        raise InputError(f"{LENGTH_HEADER}: expected a length of at most {len(body)}, got {shown(header_length)}")
    return body[: int(header_length)], body[int(header_length) :]


def _inputs(entries: list[Any], binary: bytes, known: Mapping[str, Input]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for i, entry in enumerate(entries):
        tensor = given(entry, f"inputs[{i}]")
        spec = _known(tensor.get("name"), f"inputs[{i}]", known)
        if spec.name in found:
            raise InputError(f"inputs: {spec.name} is given twice")
        found[spec.name], binary = _input(tensor, spec, binary)
    if binary:
        raise InputError(f"body: {len(binary)} bytes are left after the last tensor")
    missing = [spec.name for spec in known.values() if not spec.optional and spec.name not in found]
    if missing:
        raise InputError(f"inputs: {missing[0]} is missing")
    return found


def _known(name: object, where: str, known: Mapping[str, Input]) -> Input:
    if not isinstance(name, str) or name not in known:
        raise InputError(f"{where}.name: {shown(name)} is not an input; known: {', '.join(known)}")
    return known[name]


def _input(tensor: dict[str, Any], spec: Input, binary: bytes) -> tuple[Array, bytes]:
    """A tensor's values, and the bytes that are left."""
    if tensor.get("datatype") != spec.datatype:
        raise InputError(f"{spec.name}: expected the datatype {spec.datatype}, got {shown(tensor.get('datatype'))}")
    shape = _shape(tensor.get("shape"), spec)
    count = math.prod(shape)
    size = _hints(tensor.get("parameters", {}), f"{spec.name}.parameters").get("binary_data_size")
    if (size is None) == ("data" not in tensor):
        raise InputError(f"{spec.name}: expected either 'data' or the parameter 'binary_data_size'")
    if size is None:
        values = _flat(a_list(tensor["data"], f"{spec.name}.data"), shape)
        if len(values) != count:
            raise InputError(f"{spec.name}: the shape says {count} values, 'data' has {len(values)}")
        return _FROM_JSON[spec.datatype](values, spec.name), binary
    if type(size) is not int or not 0 <= size <= len(binary):
        raise InputError(f"{spec.name}: binary_data_size is {shown(size)}, the body has {len(binary)} bytes for it")
    return _FROM_BYTES[spec.datatype](binary[:size], count, spec.name), binary[size:]


def _shape(shape: object, spec: Input) -> list[int]:
    """[n], or [n, 1] or [1, n] with the same values in the same order."""
    found = shape if isinstance(shape, list) and all(type(size) is int for size in shape) else []
    if len(found) not in (1, 2) or (len(found) == 2 and 1 not in found):
        raise InputError(f"{spec.name}: expected a shape of one dimension, as [n], [n, 1] or [1, n]")
    count = math.prod(found)
    if min(found) < 0 or not spec.least <= count <= spec.most:
        told = shown(count) if len(found) == 1 else f"[{shown(found[0])}, {shown(found[1])}]"
        raise InputError(f"{spec.name}: expected {spec.least} to {spec.most} values, the shape says {told}")
    return found


def _flat(values: list[Any], shape: list[int]) -> list[Any]:
    """The values row by row; those of two dimensions may be given so, or as a list of rows."""
    rows, *columns = shape
    if (
        not columns
        or len(values) != rows
        or not all(isinstance(row, list) and len(row) == columns[0] for row in values)
    ):
        return values
    return [value for row in values for value in row]


def _texts_from_json(values: list[Any], name: str) -> Array:
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise InputError(f"{name}[{wrong}]: expected text, got {shown(values[wrong])}")
    return _objects([value.encode("utf-8") for value in values])


def _numbers_from_json(values: list[Any], name: str) -> Array:
    for i, value in enumerate(values):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and (abs(value) <= _FLOAT32_MAX or math.isnan(value))):
            raise InputError(f"{name}[{i}]: expected a number that FP32 holds, or null, got {shown(value)}")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def _texts_from_bytes(raw: bytes, count: int, name: str) -> Array:
    found, at = [], 0
    for i in range(count):
        start = at + _LENGTH.size
        if start > len(raw):
            raise InputError(f"{name}[{i}]: its length is cut short")
        at = start + _LENGTH.unpack_from(raw, start - _LENGTH.size)[0]
        if at > len(raw):
            raise InputError(f"{name}[{i}]: {at - start} bytes are announced, {len(raw) - start} are there")
        found.append(raw[start:at])
    if at != len(raw):
        raise InputError(f"{name}: {len(raw) - at} bytes are left after {count} values")
    return _objects(found)


def _numbers_from_bytes(raw: bytes, count: int, name: str) -> Array:
    if len(raw) != 4 * count:
        raise InputError(f"{name}: {count} values of FP32 are {4 * count} bytes, binary_data_size is {len(raw)}")
    return np.frombuffer(raw, "<f4").astype(np.float32)


def _objects(values: list[bytes]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


_FROM_JSON = {"BYTES": _texts_from_json, "FP32": _numbers_from_json}
_FROM_BYTES = {"BYTES": _texts_from_bytes, "FP32": _numbers_from_bytes}


def _outputs(value: object, binary: bool) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for i, entry in enumerate(a_list(value, "outputs")):
        output = given(entry, f"outputs[{i}]")
        name = a_text(output.get("name"), f"outputs[{i}].name")
        if name in found:
            raise InputError(f"outputs: {shown(name)} is asked for twice")
        parameters = _hints(output.get("parameters", {}), f"outputs[{i}].parameters")
        found[name] = a_flag(parameters.get("binary_data", binary), f"outputs[{i}].parameters.binary_data")
    return found
