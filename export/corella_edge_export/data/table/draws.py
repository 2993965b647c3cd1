"""Random numbers in SQL that depend on a seed and on keys alone, never on threads, memory or the order of rows."""

from __future__ import annotations

from hashlib import blake2b

BITS = 62


def draw(seed: int, purpose: str, *keys: str) -> str:
    """SQL of an unsigned number below 2 ** 62, evenly distributed over rows with different keys.

    DuckDB's `hash` mixes 64 bits; a test holds the values that it gives. Draws for different purposes, or with
    different seeds, have nothing to do with each other.

    Args:
        keys: SQL of whole numbers.
    """
    salt = int.from_bytes(blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest())
    state = f"{salt}::UBIGINT"
    for key in keys:
        state = f"hash(xor({state}, hash(({key})::BIGINT)))"
    return f"({state} >> {64 - BITS})"
