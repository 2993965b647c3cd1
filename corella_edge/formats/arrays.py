"""Files of named arrays that processes map into memory and share: the layout of safetensors, written and read by numpy.

    8 bytes   length of the header, little-endian
    header    {"__metadata__": {"layout": "corella-edge vocabulary 1"}, NAME: {"dtype": "U32", "shape": [n],
              "data_offsets": [begin, end]}, …}, JSON in UTF-8, filled up with spaces to a multiple of 8 bytes
    data      the arrays without gaps, little-endian, widest numbers first, so that each lies at a multiple of its width

https://huggingface.co/docs/safetensors says the same; the `safetensors` package opens such a file. Its own numpy loader
copies what it reads, which is why it is not used here.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.formats.strict_json import JsonError, unique

Array = npt.NDArray[Any]
MAX_HEADER = 2**20
DTYPES: dict[str, str] = {
    "BOOL": "|b1", "U8": "|u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I32": "<i4", "I64": "<i8", "F16": "<f2",
    "F32": "<f4",
}  # fmt: skip
_NAMES = {np.dtype(text): name for name, text in DTYPES.items()}


def write_arrays(file: BinaryIO, layout: str, arrays: Mapping[str, Array]) -> None:
    """Write the arrays, whose kinds of number are those of `DTYPES`.

    Args:
        layout: what the arrays are and the version of their form, such as "corella-edge vocabulary 1".
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"layout": layout}}
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        kind = _NAMES[arrays[name].dtype.newbyteorder("<")]
        header[name] = {"dtype": kind, "shape": list(arrays[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(np.ascontiguousarray(arrays[name].astype(DTYPES[header[name]["dtype"]], copy=False)).data)


def map_arrays(path: Path, layout: str, name: str = "") -> dict[str, Array]:
    """The arrays of a file, mapped read-only: nothing is read before it is used, and all processes share one copy.

    Args:
        layout: what the file must be; another version of it is refused by its name.
        name: what errors call the file.

    Raises:
        BundleError: the file cannot be read, is of another layout, or an array does not lie where the header says.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            raw = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: mmap of an empty file
        raise BundleError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    header, start = _header(raw, name)
    found = (header.pop("__metadata__", None) or {}).get("layout")
    if found != layout:
        raise BundleError(
            f"{name}: its layout {str(found)[:80]!r} is not known, this release reads {layout!r}; "
            "use a matching release of corella-edge"
        )
    return _arrays(raw[start:], header, name)


def _header(raw: memoryview, name: str) -> tuple[dict[str, Any], int]:
    """The decoded header and where the data begin."""
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or not 2 <= length <= min(MAX_HEADER, len(raw) - 8) or length % 8:
        raise BundleError(f"{name}: is no file of arrays (its header has no proper length)")
    try:
        header = json.loads(bytes(raw[8 : 8 + length]).decode("utf-8"), object_pairs_hook=unique)
    except (JsonError, ValueError, RecursionError) as error:
        raise BundleError(f"{name}: its header is not JSON ({error})") from None
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__") or {}, dict):
        raise BundleError(f"{name}: its header is not an object")
    return header, 8 + length


def _arrays(data: memoryview, header: Mapping[str, Any], name: str) -> dict[str, Array]:
    """Each array where the header says; together they are the data, without gap or overlap."""
    arrays, spans = {}, [(0, 0)]
    for key, entry in header.items():
        try:
            dtype = np.dtype(DTYPES[entry["dtype"]])
            (begin, end), shape = entry["data_offsets"], entry["shape"]
            whole = all(type(number) is int and number >= 0 for number in (begin, end, *shape))
            shape = tuple(shape)
        except (KeyError, TypeError, ValueError):
            raise BundleError(f"{name}: its array {key[:80]!r} is not described as it should be") from None
        if not whole or end > len(data) or end - begin != math.prod(shape) * dtype.itemsize or begin % dtype.itemsize:
            raise BundleError(f"{name}: its array {key[:80]!r} does not lie within the file as described")
        try:
            arrays[key] = np.frombuffer(data[begin:end], dtype).reshape(shape)
        except (ValueError, OverflowError):  # too many dimensions, or an empty one beside one that is too long
            raise BundleError(f"{name}: its array {key[:80]!r} has a shape that no array can have") from None
        spans.append((begin, end))
    spans.sort()
    if any(a[1] != b[0] for a, b in pairwise(spans)) or spans[-1][1] != len(data):
        raise BundleError(f"{name}: its arrays overlap or leave a gap")
    return arrays
