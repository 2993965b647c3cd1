"""Fits monotone maps on labelled rows: lines in log-odds by maximum likelihood, isotonic by least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import fit_agreeing, logit
from corella_edge.routing.maps import IDENTITY, Map, Maps, PlattScaling, Steps

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
CORNERS = 200  # of an isotonic map, at most
LEAST_SLOPE = 1e-3  # of a line that has to keep an order


def fit_maps(rows: LabelledRows, routed: Mask, kind: str) -> Maps:
    """One kind of map for both models, of the routed rows bool [n] for fusion, and of all for the base model alone.

    `routed` rows need an answer of the LLM; each stands for as many as the inverse of its propensity says. Where the
    base model stands alone, its map keeps its order (`ordered`).
    """
    label, weight = rows.label[routed], rows.weight[routed]
    return Maps(
        fit_map(kind, rows.crm[routed], label, weight), fit_map(kind, rows.llm[routed], label, weight),
        ordered(kind, rows.crm, rows.label),
    )  # fmt: skip


def ordered(kind: str, p: Floats, label: Floats) -> Map:
    """As `fit_map`, but unequal probabilities stay unequal: the steps of an isotonic map would tie candidates that
    nobody else puts in order, so a line (Platt) stands in for it, and no line is level."""
    found = fit_map("platt" if kind == "isotonic" else kind, p, label)
    return replace(found, slope=max(found.slope, LEAST_SLOPE)) if isinstance(found, PlattScaling) else found


def fit_map(kind: str, p: Floats, label: Floats, weight: Floats | None = None) -> Map:
    """A map of probabilities float64 [n] to the chance of a positive label (0 or 1), float64 [n]; without rows of both
    classes none. `kind`: one of `maps.KINDS`. `weight`: float64 [n], how much a row counts; None = all the same."""
    if kind == "none" or len(np.unique(label)) < 2:
        return IDENTITY
    each = np.ones(len(p)) if weight is None else weight
    return isotonic(p, label, each) if kind == "isotonic" else _line(p, label, each, kind == "platt")


def _line(p: Floats, label: Floats, each: Floats, shifted: bool) -> PlattScaling:
    """The slope and, if `shifted`, the shift of the least log-loss; a slope below 0 becomes 0."""
    odds = logit(p)
    first = np.ones(len(p)) if shifted else np.zeros(len(p))  # a column of zeros keeps the weight 0
    shift, slope = fit_agreeing(np.stack([first, odds], axis=1), label > 0, None, each).tolist()
    return PlattScaling(slope, shift)


def isotonic(p: Floats, label: Floats, each: Floats | None = None) -> Steps:
    """Isotonic regression (pool adjacent violators), as a polygon through both ends of every block.

    Rows of equal probability are one; `each` float64 [n] says how much a row counts. No chance is taken for certain:
    none lies beyond 1 / (n + 2) from either end (Laplace's rule of succession for n rows without an exception).
    """
    xs, place = np.unique(p, return_inverse=True)
    mass = np.ones(len(p)) if each is None else each
    weight = np.bincount(place, weights=mass).astype(np.float64, copy=False)
    blocks = pooled(np.bincount(place, weights=label * mass) / weight, weight)
    ends = np.cumsum([size for _, size in blocks])
    heights = np.clip([mean for mean, _ in blocks], 1.0 / (len(p) + 2), 1.0 - 1.0 / (len(p) + 2))
    corners: dict[float, float] = {}
    for last, (_, size), height in zip(ends.tolist(), blocks, heights.tolist(), strict=True):
        corners[float(xs[last - size])] = corners[float(xs[last - 1])] = height
    return _thinned(np.array(list(corners)), np.array(list(corners.values())))


def pooled(means: Floats, weights: Floats) -> list[tuple[float, int]]:
    """Blocks of (mean, how many of the given points): the rising steps nearest to the means in weighted squares."""
    blocks: list[tuple[float, float, int]] = []
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        at, mass, size = mean, weight, 1
        while blocks and blocks[-1][0] >= at:
            before, more, count = blocks.pop()
            at, mass, size = (before * more + at * mass) / (more + mass), more + mass, size + count
        blocks.append((at, mass, size))
    return [(at, size) for at, _, size in blocks]


def _thinned(xs: Floats, ys: Floats) -> Steps:
    """At most `CORNERS` of the corners, both ends among them."""
    kept = np.unique(np.linspace(0, len(xs) - 1, CORNERS).round().astype(np.int64)) if len(xs) > CORNERS else ...
    return Steps(tuple(xs[kept].tolist()), tuple(np.maximum.accumulate(ys[kept]).tolist()))
