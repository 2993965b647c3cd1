"""Prepared data as labelled rows: both models' scores of a split, from the folder that `evaluate` keeps them in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corella_edge.atomic import resumable_folder
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.routing.gate import NEW_ITEM
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit
from corella_edge.routing.parts import LATE
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import RowSet
from corella_edge_export.evaluation.evaluate import Progress, choice, score
from corella_edge_export.evaluation.scored import Floats
from corella_edge_export.evaluation.unknown import of_new_items, unknown_fields
from corella_edge_runtime.engine import Engine

DAY = 86_400
Counts = npt.NDArray[np.int64]


def labelled(
    engine: Engine, data: PreparedData, split: str, out: Path, rows: int, seed: int, progress: Progress
) -> LabelledRows:
    """Scores that are kept in `out` are read, others are made; the folder is one that `evaluate` takes, too.

    Raises:
        InputError: `out` holds an evaluation of another bundle, data or choice of rows.
    """
    chosen, same = choice(engine, data, split, rows, seed)
    with resumable_folder(out, "about.json", same):
        crm, llm = score(engine, chosen, out, progress)
    popular = engine.slates.popular
    counts = None if popular is None else np.append(popular.counts, 0)
    return of_rows(engine.encoder, chosen, crm, llm, counts, engine.memory[0])


def of_rows(
    encoder: FeatureEncoder, rows: RowSet, crm: Floats, llm: Floats, counts: Counts | None = None,
    events: int | None = None,
) -> LabelledRows:  # fmt: skip
    """Rows with their scores. What one user has on one day (UTC) stands for what one request ranks.

    The LLM was asked about every row, so the propensity is 1: a missing score is one that there is none of.

    Args:
        counts: int64, by catalogue row and last of an unknown item, what the bundle says of popularity; None = nothing.
        events: of a history, that a request brings at most; None = all.
    """
    split, data = rows.split, rows.data
    users = np.array([data.user_ids[user] for user in rows.users.tolist()], dtype=np.object_)
    times = split.times[rows.indices]
    request = [f"{user} day {day}" for user, day in zip(users.tolist(), (times // DAY).tolist(), strict=True)]
    return LabelledRows(
        request=np.array(request, dtype=np.object_),
        user=users,
        item=np.array([data.item_ids[item] for item in split.items[rows.indices].tolist()], dtype=np.object_),
        time=times.astype(np.float64),
        label=rows.labels.astype(np.float64),
        crm=crm,
        llm=llm,
        propensity=np.ones(len(rows)),
        inputs=_inputs(encoder, rows, request, crm, llm, counts, events),
    )


def _inputs(
    encoder: FeatureEncoder, rows: RowSet, request: list[str], crm: Floats, llm: Floats, counts: Counts | None,
    events: int | None,
) -> dict[str, Floats]:  # fmt: skip
    """What a gate or a rule of fusion may look at, by name, as `routing.gate.inputs_of` gives it for a request."""
    places = encoder.rows_of([rows.data.item_ids[item] for item in rows.split.items[rows.indices].tolist()])
    before = rows.split.positions[rows.indices].astype(np.float64)
    _, number, sizes = np.unique(np.array(request), return_inverse=True, return_counts=True)
    odds = logit(crm)
    apart = odds - (np.bincount(number, weights=odds) / sizes)[number]
    return {
        "popularity": np.full(len(rows), np.nan) if counts is None else np.log1p(counts[places]),
        "history": before if events is None else np.minimum(before, events),
        "unknown": unknown_fields(encoder, rows),
        NEW_ITEM: of_new_items(encoder, rows),
        "text": (~np.isnan(llm)).astype(np.float64),
        "dispersion": np.sqrt(np.bincount(number, weights=apart * apart) / sizes)[number],
    }


def traps(data: PreparedData, split: str) -> Iterator[str]:
    """What makes figures of these rows look better than those of operation; a sentence each."""
    if split == "train":
        yield "these rows trained both models: their scores are surer, and better, than those of rows to come"
        return
    trained, held = data.split("train").times, data.split(split).times
    late = float((trained > held.min()).mean()) if len(held) and len(trained) else 0.0
    if late > LATE:
        yield (f"{late:.0%} of the training rows are later than the first {split} row, as after a random split: the "
               "models have seen the time that they are judged on")  # fmt: skip
    negatives = data.info.get("negatives")
    if negatives:
        yield ("negatives of these data were drawn, not shown: ranking metrics and the share of positives are those "
               "of the draw")  # fmt: skip
