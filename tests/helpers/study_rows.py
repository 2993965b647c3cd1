"""Made-up scores for tests of the study: an LLM that knows something the CRM does not, some rows without text."""

from __future__ import annotations

import numpy as np

from corella_edge_export.evaluation.scored import Floats, ScoredRows, ScoredSplits


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def rows(n: int = 600, users: int = 25, seed: int = 0, silent: float = 0.05) -> ScoredRows:
    """`silent` is the share of rows that the LLM has no score for; a few CRM scores are equal."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    crm = np.round(sigmoid(truth + rng.normal(size=n)), 3)
    llm = sigmoid(truth + 0.8 * rng.normal(size=n) + 0.2)
    owner = rng.integers(0, users, n).astype(np.int64)
    return ScoredRows(
        base=sigmoid(truth + 1.1 * rng.normal(size=n)), crm=np.clip(crm, 0.001, 0.999),
        llm=np.where(rng.random(n) < silent, np.nan, llm),
        labels=(rng.random(n) < sigmoid(1.5 * truth)).astype(np.int8), users=owner, seen=owner % 4 == 0,
    )  # fmt: skip


def pair(n: int = 600, seed: int = 0, silent: float = 0.05) -> ScoredSplits:
    return ScoredSplits(rows(n, seed=2 * seed, silent=silent), rows(n + 50, seed=2 * seed + 1, silent=silent))
