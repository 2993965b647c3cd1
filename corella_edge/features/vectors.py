"""Text vectors of items: what an item's words say, as numbers that the catalogue's file holds or a text model makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.features.derived import Floats, Ints
from corella_edge.features.schema import TextForm, value_key
from corella_edge.formats.arrays import Array, map_arrays, write_arrays

VECTORS, LAYOUT, NAME = "text.safetensors", "corella-edge text 1", "vectors"
LARGEST_HALF = 65504.0  # of float16
CHUNK = 4096  # rows that are looked at together

# Texts → float32 [n, width], zeros for an empty text.
MakeVectors = Callable[[Sequence[str]], Floats]

# numpy takes arrays without dimensions faster than numbers.
_FRACTION = np.array(13, np.int32)  # bits by which a float32's fraction is longer
_SIGN_AND_VALUE = np.array(-0x70000001, np.int32)  # without the copies of the sign that a wider integer has
_EXPONENT = np.array(2.0**112, np.float32)  # between the exponents of float16 and float32


def item_text(attributes: Mapping[str, Any], names: Iterable[str], form: TextForm) -> str:
    """The words of an item: the values of the named attributes, "" where it has none of them.

    Values of a list are joined by commas, attributes by full stops. In the form "pairs" each attribute's name, with
    spaces for underscores, and a colon precede what it has: an item's flattened key-value text (Recformer, arXiv
    2305.13731).
    """
    found = [(name, text) for name in names if (text := _value_text(attributes.get(name)))]
    if form == "pairs":
        return ". ".join(f"{name.replace('_', ' ')}: {text}" for name, text in found)
    return ". ".join(text for _, text in found)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return (", ".join(map(value_key, value)) if isinstance(value, (list, tuple)) else value_key(value)).strip()


class VectorTable:
    """The catalogue's vectors, float16 [items, width], read as float32."""

    def __init__(self, vectors: Array) -> None:
        self._table, self._unknown = vectors, len(vectors)
        self.width = vectors.shape[1]

    def of(self, rows: Ints) -> Floats:
        """float32 [n, width] of catalogue rows int64 [n]; zeros for an unknown item."""
        if rows.max(initial=-1) < self._unknown:
            return as_float32(self._table.take(rows, 0))
        known = rows < self._unknown
        found = np.zeros((len(rows), self.width), np.float32)
        found[known] = as_float32(self._table.take(rows[known], 0))
        return found


def as_float32(halves: Array) -> Floats:
    """Finite float16 as float32, exactly; five times as fast as `astype`, which converts number by number."""
    # Sign, exponent and fraction go to their places in a float32, whose exponent counts from another number.
    bits = np.ascontiguousarray(halves).view(np.int16).astype(np.int32)
    bits <<= _FRACTION
    bits &= _SIGN_AND_VALUE
    found: Floats = bits.view(np.float32)
    found *= _EXPONENT
    return found


def as_float16(vectors: Array) -> Array:
    """Vectors as the file holds them; numbers that float16 has not are cut at its largest."""
    return np.clip(vectors, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)


def write_vectors(path: Path, vectors: Array) -> None:
    """Write float16 [items, width]."""
    with path.open("wb") as file:
        write_arrays(file, LAYOUT, {NAME: vectors})


def map_vectors(path: Path, items: int) -> Array:
    """What `write_vectors` wrote, mapped.

    Raises:
        BundleError: the file is damaged, holds something else than a vector of finite numbers for each of the `items`.
    """
    arrays = map_arrays(path, LAYOUT)
    found = arrays.get(NAME)
    if found is None or len(arrays) > 1 or found.dtype != np.dtype("<f2") or found.ndim != 2:
        raise BundleError(f"{path.name}: expected one array {NAME!r} of two dimensions in F16")
    if len(found) != items:
        raise BundleError(f"{path.name}: holds vectors of {len(found)} items, the catalogue has {items}")
    for start in range(0, items, CHUNK):
        if not np.isfinite(found[start : start + CHUNK]).all():
            raise BundleError(f"{path.name}: a number from row {start} on is not finite")
    return found
