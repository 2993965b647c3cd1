"""Which size of LLM? Validation AUC against milliseconds of inference, for Llamas of several sizes.

    python benchmarks/llm_sizes.py ml-1m-small --data data/ml-1m --work runs/sizes --rows 150000 \\
        --out benchmarks/results/llm-sizes.json

Each size trains the recipe's [llm] stage on the same rows (--rows, drawn as whole users). When all are trained they
are timed by turns as quantised GGUFs through llama.cpp on one thread: 20 candidates of a new user, and of a user whose
prefix is kept. Every round opens each of them again; a figure is the median over rounds of a round's median user. With
matplotlib, the curve is drawn beside --out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corella_edge.prompt import Tokens
from corella_edge.request import Request
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.evaluation import plots
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.training.run import Run, hold
from corella_edge_export.training.stages import Stages
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.binding import Model, quantize
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from harness.pairs import ENOUGH, ratio_of
from harness.quiet import Watch, is_void, undisturbed
from harness.results import write

SHAPE = ("hidden", "layers", "heads", "intermediate")
SIZES = {"XS": (64, 2, 2, 128), "S": (128, 3, 4, 256), "M": (256, 4, 4, 512), "L": (320, 5, 5, 768)}
USERS, CANDIDATES = 40, 20
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model of one size: its figures, its GGUF, and what it is asked by user."""

    row: Row
    path: Path
    tokens: Tokens
    asked: Sequence[Sequence[Prompt]]


def main() -> None:
    options = parse()
    data, recipe = PreparedData.open(options.data), load_recipe(options.recipe)
    models = [trained(name, sized(recipe, name, options.rows), data, options.work) for name in options.sizes]
    times = undisturbed(lambda: timed(models, options.rounds), lambda found: found["load"], options.retries)
    sizes = [{**model.row, **found} for model, found in zip(models, times.pop("sizes"), strict=True)]
    about = {"what": "LLM sizes", "recipe": recipe.name, "rows": options.rows, "note": options.note}
    result = {**about, "data": data.info["name"], "gguf": "Q8_0", "llm_threads": 1, **times, "sizes": sizes}
    write(options.out, result)
    plots.write_sizes(sizes, options.out.with_suffix(".svg"))
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=ENOUGH)
    parser.add_argument("--retries", type=int, default=1, help="further tries where other work disturbed the timing")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def sized(recipe: Recipe, name: str, rows: int) -> Recipe:
    """The recipe with another size of LLM, one epoch on `rows` rows."""
    hidden, layers, heads, intermediate = SIZES[name]
    llm = replace(
        recipe.llm, hidden=hidden, layers=layers, heads=heads, kv_heads=heads, intermediate=intermediate, rows=rows,
        epochs=1, evaluations=1,
    )  # fmt: skip
    return replace(recipe, llm=llm)


def trained(name: str, recipe: Recipe, data: PreparedData, work: Path) -> Trained:
    """Train a size, or read it."""
    folder = work / name
    with hold(folder, recipe, data):
        run = Run(folder, recipe, data)
        line = Stages(run).do("llm", ())
        model = run.llm("llm")
        path = folder / "llm.gguf"
        if not path.exists():
            write_gguf(model, run.tokenizer(), folder / "f16.gguf", name, None, recipe.llm.context)
            quantize(folder / "f16.gguf", path, "Q8_0")
    asked = [prompts_of(run, number) for number in range(USERS)]
    blocks = sum(p.numel() for key, p in model.named_parameters() if "embed" not in key)
    row = {
        "name": name, **dict(zip(SHAPE, SIZES[name], strict=True)),
        "parameters": sum(p.numel() for p in model.parameters()), "in_blocks": blocks,
        "valid_auc": line["auc"], "train_seconds": line["seconds"], **mean_lengths(asked),
    }  # fmt: skip
    return Trained(row, path, run.builder().encoder.tokens, asked)


def mean_lengths(asked: Sequence[Sequence[Prompt]]) -> dict[str, float]:
    """Tokens of a user's prefix and of a candidate's suffix."""
    suffixes = [len(prompt.suffix) for prompts in asked for prompt in prompts]
    prefixes = [len(prompts[0].prefix) for prompts in asked]
    return {"prefix_tokens": float(np.mean(prefixes)), "suffix_tokens": float(np.mean(suffixes))}


def timed(models: Sequence[Trained], rounds: int) -> Row:
    """Milliseconds of 20 candidates by size, for new and for returning users, and what else the machine did."""
    watch = Watch()
    times: list[list[tuple[float, float]]] = [[] for _ in models]
    for number in range(rounds):
        order = list(enumerate(models))
        for place, model in order[::-1] if number % 2 else order:
            times[place].append(one_round(model))
    sizes = [dict(zip(("new_user_ms", "returning_user_ms"), map(interval, zip(*of, strict=True)), strict=True))
             for of in times]  # fmt: skip
    load = watch.read()
    return {"rounds": rounds, "load": load, "void": is_void(load), "sizes": sizes}


def interval(values: Sequence[float]) -> dict[str, float]:
    """Median over rounds with its 95 % interval."""
    found = ratio_of(values)
    return {"value": found.median, "low": found.low, "high": found.high}


def one_round(model: Trained) -> tuple[float, float]:
    """Median milliseconds of a new user and of a returning one, of a model just opened."""
    new, returning = [], []
    with opened(model) as scorer:
        scorer.score(model.asked[0])
        for asked in model.asked:
            scorer.forget()
            new.append(clocked(scorer, asked))
            returning.append(clocked(scorer, asked))
    return float(np.median(new)), float(np.median(returning))


@contextmanager
def opened(model: Trained) -> Iterator[YesNoScorer]:
    weights = Model(model.path)
    scorer = YesNoScorer(weights, model.tokens)
    try:
        yield scorer
    finally:
        scorer.close()
        weights.close()


def clocked(scorer: YesNoScorer, asked: Sequence[Prompt]) -> float:
    start = time.perf_counter()
    scorer.score(asked)
    return (time.perf_counter() - start) * 1e3


def prompts_of(run: Run, number: int) -> list[Prompt]:
    """A seeded validation user's prompts for 20 catalogue items."""
    split, encoder = run.data.split("valid"), run.builder().encoder
    rng = np.random.default_rng([5, number])
    row = int(rng.integers(len(split.users)))
    items = rng.choice(len(run.data.item_ids), CANDIDATES, replace=False).tolist()
    request: Request = run.data.request(int(split.users[row]), int(split.positions[row]), items)
    prefix = tuple(encoder.prefix(request.user))
    suffixes = (encoder.suffix(candidate) for candidate in request.candidates or ())
    return [Prompt(prefix, tuple(suffix)) for suffix in suffixes if suffix is not None]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
