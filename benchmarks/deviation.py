"""How far the LLM's scores move with batch, cache and neighbours: the usual mode against the deterministic one.

    python benchmarks/deviation.py BUNDLE [BUNDLE …] --out benchmarks/results/deviation.json

Asks every LLM variant of a bundle about the sample's requests three times: one whole prompt a decode (deterministic,
twice: bit-equal), and as serving does, with users in mixed order so that prefixes come, stay and leave.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.bundle import Bundle
from corella_edge.prompt import PromptEncoder
from corella_edge_runtime.bench import traffic
from corella_edge_runtime.llm.answer import Prompt
from corella_edge_runtime.llm.binding import Model
from corella_edge_runtime.llm.scorer import YesNoScorer
from corella_edge_runtime.llm.settings import LlmSettings
from corella_edge_runtime.tune.workload import prompts_of
from results import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [row for path in options.bundles for row in of_bundle(path, options)]
    print("| bundle | GGUF | prompts | greatest | mean | repeats bit-equal |\n|---|---|---|---|---|---|")
    for row in found:
        print("| {bundle} | {file} | {prompts} | {greatest:.1e} | {mean:.1e} | {repeats} |".format(**row))
    result = {"what": "deviation of P(Yes) from the deterministic mode", "threads": options.threads, "rows": found}
    print(json.dumps(result))
    if options.out:
        write(options.out, result)


def of_bundle(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a variant."""
    bundle = Bundle.open(path)
    files = sorted(name for name in bundle.manifest.files if name.startswith("llm") and name.endswith(".gguf"))
    return [{"bundle": bundle.label, "file": file, **compared(bundle, file, options)} for file in files]


def compared(bundle: Bundle, file: str, options: argparse.Namespace) -> dict[str, Any]:
    """Greatest and mean difference of P(Yes) between the two modes."""
    prompt = bundle.prompt()
    assert prompt is not None
    template, tokens = prompt
    model = Model(bundle.path(file))
    encoder = PromptEncoder(template, bundle.schema()[1], model.tokenize, tokens)
    asked = asked_of(bundle, encoder, options)
    flat = [prompt for group in asked for prompt in group]
    exact = YesNoScorer(model, tokens, LlmSettings(options.threads, deterministic=True))
    first, again = ([a.probability for a in exact.score(flat)] for _ in range(2))
    usual = YesNoScorer(model, tokens, LlmSettings(options.threads, kept_tokens=2048))
    order = list(range(len(asked))) * 2
    random.Random(1).shuffle(order)
    starts = np.cumsum([0, *map(len, asked)])
    gaps = [
        np.abs(np.subtract([a.probability for a in usual.score(asked[k])], first[starts[k] : starts[k + 1]]))
        for k in order
    ]
    gap = np.concatenate(gaps)
    return {
        "prompts": len(flat), "greatest": float(gap.max()), "mean": float(gap.mean()), "repeats": first == again,
    }  # fmt: skip


def asked_of(bundle: Bundle, encoder: PromptEncoder, options: argparse.Namespace) -> list[list[Prompt]]:
    """The prompts of each request."""
    found, rng = [], np.random.default_rng(0)
    rows = traffic.read(bundle, None)
    for k in traffic.one_per_user(rows, options.requests, 0):
        request = traffic.fill(rows[k].request, encoder.catalog, options.candidates, rng)
        found.append(prompts_of(encoder, request))
    return found


if __name__ == "__main__":
    main()
