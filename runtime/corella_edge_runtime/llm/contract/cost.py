"""What the LLM's work costs in time: seconds = per_decode · decodes + per_token · tokens, learned while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping

# After one more observation an old one counts so much of what it did.
FADE = 0.9
# In less than so much of what was expected: what was known is out of date, and fades at once. Nothing can be computed
# in less time than it takes, while anything can take longer.
QUICK = 0.5
# Longer than so many times what was expected is a process that was paused: the rest of it teaches nothing.
MOST = 3.0
# Where decodes are too alike to tell the two costs apart, a decode is taken for so many tokens.
ALIKE = 64.0
_FAINT = 0.01  # how much that assumption weighs against one observation
# What was learned so long ago may be out of date: an idle LLM that seems too slow is tried once again.
TRIAL = 1.0


class Cost:
    """Least squares of recent observations, neither cost below zero.

    Every observation weighs the same, however large.

    Attributes:
        per_decode, per_token: seconds; 0 until something is known.
        learned: when it was learned last, as passed in.
    """

    def __init__(self) -> None:
        self.per_decode = self.per_token = 0.0
        self.learned = -math.inf
        # Sums over observations of decodes², decodes·tokens, tokens², decodes·seconds, tokens·seconds.
        self._sums: tuple[float, ...] = (0.0,) * 5

    @property
    def known(self) -> bool:
        return self.per_decode + self.per_token > 0.0

    def stale(self, now: float) -> bool:
        return now - self.learned > TRIAL

    def seconds(self, decodes: float, tokens: float) -> float:
        """What so much work takes; 0 while nothing is known."""
        return self.per_decode * decodes + self.per_token * tokens

    def tokens(self, seconds: float) -> float:
        """Most tokens of one decode that takes no longer than `seconds`; inf if tokens cost nothing."""
        left = seconds - self.per_decode
        if left <= 0.0:
            return 0.0
        return left / self.per_token if self.per_token else math.inf

    def learn(self, decodes: float, tokens: float, seconds: float, now: float) -> None:
        """One observation; nothing is learned from one without a whole decode."""
        if not (decodes >= 1.0 and tokens >= 1.0 and 0.0 < seconds < math.inf):
            return
        expected = self.seconds(decodes, tokens)
        told = min(seconds, MOST * expected) if expected else seconds
        fade = FADE if told > QUICK * expected else FADE * told / expected
        size = ALIKE * decodes + tokens
        d, t, s = decodes / size, tokens / size, told / size
        new = (d * d, d * t, t * t, d * s, t * s)
        self._sums = tuple(fade * old + part for old, part in zip(self._sums, new, strict=True))
        self.per_decode, self.per_token = _solve(*self._sums)
        self.learned = now


def _solve(dd: float, dt: float, tt: float, ds: float, ts: float) -> tuple[float, float]:
    """The two costs ≥ 0 that fit the sums best."""
    # The assumption per_decode = ALIKE · per_token, as one more row (1 / ALIKE, -1) → 0.
    dd, dt, tt = dd + _FAINT / ALIKE**2, dt - _FAINT / ALIKE, tt + _FAINT
    determinant = dd * tt - dt * dt
    per_decode, per_token = (ds * tt - ts * dt) / determinant, (ts * dd - ds * dt) / determinant
    if per_decode < 0.0:
        return 0.0, ts / tt
    if per_token < 0.0:
        return ds / dd, 0.0
    return per_decode, per_token


class Meter:
    """Counters of a backend, as they arrive → observations."""

    def __init__(self) -> None:
        self._last: tuple[float, ...] | None = None
        self.renewed = False

    def read(self, stats: Mapping[str, float]) -> tuple[float, float, float] | None:
        """Decodes, tokens and seconds since the last that was returned; None if there is nothing to learn from them.

        `renewed` then tells whether the counters started at 0 again, as they do with every process.
        """
        names = ("decodes", "evaluated_tokens", "busy_seconds", "aborted", "errors")
        now = tuple(stats.get(name, 0.0) for name in names)
        last, self._last = self._last, now
        self.renewed = last is not None and any(a < b for a, b in zip(now, last, strict=True))
        if last is None or self.renewed:
            return None
        decodes, tokens, seconds, aborted, errors = (a - b for a, b in zip(now, last, strict=True))
        if decodes == aborted == errors == 0.0:
            self._last = last
        # Decodes that were given up or failed took time, and are not among those counted.
        return None if aborted or errors or not decodes else (decodes, tokens, seconds)
