"""Which size of LLM? Validation AUC against milliseconds of inference, for Llamas of several sizes.

    python benchmarks/llm_sizes.py ml-1m-small --data data/ml-1m --work runs/sizes --rows 150000 \\
        --out benchmarks/results/llm-sizes.json

Each size trains the recipe's [llm] stage on the same rows (--rows, drawn as whole users), and is then timed as a
quantised GGUF through llama.cpp on one thread: 20 candidates of a new user, and of a user whose prefix is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corella_edge.request import Request
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.run import Run, hold
from corella_edge_export.stages import Stages
from corella_edge_export.to_gguf import write_gguf
from corella_edge_runtime.llm.answer import Prompt
from corella_edge_runtime.llm.binding import Model, quantize
from corella_edge_runtime.llm.scorer import YesNoScorer
from results import write

# hidden, layers, heads, intermediate
SIZES = {"S": (128, 3, 4, 256), "M": (256, 4, 4, 512), "L": (320, 5, 5, 768)}
USERS, CANDIDATES, REPEATS = 40, 20, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data, recipe = PreparedData.open(options.data), load_recipe(options.recipe)
    found = [one(name, sized(recipe, name, options.rows), data, options.work) for name in options.sizes.split(",")]
    about = {"what": "LLM sizes", "recipe": recipe.name, "rows": options.rows, "note": options.note}
    write(options.out, {**about, "data": data.info["name"], "gguf": "Q8_0", "llm_threads": 1, "sizes": found})
    print(json.dumps(found, indent=1))


def sized(recipe: Recipe, name: str, rows: int) -> Recipe:
    """The recipe with another size of LLM, one epoch on `rows` rows."""
    hidden, layers, heads, intermediate = SIZES[name]
    llm = replace(
        recipe.llm, hidden=hidden, layers=layers, heads=heads, kv_heads=heads, intermediate=intermediate, rows=rows,
        epochs=1, evaluations=1,
    )  # fmt: skip
    return replace(recipe, llm=llm)


def one(name: str, recipe: Recipe, data: PreparedData, work: Path) -> dict[str, Any]:
    """Train a size, or read it, and time it."""
    folder = work / name
    with hold(folder, recipe, data):
        run = Run(folder, recipe, data)
        line = Stages(run).do("llm", ())
        model = run.llm("llm")
        path = folder / "llm.gguf"
        if not path.exists():
            write_gguf(model, run.tokenizer(), folder / "f16.gguf", name, None, recipe.llm.context)
            quantize(folder / "f16.gguf", path, "Q8_0")
    sizes = dict(zip(("hidden", "layers", "heads", "intermediate"), SIZES[name], strict=True))
    blocks = sum(p.numel() for key, p in model.named_parameters() if "embed" not in key)
    return {
        "name": name, **sizes, "parameters": sum(p.numel() for p in model.parameters()), "in_blocks": blocks,
        "valid_auc": line["auc"], "train_seconds": line["seconds"], **timed(run, path),
    }  # fmt: skip


def timed(run: Run, path: Path) -> dict[str, float]:
    """Median milliseconds of 20 candidates, for new and for returning users."""
    prompts = [prompts_of(run, i) for i in range(USERS)]
    model = Model(path)
    scorer = YesNoScorer(model, run.builder().encoder.tokens)
    new, returning = [], []
    for _ in range(REPEATS):
        for asked in prompts:
            scorer.forget()
            new.append(clocked(scorer, asked))
            returning.append(clocked(scorer, asked))
    scorer.close()
    model.close()
    tokens = float(np.mean([len(asked[0].prefix) for asked in prompts]))
    suffix = float(np.mean([len(prompt.suffix) for asked in prompts for prompt in asked]))
    ms = {"new_user_ms": float(np.median(new)), "returning_user_ms": float(np.median(returning))}
    return {"prefix_tokens": tokens, "suffix_tokens": suffix, **ms}


def clocked(scorer: YesNoScorer, asked: list[Prompt]) -> float:
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
