"""Which base model? Quality of trained ones on test rows, over their seeds, with paired gains over the first one.

    python benchmarks/base_model_quality.py DATA NAME=RUN[,RUN ...] [NAME=RUN ...] [--rows N] [--stage STAGE]
        [--onto KEPT.json] --out FILE.json

DATA is a prepared folder, each NAME one recipe's runs, a seed each. Models of labels are judged by AUC and log-loss;
those that rank (loss = "softmax") by where each test row's item stands in the whole catalogue, the history left out,
ties against it, beside rankings that learn nothing. Intervals are of the mean over seeds, by bootstrap over users.
`--rows` takes a seeded sample of so many rows of items with training rows, beside all of those without; figures are
then of new and of known items apart. `--stage joint` judges what that stage left of the base model, not stage 1.
`--onto` adds the models to a kept result, which has the same first one: its figures have to come out again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from corella_edge import metrics, ranking
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.judge import interval
from corella_edge.metrics import Bootstrap, Sampled
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.evaluation import rivals
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.crm import predict
from corella_edge_export.training.tasks.sequences import places_of
from harness.results import write

AT_ONCE = 250  # rows that are ranked together
SAME = 5e-5  # what figures of the same models may differ by: another machine rounds otherwise
Row = dict[str, Any]
Mask = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=named, nargs="+", metavar="NAME=RUN[,RUN ...]")
    parser.add_argument("--rows", type=int, default=0, help="of items with training rows; 0 = all")
    parser.add_argument("--stage", default="crm", help="after which the base model is judged")
    parser.add_argument("--onto", type=Path, help="a kept result, to which these models are added")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = PreparedData.open(options.data)
    found = judged(data, dict(options.models), options.rows, options.stage, beside=options.onto is None)
    if options.onto is not None:
        try:
            found = joined(json.loads(options.onto.read_text("utf-8")), found)
        except InputError as error:
            sys.exit(f"base_model_quality: {options.onto}: {error}")
    write(options.out, {"what": "base models, quality", "data": data.info["name"], **found})


def named(text: str) -> tuple[str, list[Path]]:
    name, mark, runs = text.partition("=")
    if not (name and mark and runs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RUN[,RUN ...]")
    return name, [Path(run) for run in runs.split(",")]


def judged(
    data: PreparedData, models: Mapping[str, Sequence[Path]], count: int = 0, stage: str = "crm", beside: bool = True
) -> Row:
    """Every model's figures in every part of the test rows, and its gains over the first one.

    `beside`: where they rank, rankings that learn nothing are judged, too.
    """
    split = data.split("test")
    chosen = rows_of(data, split, count)
    users, labels = split.users[chosen], split.labels[chosen]
    parts = {part: mask[chosen] for part, mask in parts_of(data, split).items()}
    if len(chosen) < len(split.users):  # new items would count for more than they do
        parts = {part: mask for part, mask in parts.items() if part in ("new items", "known items")}
    draws = {part: Bootstrap(users[mask]) for part, mask in parts.items()}
    ranks = Run.open(next(iter(models.values()))[0], data).recipe.crm.family.ranks
    every: dict[str, dict[str, dict[str, Sampled]]] = {}  # name, part, metric
    rows: list[Row] = []
    rivals_ = untrained(data, models, chosen) if ranks and beside else {}
    for name, scores in {**trained(data, models, ranks, chosen, stage), **rivals_}.items():
        print(f"{name}: {len(scores)}", flush=True)
        figures = {
            part: [sampled(one[mask], labels[mask], draws[part], ranks) for one in scores]
            for part, mask in parts.items()
        }
        means = {part: {metric: mean([one[metric] for one in of]) for metric in of[0]} for part, of in figures.items()}
        every[name] = means
        rows.append({
            "name": name, "seeds": len(models.get(name, ())),
            "parts": {part: shown(means[part], figures[part]) for part in parts},
            "gains": gains(means, next(iter(every.values()))),
        })  # fmt: skip
    for row in rows if ranks else ():
        row["over"] = {other: gains(every[row["name"]], every[other]) for other in rivals_ if other != row["name"]}
    counts = {part: {"rows": int(mask.sum()), "users": len(np.unique(users[mask]))} for part, mask in parts.items()}
    return {"by": "ranking" if ranks else "labels", "counts": counts, "items": len(data.item_ids), "models": rows}


def rows_of(data: PreparedData, split: Split, count: int) -> Indices:
    """Test rows: all; or all of items without training rows, and a seeded sample of `count` of the others."""
    new = data.unseen_items(split)
    known = np.random.default_rng(0).permutation(np.flatnonzero(~new))[: count or None]
    return np.sort(np.concatenate([np.flatnonzero(new), known])).astype(np.int64)


def joined(kept: Row, found: Row) -> Row:
    """A kept result with the models of another of the same rows, behind its own trained ones.

    Raises:
        InputError: they have not the same first model, by name, seeds and figures to half of the last digit shown.
    """
    (first, *others), own = found["models"], kept["models"]
    same = (found["by"], found["counts"], first["name"], first["seeds"])
    if same != (kept["by"], kept["counts"], own[0]["name"], own[0]["seeds"]) or not _alike(first, own[0]):
        raise InputError(f"its first model is {own[0]['name']!r}, of other rows or figures; name the same one first")
    last = next((place for place, row in enumerate(own) if not row["seeds"]), len(own))
    earlier = {name: kept[name] for name in ("made", "commit")}
    return {**found, "models": [*own[:last], *others, *own[last:]], "added_to": earlier}


def _alike(one: Row, other: Row) -> bool:
    """Whether two models have the same figures in every part and metric, but for SAME."""
    pairs = [
        (figure[end], other["parts"][part][metric][end])
        for part, of in one["parts"].items() for metric, figure in of.items() for end in ("value", "low", "high")
    ]  # fmt: skip
    return all(a == b or (None not in (a, b) and abs(a - b) <= SAME) for a, b in pairs)


def trained(
    data: PreparedData, models: Mapping[str, Sequence[Path]], ranks: bool, chosen: Indices, stage: str = "crm"
) -> dict[str, list[npt.NDArray[Any]]]:
    """NAME → the scores or ranks of the chosen rows, a seed each."""
    return {
        name: [scored(Run.open(folder, data), ranks, chosen, stage) for folder in folders]
        for name, folders in models.items()
    }


def untrained(
    data: PreparedData, models: Mapping[str, Sequence[Path]], chosen: Indices
) -> dict[str, list[npt.NDArray[Any]]]:
    """What learns nothing: popularity, what followed the last item, and, with text vectors, the nearest to the last.

    The vectors are those of the last model that has some.
    """
    catalogs = [Run.open(folders[0], data).fit_inputs()[1] for folders in [*models.values()][::-1]]
    vectors = next((catalog.vectors for catalog in catalogs if catalog.vectors is not None), None)
    found = {"popularity": rivals.popular(data), "what followed the last item": rivals.following(data)}
    if vectors is not None:
        found["text vectors alone, the last items' mean"] = rivals.alike(vectors[: len(data.item_ids)])
    return {name: [places_by(data, rival, chosen)] for name, rival in found.items()}


def places_by(data: PreparedData, rival: rivals.Rival, chosen: Indices) -> Indices:
    """Ranks of the chosen test rows' items, the history left out."""
    split, log = data.split("test"), data.log
    first = log.offsets[split.users]
    found = np.zeros(len(chosen), np.int64)
    for start in range(0, len(chosen), AT_ONCE):
        part = chosen[start : start + AT_ONCE]
        pairs = zip(first[part].tolist(), split.positions[part].tolist(), strict=True)
        histories = [log.items[a : a + n].astype(np.int64) for a, n in pairs]
        found[start : start + AT_ONCE] = ranking.ranks(rival(histories), split.items[part], histories)
    return found


def parts_of(data: PreparedData, split: Split) -> dict[str, Mask]:
    """All rows; those of users and items with and without training rows, where there are both."""
    known = np.isin(split.users, data.split("train").users)
    new = data.unseen_items(split)
    masks = {"seen users": known, "new users": ~known, "new items": new, "known items": ~new}
    return {"all": np.ones(len(known), np.bool_), **{name: m for name, m in masks.items() if m.any() and not m.all()}}


def scored(run: Run, ranks: bool, chosen: Indices, stage: str) -> npt.NDArray[Any]:
    """P(label = 1), or the rank of each row's item, of the chosen test rows."""
    schema, catalog = run.fit_inputs()
    rows, model = EncodedRows(run.data, "test", FeatureEncoder(schema, catalog)), run.crm(stage)
    if not ranks:
        return predict(model, rows)[chosen]
    return places_of(members_of(model), rows, chosen)


def sampled(scores: npt.NDArray[Any], labels: npt.NDArray[Any], draws: Bootstrap, ranks: bool) -> dict[str, Sampled]:
    if ranks:
        return dict(ranking.sampled(scores, draws))
    loss = metrics.sampled_mean(metrics.row_loss(scores, labels), draws)
    return {"auc": metrics.sampled_auc(scores, labels, draws), "logloss": loss}


def mean(seeds: Sequence[Sampled]) -> Sampled:
    """Over seeds, draw by draw."""
    return Sampled(float(np.mean([one.value for one in seeds])), np.mean([one.draws for one in seeds], axis=0))


def gains(own: Mapping[str, Mapping[str, Sampled]], other: Mapping[str, Mapping[str, Sampled]]) -> Row:
    """Paired, of every part and metric."""
    return {part: {m: interval(value.gain(other[part][m])) for m, value in of.items()} for part, of in own.items()}


def shown(means: Mapping[str, Sampled], seeds: Sequence[Mapping[str, Sampled]]) -> Row:
    found = {metric: interval(value.interval()) for metric, value in means.items()}
    if len(seeds) > 1:
        for metric in found:
            found[metric]["spread"] = float(np.std([one[metric].value for one in seeds], ddof=1))
    return found


if __name__ == "__main__":
    main()
