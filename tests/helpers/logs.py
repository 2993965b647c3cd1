"""Labelled logs of a made-up world: what the base model and the LLM know of it, and how unsure the former is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from corella_edge.routing.gate import NEW_ITEM
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import sigmoid

DAY = 86_400.0


def labelled_log(
    requests: int = 300,
    candidates: int = 10,
    users: int = 60,
    *,
    helps: float = 1.5,
    known: float = 1.0,
    seed: int = 0,
    skew: float = 0.0,
) -> LabelledRows:
    """One row a candidate. An outcome follows two hidden traits; the base model sees one, the LLM both.

    The second trait weighs the more the less the first says, so that asking pays where the base model is unsure.

    Args:
        helps: weight of the trait that only the LLM sees; 0 makes the LLM as good as the base model.
        known: chance with which the LLM's score is taken down.
        skew: added to the log-odds of an outcome.
    """
    rng = np.random.default_rng(seed)
    n = requests * candidates
    seen, hidden = rng.normal(0, 1.5, n), rng.normal(0, 1, n)
    odds = seen + helps * hidden * np.exp(-(seen**2)) + skew
    request = np.repeat(np.arange(requests), candidates)
    owner = rng.integers(0, users, requests)[request]
    told = rng.random(n) < known
    return LabelledRows(
        request=np.array([f"r{i}" for i in request], dtype=np.object_),
        user=np.array([f"u{i}" for i in owner], dtype=np.object_),
        item=np.array([f"i{i}" for i in rng.integers(0, 200, n)], dtype=np.object_),
        time=1.7e9 + np.repeat(np.sort(rng.random(requests)) * 30 * DAY, candidates),
        label=(rng.random(n) < sigmoid(odds)).astype(np.float64),
        crm=sigmoid(seen + skew),
        llm=np.where(told, sigmoid(odds), np.nan),
        propensity=np.full(n, known),
        inputs={"popularity": rng.random(n), "kept": sigmoid(odds + rng.normal(0, 0.5, n))},
    )


def uneven_log(requests: int = 800, candidates: int = 10, users: int = 120, seed: int = 0) -> LabelledRows:
    """As `labelled_log`, with an LLM that knows popular items and guesses at the others: what a gate can find out."""
    rows, rng = labelled_log(requests, candidates, users, helps=2.0, seed=seed), np.random.default_rng([seed, 1])
    popularity = rng.uniform(0, 8, len(rows))
    guess = sigmoid(rng.normal(0, 1.5, len(rows)))
    inputs = {"popularity": popularity, "history": rng.integers(0, 60, len(rows)).astype(np.float64)}
    return replace(rows, llm=np.where(popularity > 4, rows.llm, guess), inputs=inputs)


def new_item_log(requests: int = 400, candidates: int = 10, users: int = 80, *, seed: int = 0,
                 share: float = 0.3, knows: float = 0.0) -> LabelledRows:  # fmt: skip
    """As `labelled_log`, with a share of new items, of which the LLM knows a part: 0 is nothing, 1 as of the others."""
    rows, rng = labelled_log(requests, candidates, users, helps=2.0, seed=seed), np.random.default_rng([seed, 2])
    new = rng.random(len(rows)) < share
    guess = np.where(rng.random(len(rows)) < knows, rows.llm, sigmoid(rng.normal(0, 2, len(rows))))
    return replace(rows, llm=np.where(new, guess, rows.llm), inputs={NEW_ITEM: new.astype(np.float64)})
