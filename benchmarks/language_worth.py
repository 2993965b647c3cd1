"""When does an LLM pay? A language model over a strong base model: alone, routed, in slices of users and items.

    python benchmarks/language_worth.py DATA BASE --keep FOLDER [--plain NAME=RECIPE ...] [--llm NAME=RUN ...]
        [--users N] [--new N] [--most N] [--valid N] [--out FILE.json]

BASE is the run whose base model all is held against. `--plain` asks the checkpoint of RECIPE as it was downloaded,
`--llm` the LLM of a finished RUN.

Asked are the test rows of `--users` users drawn by seed (0: all), and `--new` further rows of items without a training
row (`harness.worth_rows`): where people gave both labels, the rows of `--most` events of each user (0: all);
where the rows with label 0 were drawn, pairs of a liked and another item, and DATA is to be prepared with
`--hide-items`. "All rows" are those of the first draw. Fusion (`stack`) and thresholds are fitted on validation rows of
the same make. Routed are the rows with the highest entropy of the base model, so many as the share says on validation
rows. Intervals are by bootstrap over users, and gains over the base model paired. Scores are kept in `--keep`: an
interrupted call goes on.

Rows with label 0 that were drawn are so by popularity, which whatever learns from labels finds out. So all is also held
against the base model with the count of an item's training likes beside it (`count`, `over base and count`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from base_model_quality import named
from corella_edge import atomic
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.judge import interval
from corella_edge.metrics import Bootstrap, Sampled, sampled_auc, sampled_uauc
from corella_edge.routing.fusion import Fusion
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.evaluation.fusion import ENOUGH, fused, fusion, routed
from corella_edge_export.evaluation.scored import ScoredRows
from corella_edge_export.evaluation.shares import hardest
from corella_edge_export.llm.model import checkpoint_model
from corella_edge_export.llm.precision import base_dtype
from corella_edge_export.llm.sequences import SequenceBuilder, TokenSequence
from corella_edge_export.recipe import Recipe, load_recipe, recipe_of
from corella_edge_export.training.checkpoint import state_of
from corella_edge_export.training.run import Run
from corella_edge_export.training.stage import last_of
from corella_edge_export.training.tasks.crm import tensors
from corella_edge_export.training.tasks.llm import LlmReader, predict
from harness.results import ended
from harness.worth_rows import ALL, KNOWN, NEW, Floats, Mask, SplitRows, asked
from new_items import LabelledPairs, feeds

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
METRICS = {"auc": sampled_auc, "uauc": sampled_uauc}
Row = dict[str, Any]
Figures = dict[str, dict[str, Sampled]]  # part, metric
Cost = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--plain", type=one, action="append", default=[], metavar="NAME=RECIPE")
    parser.add_argument("--llm", type=named, action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("--users", type=int, default=700)
    parser.add_argument("--new", type=int, default=400)
    parser.add_argument(
        "--most",
        type=int,
        default=10,
        help="events of a user whose rows are asked about, where people gave both labels",
    )
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
    rows = drawn(data, options)
    kept = KeptScores(options.keep)
    crm = {part: kept.of(f"base-{options.base.name}", of, partial(base_scores, base)) for part, of in rows.items()}
    rows = {part: of.with_thirds(crm[part]) for part, of in rows.items()}
    rare = {part: rarity(data, of) for part, of in rows.items()} if data.info.get("negatives") else None
    both = with_rarity(crm, rare, rows) if rare else None
    models: list[Row] = []
    first: dict[str, Floats] = {}  # of the first LLM that was trained, by its name
    for name, score in llms(options, data):
        answers = {part: kept.of(name, of, score) for part, of in rows.items()}
        beside = {"over base and count": judged(both, answers, rows)} if both else {}
        trained = told(options, name, data)
        beyond = {f"alone over {other}": over(answers["test"], scores, rows["test"]) for other, scores in first.items()}
        models.append({"name": name, **trained, **judged(crm, answers, rows), **beside, **beyond})
        first = first or ({name: answers["test"]} if trained else {})
    return {
        "what": "language's worth", "data": data.info["name"], "seed": options.seed,
        "rows": {name: counts(of) for name, of in rows.items()},
        "base": {"recipe": base.recipe.name, **alone(crm["test"], rows["test"], draws(rows["test"]))},
        **({"count": judged(crm, rare, rows)} if rare else {}), "models": models, "scoring": kept.took,
    }  # fmt: skip


def drawn(data: PreparedData, options: argparse.Namespace) -> dict[str, SplitRows]:
    """The test rows that are asked, and validation rows of the same make."""
    users = options.users or len(np.unique(data.split("test").users))
    sizes = {"test": (users, options.new), "valid": (round(users * options.valid), round(options.new * options.valid))}
    return {name: asked(data, name, *size, options.seed, options.most) for name, size in sizes.items()}


def opened(folder: Path, data: PreparedData) -> Run:
    """A run whose base model is finished, whatever comes after it."""
    return Run(folder, recipe_of(folder / "run.json"), data)


Score = Callable[[SplitRows], tuple[Floats, Cost]]  # float64 [n], and what was read for it


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
            found, cost = score(rows)
            line = {**cost, "cpu_seconds": round(time.process_time() - start, 1)}
            atomic.write_file(path, found.tobytes())
            atomic.write_file(about, json.dumps(line).encode())
            print(name, line, flush=True)
        self.took[f"{model}, {rows.name}"] = json.loads(about.read_text("utf-8"))
        return np.frombuffer(path.read_bytes(), dtype=np.float64)


def base_scores(run: Run, rows: SplitRows) -> tuple[Floats, Cost]:
    """P(label = 1) of the rows by the run's base model."""
    schema, catalog = run.fit_inputs()
    encoded, model = EncodedRows(run.data, rows.name, FeatureEncoder(schema, catalog)), run.crm("crm")
    given = LabelledPairs(rows.origin, rows.split.items.astype(np.int64), rows.split.labels, drawn=True)
    with torch.inference_mode():
        logits = [model(tensors(feed)).double() for feed in feeds(encoded, given, words=True)]
    return torch.sigmoid(torch.cat(logits)).numpy(), {"tokens": 0}


def llms(options: argparse.Namespace, data: PreparedData) -> Iterator[tuple[str, Score]]:
    """Each language model by its name, and what scores rows by it."""
    for name, recipe in options.plain:
        yield name, partial(asked_plainly, load_recipe(recipe), options.base, data)
    for name, folders in options.llm:
        yield name, partial(asked_run, folders[0], data)


def asked_plainly(recipe: Recipe, base: Path, data: PreparedData, rows: SplitRows) -> tuple[Floats, Cost]:
    """P(Yes) by the recipe's checkpoint as it is, in its precision."""
    run = Run(base, replace(recipe, crm=opened(base, data).recipe.crm), data, base_dtype(recipe.llm, "cpu"))
    return answered(run, checkpoint_model(Path(recipe.llm.path), run.base_dtype).eval(), rows)


def asked_run(folder: Path, data: PreparedData, rows: SplitRows) -> tuple[Floats, Cost]:
    """P(Yes) by a finished run's LLM, in the precision it was trained in."""
    run = Run.open(folder, data)
    run.base_dtype = base_dtype(run.recipe.llm, "cpu")
    return answered(run, run.llm(), rows)


def answered(run: Run, model: Any, rows: SplitRows) -> tuple[Floats, Cost]:
    """P(Yes) float64 [n]; how many tokens were read, and how many the rows' prompts have one by one, on average."""
    builder = run.builder()
    reader: LlmReader = run.reader(model, builder)
    sequences = SequenceBuilder(run.data, builder.encoder).exact(rows.split, np.unique(rows.split.users).tolist())
    found, probability = predict(reader, sequences)
    whole = np.full(len(rows.origin), np.nan)
    whole[found] = probability
    read, prompts = sum(len(sequence.tokens) for sequence in sequences), sum(map(prompt_tokens, sequences))
    return whole, {"tokens": read, "prompt_tokens": round(prompts / max(1, len(found)), 1)}


def prompt_tokens(sequence: TokenSequence) -> int:
    """How many tokens the prompts of a sequence's targets have together, each with its history of its own."""
    if not sequence.branches:
        return int(sequence.positions.sum()) + len(sequence.positions)
    starts = [start for start, _ in sequence.branches]
    ends = [*starts[1:], len(sequence.tokens)]
    return sum(seen + end - start for (start, seen), end in zip(sequence.branches, ends, strict=True))


def told(options: argparse.Namespace, name: str, data: PreparedData) -> Row:
    """What a run's training was: tokens, their rate, memory, minutes; nothing of a checkpoint that was not trained."""
    folders = dict(options.llm).get(name)
    if not folders:
        return {}
    recipe = opened(folders[0], data).recipe
    state = state_of(folders[0] / last_of(recipe, "llm").name)
    return {
        "trained": {
            "recipe": recipe.name, "tokens": state["tokens"],
            "tokens_per_second": round(state["tokens"] / max(1e-9, state["stepping"]), 1),
            "peak_bytes": state["peak"], "seconds": round(state["seconds"], 1),
        }
    }  # fmt: skip


def judged(crm: dict[str, Floats], llm: dict[str, Floats], rows: dict[str, SplitRows]) -> Row:
    """Figures of one language model: alone, and at each routed share."""
    valid, test = (scored(crm[name], llm[name], rows[name]) for name in ("valid", "test"))
    fit, draw = valid.part(rows["valid"].drawn), draws(rows["test"])
    base = figures(test.crm, rows["test"], draw)
    gain = partial(gain_of, rows["test"], draw, base)
    found: Row = {"alone": alone(test.llm_or_crm, rows["test"], draw, base)}
    for share in SHARES:
        threshold = float(np.quantile(fit.entropies, 1.0 - share))
        rule, chosen = fusion("stack", fit, threshold), routed(test, threshold)
        found[f"routed {share:.0%}"] = {
            "weights": list(rule.weights or ()),
            "asked": {part: float(chosen[mask].mean()) for part, mask in rows["test"].parts.items()},
            **alone(fused(test, chosen, rule), rows["test"], draw, base),
            "at random": {ALL: gain(fused(test, as_many(chosen, test.answered, rows["test"]), rule))},
            "oracle": {ALL: gain(fused(test, hardest_rows(test, chosen, rows["test"], rule), rule))},
            **by_newness(valid, test, rows, threshold, gain),
        }  # fmt: skip
    return found


def over(llm: Floats, other: Floats, rows: SplitRows) -> Row:
    """What one LLM gains over another, each asked alone about all rows that both answer."""
    both = replace(rows, drawn=rows.drawn & ~np.isnan(llm) & ~np.isnan(other), thirds={})
    draw = {ALL: Bootstrap(both.split.users[both.drawn])}
    own, others = (figures(scores, both, draw)[ALL] for scores in (llm, other))
    return {metric: interval(own[metric].gain(others[metric])) for metric in METRICS}


def by_newness(
    valid: ScoredRows, test: ScoredRows, rows: dict[str, SplitRows], threshold: float, gain: Callable[..., Row]
) -> Row:
    """Gains where new items and known ones have weights of their own; nothing where too few rows could tell them."""
    if rows["valid"].new.sum() < ENOUGH or NEW not in rows["test"].parts:
        return {}
    chosen, new = routed(test, threshold), rows["test"].new
    fitted = rows["valid"].new, rows["valid"].drawn & ~rows["valid"].new
    rules = [fusion("stack", valid.part(mask), threshold) for mask in fitted]
    final = np.where(new, *(fused(test, chosen, rule) for rule in rules))
    weights = dict(zip((NEW, KNOWN), (list(rule.weights or ()) for rule in rules), strict=True))
    within = {part: gain(final, part, "uauc") for part in (ALL, NEW)}
    return {"weights by newness": {"weights": weights, ALL: gain(final), NEW: gain(final, NEW), "within users": within}}


def as_many(chosen: Mask, answered: Mask, rows: SplitRows) -> Mask:
    """As many answered rows of each part as were chosen, drawn by seed: what an order by entropy is held against."""
    found, rng = np.zeros_like(chosen), np.random.default_rng(0)
    for part in (rows.new, ~rows.new):
        places = np.flatnonzero(part & answered)
        found[rng.permutation(places)[: int((chosen & part).sum())]] = True
    return found


def hardest_rows(test: ScoredRows, chosen: Mask, rows: SplitRows, rule: Fusion) -> Mask:
    """As many rows of the first draw as were chosen there: those whose log-loss falls most by asking, labels known."""
    found, final = np.zeros_like(chosen), fused(test, test.answered, rule)
    part = replace(test, llm=np.where(test.answered, final, np.nan)).part(rows.drawn)
    found[rows.drawn] = hardest(part, int((chosen & rows.drawn).sum()))
    return found


def scored(crm: Floats, llm: Floats, rows: SplitRows) -> ScoredRows:
    users = rows.split.users.astype(np.int64)
    return ScoredRows(crm, crm, llm, rows.split.labels, users, rows.seen, rows.new)


def draws(rows: SplitRows) -> dict[str, Bootstrap]:
    """The draws of users of each part."""
    return {part: Bootstrap(rows.split.users[mask]) for part, mask in rows.parts.items()}


def alone(scores: Floats, rows: SplitRows, draw: dict[str, Bootstrap], base: Figures | None = None) -> Row:
    """AUC and UAUC (of a pair: whether it is in the right order) with intervals, by part; with `base` the paired gains
    over it."""
    found: Row = {}
    for part, own in figures(scores, rows, draw).items():
        found[part] = {metric: interval(value.interval()) for metric, value in own.items()}
        if base is not None:
            gains = {metric: interval(value.gain(base[part][metric])) for metric, value in own.items()}
            found[part] |= {"gain": gains["auc"], "uauc gain": gains["uauc"]}
    return found


def gain_of(
    rows: SplitRows, draw: dict[str, Bootstrap], base: Figures, scores: Floats, part: str = ALL, metric: str = "auc"
) -> Row:
    """The gain of scores float64 [n] over the base model, in a part of the rows."""
    mask = rows.parts[part]
    own = METRICS[metric](scores[mask], rows.split.labels[mask], draw[part])
    return interval(own.gain(base[part][metric]))


def figures(scores: Floats, rows: SplitRows, draw: dict[str, Bootstrap]) -> Figures:
    """AUC and UAUC of each part under the draws."""
    found: Figures = {}
    for part in draw:
        mask = rows.parts[part]
        given = scores[mask], rows.split.labels[mask], draw[part]
        found[part] = {name: metric(*given) for name, metric in METRICS.items()}
    return found


def counts(rows: SplitRows) -> Row:
    return {part: {"rows": int(mask.sum()), "users": len(np.unique(rows.split.users[mask])),
                   "items": len(np.unique(rows.split.items[mask]))} for part, mask in rows.parts.items()}  # fmt: skip


if __name__ == "__main__":
    main()
