"""Published rules for whom to ask the LLM about, to hold a policy against: each orders the same labelled rows.

The margin has no line of its own, nor has an isotonic map of it (UCCI, arXiv 2605.18796): of one probability both order
rows as the entropy does. Disagreement (LSC4Rec, arXiv 2501.05647) takes answers that were kept from earlier, which
rows of a sample do not have; it is a measure of `measure`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from corella_edge.errors import InputError
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.gate_fit import STRENGTHS, AnsweredRows, folds, out_of_fold, usable
from corella_edge.routing.labelled import Floats, LabelledRows
from corella_edge.routing.measure import BY_ENTROPY

ENTROPY = "entropy"


@dataclass(frozen=True, slots=True)
class PublishedRule:
    """One rule.

    Attributes:
        said: which rows it asks about first.
        source: its authors' name for it, and the paper.
        values: rows that all have the LLM's answer, and how both scores become one → float64 [n], the larger the
            earlier the LLM is asked; None where such rows do not tell.
    """

    said: str
    source: str
    values: Callable[[LabelledRows, Fusion], Floats | None]


def _entropies(rows: LabelledRows, rule: Fusion) -> Floats:
    return BY_ENTROPY(rows.crm)


def _rarities(rows: LabelledRows, rule: Fusion) -> Floats | None:
    """Fewest training rows first; an item whose count is unknown comes with those that have none."""
    counts = rows.inputs.get("popularity")
    if counts is None or "popularity" not in usable(rows.inputs):
        return None
    rarities: Floats = -np.nan_to_num(counts, nan=0.0)
    return rarities


def _predicted(kind: str) -> Callable[[LabelledRows, Fusion], Floats | None]:
    """What a gate of this kind (`gate.Gate`) predicts of each row, fitted on the other users' rows."""

    def values(rows: LabelledRows, rule: Fusion) -> Floats | None:
        try:
            asked = AnsweredRows.of(rows, rule)
            return out_of_fold(asked, kind, STRENGTHS[0], usable(asked.inputs), folds(asked, np.random.default_rng(0)))
        except InputError:  # too few rows, or none in which an answer makes a difference
            return None

    return values


RULES = {
    ENTROPY: PublishedRule("those of the highest entropy", "CoReLLa, arXiv 2403.16378", _entropies),
    "rare items": PublishedRule(
        "items with the fewest training rows", "confidence by counts, arXiv 2603.09947", _rarities
    ),
    "learned win": PublishedRule(
        "those where the LLM's answer is most likely the better one, predicted",
        "RouteLLM, arXiv 2406.18665",
        _predicted("logistic"),
    ),
    "learned gain": PublishedRule(
        "those where asking is predicted to lower the log-loss most",
        "Calibrate-Then-Delegate, arXiv 2604.14251",
        _predicted("ridge"),
    ),
}


def orders(rows: LabelledRows, rule: Fusion) -> dict[str, Floats]:
    """float64 [n] by name of the rule, of those that these rows tell: the larger, the earlier the LLM is asked."""
    asked = rows.take(rows.known)
    told = {name: one.values(asked, rule) for name, one in RULES.items()} if len(asked) else {}
    return {name: _among_all(values, rows) for name, values in told.items() if values is not None}


def _among_all(values: Floats, rows: LabelledRows) -> Floats:
    """Rows without an answer come last."""
    found = np.full(len(rows), -np.inf)
    found[rows.known] = values
    return found
