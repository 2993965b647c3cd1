"""When does an LLM pay? A language model over a base model that reads the items' words, on new items and on all rows.

    python benchmarks/language_worth.py DATA BASE --keep FOLDER [--plain NAME=RECIPE ...] [--llm NAME=RUN ...]
        [--users N] [--new N] [--valid N] [--out FILE.json]

DATA is prepared with `--hide-items`, so that a share of the items has no training row; BASE is the run whose base model
all is held against. `--plain` asks the checkpoint of RECIPE as it was downloaded, `--llm` the LLM of a finished RUN.

Asked are the liked test rows of `--users` users drawn by seed, and of `--new` further ones whose row is of a new item,
each beside one row with label 0: the drawn one of the data where the liked item has training rows, else another new
item, drawn evenly from those that the user's history lacks, so that newness does not tell the label. "All rows" are
those of the first draw. Fusion (`stack`) and thresholds are fitted on validation rows of the same make. Routed are the
rows with the highest entropy of the base model, so many as the share says on validation rows. Intervals are by
bootstrap over users, and gains over the base model paired. Scores are kept in `--keep`: an interrupted call goes on.

Rows with label 0 are drawn by popularity, which whatever learns from labels finds out. So all is also held against the
base model with the count of an item's training likes beside it (`count`, `over base and count`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from base_model_quality import named
from corella_edge import atomic
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.judge import interval
from corella_edge.metrics import Bootstrap, Sampled, sampled_auc, sampled_uauc
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.evaluation.fusion import fused, fusion, routed
from corella_edge_export.evaluation.scored import ScoredRows
from corella_edge_export.llm.model import checkpoint_model
from corella_edge_export.llm.precision import base_dtype
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.recipe import Recipe, load_recipe, recipe_of
from corella_edge_export.training.checkpoint import state_of
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.crm import tensors
from corella_edge_export.training.tasks.llm import LlmReader, predict
from harness.results import ended
from new_items import Indices, LabelledPairs, feeds, others_for

SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
ALL, NEW, KNOWN = "all rows", "new items", "known items"
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Row = dict[str, Any]
Figures = dict[str, dict[str, Sampled]]  # part, metric


@dataclass(frozen=True)
class SplitRows:
    """Rows that are asked: a split of their own (`Split`), and of each the row of `name` whose history it has.

    Attributes:
        origin: int64 [n], rows of the split `name`. drawn: bool [n], of the first draw. new: bool [n], the pair's liked
            item has no training row.
    """

    name: str
    split: Split
    origin: Indices
    drawn: Mask
    new: Mask

    @property
    def parts(self) -> dict[str, Mask]:
        return {ALL: self.drawn, NEW: self.new, KNOWN: self.drawn & ~self.new}

    @property
    def key(self) -> str:
        """Tells the rows apart from others."""
        parts = (self.origin.tobytes(), self.split.items.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--plain", type=one, action="append", default=[], metavar="NAME=RECIPE")
    parser.add_argument("--llm", type=named, action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--users", type=int, default=700)
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument("--valid", type=float, default=0.55, help="validation users for each test user")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(ended("language_worth", lambda: measured(options), options.out))


def one(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not (name and mark and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RECIPE")
    return name, value


def measured(options: argparse.Namespace) -> Row:
    """What is kept."""
    data = PreparedData.open(options.data)
    base = opened(options.base, data)
    sizes = {"test": (options.users, options.new)}
    sizes["valid"] = (round(options.users * options.valid), round(options.new * options.valid))
    rows = {name: asked(data, name, *size, options.seed) for name, size in sizes.items()}
    kept = KeptScores(options.keep)
    crm = {part: kept.of(f"base-{options.base.name}", of, partial(base_scores, base)) for part, of in rows.items()}
    models = []
    rare = {part: rarity(data, of) for part, of in rows.items()}
    both = with_rarity(crm, rare, rows)
    for name, score in llms(options, data):
        answers = {part: kept.of(name, of, score) for part, of in rows.items()}
        beside = judged(both, answers, rows)
        models.append(
            {"name": name, **told(options, name), **judged(crm, answers, rows), "over base and count": beside}
        )
    draws = {part: Bootstrap(rows["test"].split.users[mask]) for part, mask in rows["test"].parts.items()}
    return {
        "what": "language's worth", "data": data.info["name"], "seed": options.seed,
        "rows": {name: counts(of) for name, of in rows.items()},
        "base": {"recipe": base.recipe.name, **alone(crm["test"], rows["test"], draws)},
        "count": judged(crm, rare, rows), "models": models,
        "scoring": kept.took,
    }  # fmt: skip


def opened(folder: Path, data: PreparedData) -> Run:
    """A run whose base model is finished, whatever comes after it."""
    return Run(folder, recipe_of(folder / "run.json"), data)


def asked(data: PreparedData, name: str, users: int, more_new: int, seed: int) -> SplitRows:
    """The rows of a split that are asked; see the module. Raises InputError where no item is new."""
    split = data.split(name)
    unseen = data.unseen_items(split)
    if not unseen.any():
        raise InputError(f"{data.root}: each {name} row's item has training rows; prepare the data with --hide-items")
    likes = np.random.default_rng([seed, 23]).permutation(np.flatnonzero(split.labels == 1))
    drawn = likes[:users]
    further = likes[users:][unseen[likes[users:]]][:more_new]
    chosen = np.concatenate([drawn, further])
    partner = dislikes(split)
    chosen = chosen[unseen[chosen] | np.isin(split.users[chosen], list(partner))]
    new = unseen[chosen]
    others = np.array([int(split.items[partner[u]]) if u in partner else 0 for u in split.users[chosen].tolist()])
    pool = np.unique(split.items[unseen & (split.labels == 1)]).astype(np.int64)
    others[new] = others_for(data, split, chosen[new].astype(np.int64), pool, np.random.default_rng(seed))
    return rows_of(split, name, chosen, others, np.isin(chosen, drawn), new)


def dislikes(split: Split) -> dict[int, int]:
    """User → a row of his with label 0."""
    rows = np.flatnonzero(split.labels == 0)
    return dict(zip(split.users[rows].tolist(), rows.tolist(), strict=True))


def rows_of(split: Split, name: str, chosen: Indices, others: Indices, drawn: Mask, new: Mask) -> SplitRows:
    """Each chosen liked row, and the same moment with another item and label 0 behind it."""
    origin = np.repeat(chosen, 2).astype(np.int64)
    items = np.stack([split.items[chosen], others], axis=1).reshape(-1).astype(np.int32)
    labels = np.tile(np.array([1, 0], np.int8), len(chosen))
    found = Split(split.users[origin], items, labels, split.ratings[origin], split.times[origin],
                  split.positions[origin])  # fmt: skip
    return SplitRows(name, found, origin, np.repeat(drawn, 2), np.repeat(new, 2))


Score = Callable[[SplitRows], tuple[Floats, int]]  # float64 [n], and how many tokens were read for it


def rarity(data: PreparedData, rows: SplitRows) -> Floats:
    """float64 [n], 1 / (2 + likes of the row's item in training rows), whose log-odds are -ln(1 + likes).

    Rows with label 0 were drawn by how often an item was taken; the less that was, the likelier is label 1.
    """
    train = data.split("train")
    count = np.bincount(train.items[train.labels == 1], minlength=len(data.item_ids))
    return np.asarray(1.0 / (2.0 + count[rows.split.items]))


def with_rarity(crm: dict[str, Floats], rare: dict[str, Floats], rows: dict[str, SplitRows]) -> dict[str, Floats]:
    """The base model with that count beside it, by a logistic regression on validation rows."""
    parts = {name: scored(crm[name], rare[name], rows[name]) for name in rows}
    rule = fusion("stack", parts["valid"].part(rows["valid"].drawn), 0.0)
    return {name: fused(part, part.answered, rule) for name, part in parts.items()}


class KeptScores:
    """Scores in a folder; what was made in this call, with its processor seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.took: dict[str, Row] = {}

    def of(self, model: str, rows: SplitRows, score: Score) -> Floats:
        """float64 [n], nan where there is no answer."""
        name = f"{model}-{rows.name}-{rows.key}"
        path, about = self.folder / f"{name}.f64", self.folder / f"{name}.json"
        if not about.exists():
            start = time.process_time()
            found, tokens = score(rows)
            line = {"tokens": tokens, "cpu_seconds": round(time.process_time() - start, 1)}
            atomic.write_file(path, found.tobytes())
            atomic.write_file(about, json.dumps(line).encode())
            print(name, line, flush=True)
        self.took[f"{model}, {rows.name}"] = json.loads(about.read_text("utf-8"))
        return np.frombuffer(path.read_bytes(), dtype=np.float64)


def base_scores(run: Run, rows: SplitRows) -> tuple[Floats, int]:
    """P(label = 1) of the rows by the run's base model."""
    schema, catalog = run.fit_inputs()
    encoded, model = EncodedRows(run.data, rows.name, FeatureEncoder(schema, catalog)), run.crm("crm")
    given = LabelledPairs(rows.origin, rows.split.items.astype(np.int64), rows.split.labels, drawn=True)
    with torch.inference_mode():
        logits = [model(tensors(feed)).double() for feed in feeds(encoded, given, words=True)]
    return torch.sigmoid(torch.cat(logits)).numpy(), 0


def llms(options: argparse.Namespace, data: PreparedData) -> Iterator[tuple[str, Score]]:
    """Each language model by its name, and what scores rows by it."""
    for name, recipe in options.plain:
        yield name, partial(asked_plainly, load_recipe(recipe), options.base, data)
    for name, folders in options.llm:
        yield name, partial(asked_run, folders[0], data)


def asked_plainly(recipe: Recipe, base: Path, data: PreparedData, rows: SplitRows) -> tuple[Floats, int]:
    """P(Yes) by the recipe's checkpoint as it is, in its precision."""
    run = Run(base, replace(recipe, crm=opened(base, data).recipe.crm), data, base_dtype(recipe.llm, "cpu"))
    return answered(run, checkpoint_model(Path(recipe.llm.path), run.base_dtype).eval(), rows)


def asked_run(folder: Path, data: PreparedData, rows: SplitRows) -> tuple[Floats, int]:
    """P(Yes) by a finished run's LLM, in the precision it was trained in."""
    run = Run.open(folder, data)
    run.base_dtype = base_dtype(run.recipe.llm, "cpu")
    return answered(run, run.llm(), rows)


def answered(run: Run, model: Any, rows: SplitRows) -> tuple[Floats, int]:
    """P(Yes) float64 [n], and how many tokens were read."""
    builder = run.builder()
    reader: LlmReader = run.reader(model, builder)
    sequences = SequenceBuilder(run.data, builder.encoder).exact(rows.split, np.unique(rows.split.users).tolist())
    found, probability = predict(reader, sequences)
    whole = np.full(len(rows.origin), np.nan)
    whole[found] = probability
    return whole, sum(len(sequence.tokens) for sequence in sequences)


def told(options: argparse.Namespace, name: str) -> Row:
    """What a run's training was: tokens, their rate, memory, minutes; nothing of a checkpoint that was not trained."""
    folders = dict(options.llm).get(name)
    if not folders:
        return {}
    state = state_of(folders[0] / "llm")
    return {
        "trained": {
            "tokens": state["tokens"], "tokens_per_second": round(state["tokens"] / max(1e-9, state["stepping"]), 1),
            "peak_bytes": state["peak"], "seconds": round(state["seconds"], 1),
        }
    }  # fmt: skip


def judged(crm: dict[str, Floats], llm: dict[str, Floats], rows: dict[str, SplitRows]) -> Row:
    """Figures of one language model: alone, at each routed share, and asked about all new items."""
    valid, test = (scored(crm[name], llm[name], rows[name]) for name in ("valid", "test"))
    draws = {part: Bootstrap(test.users[mask]) for part, mask in rows["test"].parts.items()}
    base = figures(test.crm, rows["test"], draws)
    found: Row = {"alone": alone(test.llm_or_crm, rows["test"], draws, base)}
    fit = valid.part(rows["valid"].drawn)
    for share in SHARES:
        threshold = float(np.quantile(fit.entropies, 1.0 - share))
        rule, chosen = fusion("stack", fit, threshold), routed(test, threshold)
        routed_ = alone(fused(test, chosen, rule), rows["test"], draws, base)
        asked_of = {part: float(chosen[mask].mean()) for part, mask in rows["test"].parts.items()}
        at_random = drawn(chosen, test.answered, rows["test"])
        others = alone(fused(test, at_random, rule), rows["test"], draws, base)
        found[f"routed {share:.0%}"] = {
            "weights": list(rule.weights or ()), "asked": asked_of, **routed_,
            "at random": {part: others[part]["gain"] for part in others},
        }  # fmt: skip
    of_new = fusion("stack", valid.part(rows["valid"].new), 0.0)
    of_all = alone(fused(test, rows["test"].new & test.answered, of_new), rows["test"], draws, base)
    return {**found, "asked about new items": {"weights": list(of_new.weights or ()), NEW: of_all[NEW]}}


def drawn(chosen: Mask, answered: Mask, rows: SplitRows) -> Mask:
    """As many answered rows of each part as were chosen, drawn by seed: what an order by entropy is held against."""
    found, rng = np.zeros_like(chosen), np.random.default_rng(0)
    for part in (rows.new, ~rows.new):
        places = np.flatnonzero(part & answered)
        found[rng.permutation(places)[: int((chosen & part).sum())]] = True
    return found


def scored(crm: Floats, llm: Floats, rows: SplitRows) -> ScoredRows:
    users = rows.split.users.astype(np.int64)
    return ScoredRows(crm, crm, llm, rows.split.labels, users, np.ones(len(users), np.bool_), rows.new)


def alone(scores: Floats, rows: SplitRows, draws: dict[str, Bootstrap], base: Figures | None = None) -> Row:
    """AUC and UAUC (each user one pair: the share of pairs in the right order) with intervals, by part; with `base` the
    paired gains over it."""
    found: Row = {}
    for part, own in figures(scores, rows, draws).items():
        found[part] = {metric: interval(value.interval()) for metric, value in own.items()}
        if base is not None:
            gains = {metric: interval(value.gain(base[part][metric])) for metric, value in own.items()}
            found[part] |= {"gain": gains["auc"], "uauc gain": gains["uauc"]}
    return found


def figures(scores: Floats, rows: SplitRows, draws: dict[str, Bootstrap]) -> Figures:
    """AUC and UAUC of each part under the draws."""
    found: Figures = {}
    for part, mask in rows.parts.items():
        given = scores[mask], rows.split.labels[mask], draws[part]
        found[part] = {"auc": sampled_auc(*given), "uauc": sampled_uauc(*given)}
    return found


def counts(rows: SplitRows) -> Row:
    return {part: {"rows": int(mask.sum()), "users": len(np.unique(rows.split.users[mask])),
                   "items": len(np.unique(rows.split.items[mask]))} for part, mask in rows.parts.items()}  # fmt: skip


if __name__ == "__main__":
    main()
