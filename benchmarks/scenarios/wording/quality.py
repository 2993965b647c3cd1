"""Validation AUC of both forms on the same rows, and the paired difference over users."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corella_edge import atomic
from corella_edge.errors import InputError
from corella_edge.metrics import Bootstrap, Interval, Sampled, sampled_auc
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.training.loop import Metrics
from corella_edge_export.training.tasks.llm import predict
from harness.pairs import OURS
from harness.report import judged
from scenarios.wording.prompts import ITEMS, PAPER
from scenarios.wording.training import ShortLineRun, Study

TOLERATED = 0.002  # of AUC: "no worse" is a difference whose interval begins at minus this or above
USERS_SEED = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ScoredForm:
    """A trained form: the validation rows [n] with its P(Yes) of each, and how it was trained."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int8]
    users: NDArray[np.int32]
    probability: NDArray[np.float64]
    training: Row


FormPair = dict[str, ScoredForm]


def measure(study: Study, options: argparse.Namespace) -> Row:
    """Both forms of every training seed, trained or read, then compared."""
    about = study.about(study.forms(options.seeds[0]))
    pairs = {seed: pair_of(study, seed, options.valid_rows) for seed in options.seeds}
    return {**about, **compared(pairs)}


def pair_of(study: Study, seed: int, valid_rows: int) -> FormPair:
    """Both forms of one seed."""
    return {name: scored(form, form.train(), valid_rows) for name, form in study.forms(seed).items()}


def scored(form: ShortLineRun, line: Metrics, valid_rows: int) -> ScoredForm:
    """The validation rows, scored once."""
    path = form.folder / f"valid-{valid_rows}.npz"
    if not path.exists():
        keep(path, *predict_valid(form, valid_rows))
    with np.load(path) as kept:
        rows, probability = kept["rows"], kept["probability"]
    split, llm = form.data.split("valid"), form.recipe.llm
    training = {
        "batch_tokens": llm.batch_tokens, "steps": line["step"], "seconds": line["seconds"],
        "tokens_a_row": round(form.tokens_a_row, 1),
    }  # fmt: skip
    return ScoredForm(rows, split.labels[rows], split.users[rows], probability, training)


def predict_valid(form: ShortLineRun, valid_rows: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of whole users (0 = all) and their P(Yes); the users are the same for every form and seed."""
    builder, split = form.builder(), form.data.split("valid")
    asked = builder.exact(split, draw_users(split, valid_rows, USERS_SEED).tolist())
    return predict(form.reader(form.llm("llm"), builder), asked)


def keep(path: Path, rows: NDArray[np.int64], probability: NDArray[np.float64]) -> None:
    """Scores, complete or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, rows=rows, probability=probability)
    atomic.write_file(path, buffer.getvalue())


def compared(pairs: dict[int, FormPair]) -> Row:
    """AUC of every seed's two models, and the difference of each pair and of their mean.

    Raises:
        InputError: they were not scored on the same rows.
    """
    scores = [one for pair in pairs.values() for one in pair.values()]
    if not all(np.array_equal(scores[0].rows, one.rows) for one in scores):
        raise InputError("--work: its runs have different validation rows; name a new folder")
    bootstrap = Bootstrap(scores[0].users)
    sampled = {seed: {name: sampled_auc(one.probability, one.labels, bootstrap) for name, one in pair.items()}
               for seed, pair in pairs.items()}  # fmt: skip
    ours, paper = (mean([pair[name] for pair in sampled.values()]) for name in (OURS, PAPER))
    gain = ours.gain(paper)
    return {
        "rows": len(scores[0].rows), "users": bootstrap.users,
        "seeds": [seed_row(seed, sampled[seed], pair) for seed, pair in pairs.items()],
        OURS: asdict(ours.interval()), PAPER: asdict(paper.interval()),
        "difference": asdict(gain), "verdict": verdict(gain),
    }  # fmt: skip


def mean(metrics: Sequence[Sampled]) -> Sampled:
    """The mean of a metric over training seeds, under the same draws of users."""
    return Sampled(float(np.mean([one.value for one in metrics])), np.mean([one.draws for one in metrics], axis=0))


def seed_row(seed: int, sampled: dict[str, Sampled], pair: FormPair) -> Row:
    """One seed's two models."""
    auc = {name: asdict(one.interval()) for name, one in sampled.items()}
    training = {name: pair[name].training for name in ITEMS}
    return {"seed": seed, **auc, "difference": asdict(sampled[OURS].gain(sampled[PAPER])), "training": training}


def verdict(difference: Interval) -> str:
    """What the interval of ours - paper's says."""
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "no difference seen"


def targets(part: Row) -> list[Row]:
    """Ours is no worse: the difference's lower end, over the mean of the seeds."""
    gap, count = part["difference"], len(part["seeds"])
    seeds = "1 training seed" if count == 1 else f"mean of {count} training seeds"
    figure = {**gap, "median": gap["value"], "pairs": part["users"]}
    return [judged(f"validation AUC, ours - the paper's, {seeds}", figure, ">=", -TOLERATED, False)]


def table(part: Row) -> str:
    """The figures for people."""
    lines = [f"constant tokens after the candidate: {part['constant_tokens']}"]
    several = [{"seed": "mean", **part}] if len(part["seeds"]) > 1 else []
    for one in [*part["seeds"], *several]:
        gap = " ".join(f"{one['difference'][name]:+.4f}" for name in ("value", "low", "high"))
        figures = f"ours {one[OURS]['value']:.4f}  paper's {one[PAPER]['value']:.4f}  difference (low, high) {gap}"
        lines.append(f"seed {one['seed']!s:5} AUC {figures}")
    return "\n".join([*lines, f"{part['verdict']}: {part['rows']} rows of {part['users']} users"])
