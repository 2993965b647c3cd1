"""What is tuned, what may be chosen, and who wins. Pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

# A challenger must be faster by more than this, else what was there stays: the choice is the same next time.
MARGIN = 0.03
SURE = 0.95
# The INT8 CRM must be worth its loss of accuracy.
INT8_MARGIN = 0.10
# Most that a variant may lose against the trained model on the bundle's held-out rows.
AUC_LOSS = 0.001
LOGLOSS_RISE = 0.002
NDCG_LOSS = 0.001  # of NDCG@10, where the model learns which item comes next
BATCHES = (256, 1024, 128, 64)


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the LLM: the variant's file, its threads, most tokens a decode."""

    file: str
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.file}, {self.threads} thread(s), batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Duel:
    """Two alternatives measured in turns.

    Attributes:
        challenger, incumbent: what they are.
        ms: workload → median milliseconds of the challenger and of the incumbent.
        ratios: of each turn, challenger / incumbent, the geometric mean over the workloads; empty if one cannot run.
        note: why there are no figures.
    """

    challenger: str
    incumbent: str
    ms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ratios: tuple[float, ...] = ()
    note: str = ""

    def won(self, margin: float = MARGIN) -> bool:
        """Whether the challenger is surely faster by more than `margin`."""
        return bool(self.ratios) and upper(self.ratios) < 1.0 - margin

    def to_json(self, margin: float) -> dict[str, Any]:
        figures = {"turns": len(self.ratios), "won": self.won(margin), "note": self.note}
        if self.ratios:
            figures |= {"ratio": median(self.ratios), "ratio_upper": upper(self.ratios)}
        ms = {name: list(both) for name, both in self.ms.items()}
        return {"challenger": self.challenger, "incumbent": self.incumbent, "ms": ms, **figures}


def upper(ratios: Sequence[float]) -> float:
    """Upper end of the one-sided 95 % interval of their median, by the sign test; of up to five the largest.

    The count of values below the true median is binomial: the value at that distribution's 95 % point is the end.
    """
    ordered, below = sorted(ratios), 0
    for place, ratio in enumerate(ordered):
        below += math.comb(len(ordered), place)
        if below >= SURE * 2 ** len(ordered):
            return ratio
    return ordered[-1]


Change = tuple[str, Any]


def changes(start: Setting, threads: Iterable[int], files: Iterable[str], batches: Iterable[int]) -> list[Change]:
    """The steps of the search: one thing at a time, what matters most first."""
    steps = [("threads", n) for n in threads] + [("file", f) for f in files] + [("batch", n) for n in batches]
    return [(name, value) for name, value in steps if value != getattr(start, name)]


def decide(start: Setting, steps: Sequence[Change], table: Sequence[Duel]) -> tuple[Setting, Setting | None]:
    """The best setting by the duels so far, one a step, and the challenger of the next; None when all are fought."""
    best = start
    for place, (name, value) in enumerate(steps):
        challenger = replace(best, **{name: value})
        if place == len(table):
            return best, challenger
        if table[place].won():
            best = challenger
    return best, None


def batches(longest: int) -> list[int]:
    """Those that may be tried where the longest item has so many tokens.

    A candidate's text must fit one decode, or it gets no score: room is left for new items with twice as much.
    """
    return [batch for batch in BATCHES if batch >= 2 * longest]


def objection(metrics: Mapping[str, Any], name: str, reference: str) -> str:
    """Why the quality figures of verification.json speak against a file; empty if they do not.

    Args:
        metrics: name → {"auc", "logloss", "ndcg@10", …}; entries that have the last one are of a model that ranks, and
            are judged by it alone. name: the file's entry; reference: the entry of what was trained.
    """
    ranked = [_numbers(metrics, entry, "ndcg@10") for entry in (name, reference)]
    if all(ranked):
        loss = ranked[1][0] - ranked[0][0]
        return "" if loss <= NDCG_LOSS else f"its NDCG@10 is {loss:.4f} lower, at most {NDCG_LOSS} is accepted"
    return _objection_to_labels(metrics, name, reference)


def _objection_to_labels(metrics: Mapping[str, Any], name: str, reference: str) -> str:
    """`objection` by AUC and log-loss."""
    figures = [_numbers(metrics, entry, "auc", "logloss") for entry in (name, reference)]
    if not all(figures):
        return f"no quality figures of {name} beside {reference} in verification.json"
    (auc, loss), (auc_before, loss_before) = figures
    if not auc_before - auc <= AUC_LOSS:
        return f"its AUC is {auc_before - auc:.4f} lower, at most {AUC_LOSS} is accepted"
    if not loss - loss_before <= LOGLOSS_RISE:
        return f"its log-loss is {loss - loss_before:.4f} higher, at most {LOGLOSS_RISE} is accepted"
    return ""


def _numbers(metrics: Mapping[str, Any], name: str, *keys: str) -> list[float]:
    """The entry's figures of these names; none unless it has them all."""
    entry = metrics.get(name)
    found = [entry.get(key) for key in keys] if isinstance(entry, Mapping) else []
    numbers = [float(value) for value in found if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return numbers if len(numbers) == len(keys) else []
