"""Which samples the LLM is asked about: binary entropy of the CRM's probability against a threshold.

CoReLLa (arXiv 2403.16378, inference): s = -p ln p - (1-p) ln(1-p); a sample whose s is at or above the
threshold is hard, and the LLM's score replaces the CRM's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError

LN2 = math.log(2.0)
RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
NEVER = math.inf
# numpy takes arrays without dimensions faster than numbers.
_ONE, _MOST = np.array(1.0), np.array(LN2)
_NONE = np.zeros(0, dtype=np.int64)
_LEAST, _LEAST_ABOVE = np.array(5e-324), np.array(math.nextafter(-1.0, 0.0))

Floats = npt.NDArray[np.float64]


def entropy(p: npt.ArrayLike) -> Floats:
    """Binary entropy in nats, elementwise, of probabilities in [0, 1]; 0 at the ends, ln 2 at 0.5."""
    p64 = np.asarray(p, dtype=np.float64)
    negative = -p64
    # 0 * log 0 is nan in floating point and 0 in the definition: the nearest number beside 0 stands for it.
    s: Floats = negative * np.log(np.maximum(p64, _LEAST))
    s -= (_ONE + negative) * np.log1p(np.maximum(negative, _LEAST_ABOVE))
    bounded: Floats = np.minimum(s, _MOST)  # rounding may pass ln 2 by one ulp
    return bounded


def is_routed(s: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """bool, shape of `s`: the routing rule itself. `NEVER` routes nothing, 0 everything."""
    return np.greater_equal(s, threshold)


def routed_rows(s: Floats, threshold: float) -> npt.NDArray[np.int64]:
    """int64 [m]: places of the entropies float64 [n] that are routed."""
    return _NONE if threshold > LN2 else is_routed(s, threshold).nonzero()[0]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A resolved threshold: `nats` (a sample is routed iff entropy >= nats) and how it was asked for."""

    nats: float
    unit: str  # "entropy" or "ratio": the `reason` shown on routed candidates


class Calibration:
    """Entropies of held-out samples, as quantiles: turns a wanted routed share into a threshold.

    `shares` ascend from 0 to 1; `thresholds[i]` routes `shares[i]` of the calibration rows, up to ties
    (rows of equal entropy stay together).
    """

    def __init__(self, shares: Sequence[float], thresholds: Sequence[float]) -> None:
        """Raises ValueError unless there is one threshold a share, shares rise and thresholds do not."""
        self.shares = np.asarray(shares, dtype=np.float64)
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        if self.shares.ndim != 1 or self.shares.shape != self.thresholds.shape or len(self.shares) < 2:
            raise ValueError("as many thresholds as shares are needed, at least 2")
        rising = (self.shares[1:] > self.shares[:-1]).all() and (self.thresholds[1:] <= self.thresholds[:-1]).all()
        if not rising:
            raise ValueError("shares must rise and thresholds must not")

    @classmethod
    def fit(cls, s: Floats, points: int = 1001) -> Calibration:
        """From entropies float64 [n] of calibration rows."""
        shares = np.linspace(0.0, 1.0, points)
        hardest = np.sort(s)[::-1]
        return cls(shares.tolist(), [_threshold_at(hardest, share) for share in shares])

    def threshold(self, share: float) -> float:
        """The entropy at or above which about `share` of such traffic lies; 0 = never, 1 = always."""
        if share <= 0.0:
            return NEVER
        if share >= 1.0:
            return 0.0
        return float(np.interp(share, self.shares[1:], self.thresholds[1:]))


def threshold_for(s: Floats, share: float) -> float:
    """The threshold that routes the `share` hardest of the rows with entropies `s` (ties go together)."""
    return _threshold_at(np.sort(s)[::-1], share)


def _threshold_at(hardest: Floats, share: float) -> float:
    """`threshold_for` of entropies in falling order."""
    if share <= 0.0:
        return NEVER
    if share >= 1.0:
        return 0.0
    count = max(1, round(share * len(hardest)))
    return float(hardest[count - 1])


@lru_cache(256, typed=True)
def parse_threshold(value: float | str, calibration: Calibration | None) -> Threshold:
    """`0.65` (nats) or `"ratio:0.05"` (routed share, by the bundle's calibration) as a `Threshold`.

    Raises:
        InputError: not a number, out of [0, ln 2] or [0, 1], or a ratio without a calibration.
    """
    text = str(value).strip()
    if text.startswith("ratio:"):
        share = parse_share(text.removeprefix("ratio:"))
        if calibration is None and 0.0 < share < 1.0:
            raise InputError(f"threshold: {text} needs a calibrated bundle; give an entropy in nats instead")
        nats = calibration.threshold(share) if calibration else threshold_for(np.zeros(1), share)
        return Threshold(nats, "ratio")
    nats = _float(text, "threshold", f"an entropy from 0 to {LN2:.4f} nats, or ratio:SHARE")
    if not 0.0 <= nats <= LN2:
        hint = f"ratio:{text}" if 0.0 <= nats <= 1.0 else "ratio:SHARE, 0 to 1"
        raise InputError(f"threshold: {text} is not an entropy (0 to {LN2:.4f} nats); for a share write {hint}")
    return Threshold(nats, "entropy")


def parse_share(text: str) -> float:
    """A routed share from 0 to 1."""
    share = _float(text, "ratio", "a share from 0 to 1")
    if not 0.0 <= share <= 1.0:
        raise InputError(f"ratio: {text} is not a share from 0 to 1")
    return share


def _float(text: str, name: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InputError(f"{name}: {text[:40]!r} is not {expected}")
    return number
