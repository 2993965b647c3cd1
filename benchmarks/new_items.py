"""Does a base model know an item it was never trained on by its words? AUC with them and without, and a vector's time.

    python benchmarks/new_items.py DATA NAME=RUN[,RUN ...] [NAME=RUN ...] --out FILE.json

The rows are those test rows of DATA whose item has no training row: such an item, typed into a request, has no id.
Where they have both labels, these are what is to be told. Where each was liked (leave-one-out), the row's item is to be
told from another one without training rows, drawn with a seed from those that the user's history lacks. Each RUN's
base model (of a NAME's recipe, a seed each) scores the same rows with the item's vector as the run has it, without any,
as an item out of the vocabulary (OOV), and with the vector that a box makes of its words, in float32 and in INT8. What
the box makes is near to the encoder's own vectors; of SAID's it is a linear map, whose loss this tells.
Figures are means over the seeds, intervals by bootstrap over users, gains are paired. The time is that of the first
run's text encoder as a bundle has it, one title a call, one thread on one core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from base_model_quality import mean, named
from corella_edge import ranking
from corella_edge.bundle.artefact import TEXT, TOKENIZER
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Feed
from corella_edge.judge import interval
from corella_edge.metrics import Bootstrap, Sampled, sampled_auc
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.crm.text_input import TextInput
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.text import to_onnx
from corella_edge_export.text.vectors import texts_of
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.crm import tensors
from corella_edge_export.training.tasks.sequences import item_feed, places_of
from corella_edge_runtime.text import TextModel
from harness.quiet import Watch
from harness.results import ended

AT_ONCE = 1024  # rows that are scored together
TITLES = 1000  # whose times are taken
TURN, WARM = 25, 2  # titles that one form gets in a row, so that its weights are at hand; calls before that
FORMS = ("float32", "int8")
Row = dict[str, Any]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Rows of a split, int64 [n], each with the item to score and its label; `drawn`: the items with label 0 are."""

    rows: Indices
    items: Indices
    labels: npt.NDArray[np.int8]
    drawn: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=named, nargs="+", metavar="NAME=RUN[,RUN ...]")
    parser.add_argument("--seed", type=int, default=1, help="of the items that are drawn")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(ended("new_items", lambda: measured(options), options.out))


def measured(options: argparse.Namespace) -> Row:
    """What is kept."""
    data = PreparedData.open(options.data)
    asked = asked_of(data, options.seed)
    runs = {name: [Run.open(folder, data) for folder in folders] for name, folders in options.models}
    models = [{"name": name, **judged(of, asked)} for name, of in runs.items()]
    counts = {"rows": len(asked.rows), "users": len(np.unique(data.split("test").users[asked.rows])),
              "items": len(np.unique(asked.items)), "liked": int(asked.labels.sum())}  # fmt: skip
    told = {"by": "drawn items" if asked.drawn else "labels", "counts": counts, "models": models}
    with tempfile.TemporaryDirectory() as folder:
        first, *_ = next(iter(runs.values()))
        served = forms(first, Path(folder))
        vector = timed(served, titles(first)) if served else None
    return {"what": "new items", "data": data.info["name"], "seed": options.seed, **told, "vector": vector}


def asked_of(data: PreparedData, seed: int) -> LabelledPairs:
    """The test rows of items without training rows. Raises InputError where there are none."""
    split = data.split("test")
    cold = np.flatnonzero(data.unseen_items(split)).astype(np.int64)
    if not len(cold):
        raise InputError(f"{data.root}: each test row's item has training rows; prepare the data with --hide-items")
    items, labels = split.items[cold].astype(np.int64), split.labels[cold].astype(np.int8)
    if len(np.unique(labels)) == 2:
        return LabelledPairs(cold, items, labels, drawn=False)
    others = others_for(data, split, cold, np.unique(items), np.random.default_rng(seed))
    both = np.repeat(np.array([1, 0], np.int8), len(cold))
    return LabelledPairs(np.tile(cold, 2), np.concatenate([items, others]), both, drawn=True)


def others_for(data: PreparedData, split: Split, rows: Indices, new: Indices, rng: np.random.Generator) -> Indices:
    """For each row of the split one of the `new` items that is neither its own nor in its history."""
    log = data.log
    found = np.empty(len(rows), np.int64)
    for place, row in enumerate(rows.tolist()):
        first = int(log.offsets[split.users[row]])
        known = {int(split.items[row]), *log.items[first : first + int(split.positions[row])].tolist()}
        left = [item for item in rng.permutation(new)[: len(known) + 1].tolist() if item not in known]
        if not left:
            raise InputError(f"{data.root}: too few items without training rows to draw others from")
        found[place] = left[0]
    return found


def judged(runs: Sequence[Run], asked: LabelledPairs) -> Row:
    """Means over the runs: AUC with the items' vectors and without, the gain, and what making them on a box changes."""
    found = [of_run(run, asked) for run in runs]
    own, oov = (mean([one[vectors]["auc"] for one in found]) for vectors in ("kept", "oov"))
    made = {metric: made_on_a_box([{v: one[v][metric] for v in ("kept", *FORMS)} for one in found])
            for metric in found[0]["kept"]} if "int8" in found[0] else None  # fmt: skip
    return {"recipe": runs[0].recipe.name, "seeds": [run.recipe.seed for run in runs],
            "words": interval(own.interval()), "oov": interval(oov.interval()), "gain": interval(own.gain(oov)),
            "on a box": made}  # fmt: skip


def made_on_a_box(found: Sequence[Mapping[str, Sampled]]) -> Row:
    """A metric with the vectors that the runs have and with those of a box, and the differences."""
    of = {vectors: mean([one[vectors] for one in found]) for vectors in ("kept", *FORMS)}
    return {
        **{vectors: interval(one.interval()) for vectors, one in of.items()},
        "float32 - kept": interval(of["float32"].gain(of["kept"])),
        "int8 - float32": interval(of["int8"].gain(of["float32"])),
    }


def of_run(run: Run, asked: LabelledPairs) -> dict[str, dict[str, Sampled]]:
    """Vectors of the asked items → the base model's figures with them; FORMS only where a box can make them."""
    schema, catalog = run.fit_inputs()
    rows, model = EncodedRows(run.data, "test", FeatureEncoder(schema, catalog)), run.crm("crm")
    if not schema.of("vector"):
        raise InputError(f"{run.folder}: its recipe reads no words; add [crm.text]")
    if asked.drawn and any(field.side == "item" for field in schema.of("derived")):
        raise InputError(f"{run.folder}: items can be drawn for a base model whose scores are products alone")
    ranks = run.recipe.crm.family.ranks
    unknown = sampled_auc(scored(model, rows, asked, False), asked.labels, Bootstrap(rows.split.users[asked.rows]))
    found = {"kept": qualities(model, rows, asked, ranks), "oov": {"auc": unknown}}
    items = np.unique(asked.items)
    for form, vectors in vectors_on_a_box(run, items).items():
        with vectors_of(model, items, vectors):
            found[form] = qualities(model, rows, asked, ranks)
    return found


def vectors_on_a_box(run: Run, items: Indices) -> dict[str, npt.NDArray[np.float32]]:
    """Form → float32 [items, width] by the run's text encoder as a bundle has it; empty where it has none."""
    texts = texts_of(run.data, run.recipe.crm.text)
    with tempfile.TemporaryDirectory() as folder:
        served = forms(run, Path(folder)) or {}
        return {form: one.vectors([texts[item] for item in items.tolist()]) for form, one in served.items()}


def qualities(model: CrmModel, rows: EncodedRows, asked: LabelledPairs, ranks: bool) -> dict[str, Sampled]:
    """AUC of the asked rows and, where the run ranks, NDCG@10 of their own items in the whole catalogue."""
    auc = sampled_auc(scored(model, rows, asked, True), asked.labels, Bootstrap(rows.split.users[asked.rows]))
    if not ranks:
        return {"auc": auc}
    own = np.unique(asked.rows)
    places = places_of(members_of(model), rows, own)
    return {"auc": auc, "ndcg@10": ranking.sampled(places, Bootstrap(rows.split.users[own]))["ndcg@10"]}


@contextmanager
def vectors_of(model: CrmModel, items: Indices, vectors: npt.NDArray[np.float32]) -> Iterator[None]:
    """The model with other text vectors of these items, float32 [items, width]."""
    inputs = [part for part in model.modules() if isinstance(part, TextInput)]
    tables = [part.table for part in inputs if part.table is not None]
    before = [table[items].clone() for table in tables]
    try:
        with torch.no_grad():
            for table in tables:
                table[items] = torch.from_numpy(vectors)
        yield
    finally:
        with torch.no_grad():
            for table, old in zip(tables, before, strict=True):
                table[items] = old


def scored(model: CrmModel, rows: EncodedRows, asked: LabelledPairs, words: bool) -> npt.NDArray[np.float32]:
    """The logits of the asked rows, float32 [n]."""
    with torch.inference_mode():
        return np.concatenate([model(tensors(feed)).numpy() for feed in feeds(rows, asked, words)])


def feeds(rows: EncodedRows, asked: LabelledPairs, words: bool) -> Iterator[Feed]:
    """The inputs of the asked rows, some at a time; without `words` the items are of unknown rows of the catalogue."""
    for start in range(0, len(asked.rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        feed = {**rows.batch(asked.rows[part]), **item_feed(rows, asked.items[part])}
        for field in rows.encoder.schema.of("vector"):
            feed[field.name] = feed[field.name] if words else np.full_like(feed[field.name], rows.encoder.unknown_row)
        yield feed


def forms(run: Run, folder: Path) -> dict[str, TextModel] | None:
    """The run's text encoder as a bundle has it, in both forms; None without one."""
    made = run.text_model()
    if made is None:
        return None
    model, tokenizer = made
    assert isinstance(model.width, int)
    for form in FORMS:
        (folder / form).mkdir()
        told = to_onnx.write(model, tokenizer, folder / form, titles(run)[: to_onnx.JUDGED], int8=form == "int8")
        print(f"{form}: {told}", flush=True)
    return {form: TextModel(folder / form / TEXT, folder / form / TOKENIZER, model.width) for form in FORMS}


def titles(run: Run) -> list[str]:
    """The texts of the catalogue in an order of a seed, empty ones left out."""
    texts = [text for text in texts_of(run.data, run.recipe.crm.text) if text]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts)).tolist()]


def timed(served: Mapping[str, TextModel], texts: Sequence[str]) -> Row:
    """Wall and CPU milliseconds of TITLES texts by each form on one core, one a call, none of them remembered."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        return _timed(served, texts)
    finally:
        os.sched_setaffinity(0, cores)


def _timed(served: Mapping[str, TextModel], texts: Sequence[str]) -> Row:
    watch, took = Watch(), {form: np.zeros((0, 2)) for form in served}
    for start in range(0, min(TITLES, len(texts)), TURN):
        part = texts[start : min(start + TURN, TITLES)]
        for form in FORMS if start // TURN % 2 else FORMS[::-1]:
            turn = [_call(served[form], text) for text in [*[part[0]] * WARM, *part]]
            took[form] = np.concatenate([took[form], turn[WARM:]])
    every = {form: {"wall_ms": _spread(times[:, 0]), "cpu_ms": _spread(times[:, 1])} for form, times in took.items()}
    return {"titles": len(took[FORMS[0]]), **every, "cores": len(os.sched_getaffinity(0)), "load": watch.read()}


def _call(model: TextModel, text: str) -> tuple[float, float]:
    wall, own = time.perf_counter(), time.process_time()
    model.vectors([text])
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - own)


def _spread(values: npt.NDArray[np.float64]) -> dict[str, float]:
    return {"p50": round(float(np.median(values)), 3), "p99": round(float(np.quantile(values, 0.99)), 3)}


if __name__ == "__main__":
    main()
