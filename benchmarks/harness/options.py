"""Options that several benchmarks have: lists between commas, and whether their words are known."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from corella_edge.errors import InputError


def words(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(word for word in text.split(",") if word)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(map(int, words(text)))


def fractions(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(map(float, words(text)))


def check_words(options: argparse.Namespace, known: Mapping[str, Sequence[str]]) -> None:
    """Raises InputError if a list of words, where it is given, holds one that is not known."""
    for option, allowed in known.items():
        for word in getattr(options, option) or ():
            if word not in allowed:
                raise InputError(f"--{option} {word!r}: known are {', '.join(allowed)}")
