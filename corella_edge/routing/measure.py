"""How unsure the base model is of a sample: the binary entropy of its probability.

CoReLLa (arXiv 2403.16378, inference): s = -p ln p - (1-p) ln(1-p); a sample whose s is at or above the
threshold is hard, and the LLM's score replaces the CRM's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

LN2 = math.log(2.0)
NEVER = math.inf  # a threshold that no entropy reaches
# numpy takes arrays without dimensions faster than numbers.
_ONE, _MOST = np.array(1.0), np.array(LN2)
_NO_ROWS, _NO_ENTROPIES = np.zeros(0, dtype=np.int64), np.zeros(0)
_LEAST, _LEAST_ABOVE = np.array(5e-324), np.array(math.nextafter(-1.0, 0.0))

Floats = npt.NDArray[np.float64]


def entropy(p: npt.ArrayLike) -> Floats:
    """Binary entropy in nats, elementwise, of probabilities in [0, 1]; 0 at the ends, ln 2 at 0.5."""
    p64 = np.asarray(p, dtype=np.float64)
    negative = -p64
    # 0 * log 0 is nan in floating point and 0 in the definition: the nearest number beside 0 stands for it.
    s: Floats = np.log(np.maximum(p64, _LEAST))
    s *= negative
    other: Floats = np.log1p(np.maximum(negative, _LEAST_ABOVE))
    other *= _ONE + negative
    s -= other
    bounded: Floats = np.minimum(s, _MOST)  # rounding may pass ln 2 by one ulp
    return bounded


def is_routed(s: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """bool, shape of `s`: the routing rule itself. `NEVER` routes nothing, 0 everything."""
    return np.greater_equal(s, threshold)


def routed_rows(p: Floats, threshold: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Places int64 [m] of the probabilities float64 [n] that are routed, and their entropies float64 [m].

    Where nothing can be routed, no entropy is computed.
    """
    if threshold > LN2:
        return _NO_ROWS, _NO_ENTROPIES
    s = entropy(p)
    rows = is_routed(s, threshold).nonzero()[0]
    return rows, s[rows]
