"""Options that several benchmarks have: lists between commas, whether their words are known, and a fusion rule."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from corella_edge.errors import InputError
from corella_edge.routing.fit import choose
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.policy import Policy

FUSIONS = ("replace", "blend", "best")  # of `--fusion`


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


def fusion(name: str, earlier: LabelledRows) -> Fusion:
    """The rule of `--fusion`; `best`: that of the lowest log-loss out of fold on the earlier rows if all are asked."""
    return choose(earlier, Policy(threshold=0.0)).policy.fusion if name == "best" else Fusion(name)
