"""When requests are sent and which: decided beforehand, whatever the server does. Pure functions of a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments in [0, `seconds`) of a Poisson stream of `rate` a second, ascending."""
    rng = np.random.default_rng([seed, 11])
    # Given their number, the arrivals of a Poisson stream are independent and uniform.
    moments: list[float] = np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds))).tolist()
    return moments


def fixed(rate: float, seconds: float) -> list[float]:
    """Moments in [0, `seconds`) with the same gap between all of them."""
    return [number / rate for number in range(math.ceil(rate * seconds))]


def merged(*streams: tuple[Sequence[float], Sequence[int]]) -> tuple[list[float], list[int]]:
    """Several streams of (moments, which request is sent at each) as one, ascending; equal moments keep their order."""
    moments = np.concatenate([np.asarray(moments, np.float64) for moments, _ in streams])
    which = np.concatenate([np.asarray(which, np.int64) for _, which in streams])
    order = np.argsort(moments, kind="stable")
    return moments[order].tolist(), which[order].tolist()


def in_turn(count: int, of: int, first: int = 0) -> list[int]:
    """`count` places among `of` requests that begin at `first`, each as often as any other."""
    return [first + number % of for number in range(count)]
