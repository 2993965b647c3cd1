"""What the base model knows of an item, as a few digits in its question: a binary code of its vector, in dot-decimal.

The idea is BinLLM's (arXiv 2406.03210), which learns the bits while a matrix factorisation trains. Here they are read
off the base model after stage 1, whatever its family: an item's vector is what the model adds up of its id, its
attributes and its words (`FieldsModel.item_vectors`), and

    bit k of item i = 1 where w_k . (v_i - m) > median over items j with training rows of w_k . (v_j - m)

with the mean m and the principal directions w_1, w_2, … of the vectors of those items. So each bit parts the known
items in halves, and items that share the first number are alike in what varies most. The code is an attribute of the
catalogue, `code`: a bundle carries it in catalog.jsonl, and prompts are cached as ever.

An item without training rows has no id that says anything. Where the base model reads words ([crm.text]) its code is
that of its words and attributes; else it has none. An item without a code has nothing where the code stands, as with
any attribute that it lacks; so has every item that comes after the export. Training leaves the code out at a share of
the places, so that both forms are known.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import CODE, Catalog

Codes = list[str | None]  # of each catalogue row
Floats = npt.NDArray[np.float64]
FLAT = 1e-9  # of the greatest variance: what is below is rounding


def item_codes(vectors: Floats, known: npt.NDArray[np.bool_], bits: int, words: bool) -> Codes:
    """Every catalogue row's code of so many bits.

    Args:
        vectors: float64 [items, at least `bits`], of the base model. known: bool [items], those with training rows.
        words: the vectors of items without training rows say something.
    """
    texts = dotted(binary(vectors, known, bits))
    return [text if there else None for text, there in zip(texts, (known | words).tolist(), strict=True)]


def binary(vectors: Floats, known: npt.NDArray[np.bool_], bits: int) -> npt.NDArray[np.bool_]:
    """bool [n, bits] of vectors [n, width]; bit 0 is that of the direction in which those of `known` vary most.

    The direction's sign is the one that makes its greatest component positive, so that the same vectors give the same
    code on every machine; a bit in whose direction they do not vary is 0.
    """
    apart = vectors - vectors[known].mean(axis=0)
    spread, directions = np.linalg.eigh(apart[known].T @ apart[known])
    spread, directions = spread[::-1][:bits], directions[:, ::-1][:, :bits]
    strongest = directions[np.abs(directions).argmax(axis=0), np.arange(bits)]
    along = apart @ (directions * np.sign(strongest))
    return np.asarray((along > np.median(along[known], axis=0)) & (spread > FLAT * spread[0]))


def dotted(bits: npt.NDArray[np.bool_]) -> list[str]:
    """bool [n, 8 k] → k numbers from 0 to 255 with dots between, such as "172.16"; the first bit weighs most."""
    return [".".join(map(str, row)) for row in np.packbits(bits, axis=1).tolist()]


def stand_ins(items: Iterable[str], bits: int) -> Codes:
    """Codes of the right form that say nothing: what a tokenizer learns from before there are any."""
    bytes_of = (zlib.crc32(item.encode()).to_bytes(4, "big") * (1 + bits // 32) for item in items)
    return [".".join(map(str, value[: bits // 8])) for value in bytes_of]


def with_codes(catalog: Catalog, codes: Sequence[str | None]) -> Catalog:
    """The catalogue with the attribute `code`; its vectors are the same."""
    attributes: list[Mapping[str, Any]] = [
        {**known, CODE: code} for known, code in zip(catalog.attributes, codes, strict=True)
    ]
    found = Catalog(catalog.ids, attributes)
    found.vectors = catalog.vectors
    return found
