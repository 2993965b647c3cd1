"""A few candidates routed at random, so that a log of decisions can speak for other policies than its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EXPLORE = "explore"  # the reason of a candidate that is routed at random


def explore(
    chosen: npt.NDArray[np.int64], n: int, share: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Ask about a random `share` of the candidates that the policy would leave to the base model.

    What the policy routes stays routed: no answer gets worse by it.

    Args:
        chosen: int64 [m], ascending places of the n candidates that the policy routes.

    Returns:
        The places of the others that are drawn, int64 [k] ascending, and each candidate's chance of being asked,
        float64 [n].
    """
    propensity = np.full(n, share)
    propensity[chosen] = 1.0
    drawn = rng.random(n) < share
    drawn[chosen] = False
    return np.flatnonzero(drawn), propensity
