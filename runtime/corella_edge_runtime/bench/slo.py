"""From a benchmark of this machine to what a latency objective leaves for the LLM: `corella-edge plan`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.bundle.files import read_json
from corella_edge.errors import BundleError, InputError
from corella_edge.routing.load import (
    Box,
    Correlations,
    Draws,
    Load,
    Reached,
    correlation_of_touched,
    costs,
    largest_share,
    reached,
)

FORMAT = 1
_Z99 = 2.3263  # of the normal distribution
LEAST_REQUESTS = 20  # of a measured share, below which it teaches nothing
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark says of a machine.

    Attributes:
        cold, warm: costs of a request of a user whose prompt's beginning is not kept, and is.
        correlations: within a request, of being asked, by share.
        ratios, shares: float64 [k], ascending: the shares asked for, and those that came of it.
    """

    cold: Box
    warm: Box
    correlations: Correlations
    ratios: tuple[float, ...]
    shares: tuple[float, ...]

    def share(self, ratio: float) -> float:
        """What `ratio:…` comes to on the benchmark's requests."""
        return float(np.interp(ratio, self.ratios, self.shares))

    def ratio(self, share: float) -> float:
        """The `ratio:…` that comes to a share there."""
        return float(np.interp(share, self.shares, self.ratios))


@dataclass(frozen=True, slots=True)
class Answer:
    """For users of one kind: the largest share that holds and what it comes to (None: not even share 0 holds), the
    base model alone, and the policy asked about."""

    share: float | None
    best: Reached | None
    alone: Reached
    policy: Reached | None


def read_result(path: Path) -> dict[str, Any]:
    """`benchmark.json`, as `corella-edge benchmark --out` wrote it.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        found = read_json(path)
    except BundleError as error:
        raise InputError(f"--benchmark {path}: {error}") from None
    if found.get("format") != FORMAT or not isinstance(found.get("ratios"), list):
        raise InputError(f"--benchmark {path}: not a benchmark.json of `corella-edge benchmark --out`")
    return found


def measured(result: Mapping[str, Any]) -> Measured:
    """The costs and the correlation that fit a benchmark's figures.

    Raises:
        InputError: too little was measured: it takes share 0 and at least two shares above it.
    """
    try:
        rows = sorted(result["ratios"], key=lambda row: float(row["ratio"]))
        return _measured(rows, result["ceiling"].get("llm_tokens_per_s"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--benchmark: a figure is missing or wrong ({error!r}); measure again") from None


def _measured(rows: Sequence[Row], speed: float | None) -> Measured:
    alone = next((row for row in rows if not row["share"]), None)
    hit = [row for row in rows if row["share"] > 0.0 and row["requests"] >= LEAST_REQUESTS]
    if alone is None or len(hit) < 2:
        raise InputError(f"--benchmark: it takes ratio 0 and two ratios above it, of {LEAST_REQUESTS} requests each; "
                         "measure with --ratios 0,0.05,0.2,1")  # fmt: skip
    crm = alone["request_ms"]
    noise, llm_noise = _spread(crm), _spread_of_llm(hit[-1], crm["p50"])
    touched = np.array([1.0 - row["unrouted"]["requests"] / row["requests"] for row in hit])
    asked = np.array([row["share"] * row["candidates"] / row["requests"] for row in hit])
    seconds = np.array([max(0.0, row["request_ms"]["mean"] - crm["mean"]) / 1000.0 for row in hit])
    tokens = np.array([float(row["llm_tokens_per_request"]) for row in hit])
    # Log-normal times have a mean above their median.
    prefix, suffix = (cost * math.exp(-0.5 * llm_noise**2) for cost in costs(touched, asked, seconds))
    kept = costs(touched, asked, tokens)[0] / speed if speed else 0.0
    boxes = [Box(crm["p50"] / 1000.0, first, suffix, noise, llm_noise) for first in (prefix, max(0.0, prefix - kept))]
    shares = np.maximum.accumulate([row["share"] for row in rows])
    return Measured(boxes[0], boxes[1], _correlations(hit, touched), tuple(float(row["ratio"]) for row in rows),
                    tuple(shares.tolist()))  # fmt: skip


def _spread(ms: Mapping[str, float]) -> float:
    """Standard deviation of the logarithm of times, from their median and 99th percentile."""
    return max(0.0, math.log(ms["p99"] / ms["p50"]) / _Z99) if ms["p50"] > 0.0 else 0.0


def _spread_of_llm(row: Row, crm: float) -> float:
    """Of the LLM's part, where all is asked; nothing tells it from the number asked elsewhere."""
    rest = {name: max(1e-6, row["request_ms"][name] - crm) for name in ("p50", "p99")}
    return _spread(rest) if row["ratio"] >= 1.0 else 0.0


def _correlations(rows: Sequence[Row], touched: np.ndarray[Any, Any]) -> Correlations:
    """By the requests that were touched at each share at which not nearly all are."""
    found = {
        float(row["share"]): correlation_of_touched(
            row["share"], round(row["candidates"] / row["requests"]), float(seen)
        )
        for row, seen in zip(rows, touched, strict=True)
        if 0.0 < row["share"] < 0.9
    }
    return tuple(sorted(found.items()))


def answer(box: Box, load: Load, objective: tuple[str, float], share: float | None, draws: Draws) -> Answer:
    """The largest share that keeps an objective, and whether a policy's own `share` does."""
    best = largest_share(box, load, *objective, draws)
    return Answer(
        best, None if best is None else reached(box, load, best, draws), reached(box, load, 0.0, draws),
        None if share is None else reached(box, load, share, draws),
    )  # fmt: skip
