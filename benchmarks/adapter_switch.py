"""What adapters cost: milliseconds of a new and a returning user with none, one and two, and of a change, by turns.

    python benchmarks/adapter_switch.py BUNDLE [--prefix 256] [--turns 15] [--threads 1] [--out …/adapter-switch.json]

The bundle has two adapters or more. A prompt is `--prefix` random token ids of the user's and 24 of the candidate's.
`new`: nothing is kept of the user. `returning`: the prefix is in the context. `changed`: it is kept, but another choice
of adapters was asked in between, so that llama.cpp rebuilds its graphs and the prefix is copied back.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.adapters import ALONE, Weights
from corella_edge.bundle.artefact import LLM, Bundle
from corella_edge_runtime.llm.contract.messages import Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from harness.pairs import ratio_of
from harness.quiet import Watch
from harness.results import ended

SUFFIX = 24  # tokens of a candidate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prefix", type=int, default=256)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("adapter_switch", lambda: measured(options), options.out)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by choice of adapters and by what is known of the user."""
    bundle, watch = Bundle.open(options.bundle), Watch()
    known, prompt = bundle.adapters(), bundle.prompt()
    assert prompt is not None
    files = {name: bundle.path(file) for name, file in known.files.items()}
    model = Model(bundle.path(LLM), adapters=files)
    scorer = YesNoScorer(model, prompt[1], LlmSettings(threads=options.threads))
    choices = choices_of(known.names)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in choices}
    rng = np.random.default_rng(0)
    for number in range(options.turns):
        for name in sorted(choices, reverse=bool(number % 2)):
            other = ALONE if choices[name] else choices["one"]
            for what, took in turn(scorer, choices[name], other, drawn(rng, model.vocab_size, options.prefix)).items():
                times[name].setdefault(what, []).append(took)
    scorer.close()
    model.close()
    figures = {name: {what: ratio_of(ms).to_json() for what, ms in of.items()} for name, of in times.items()}
    return {"what": "adapter-switch", "prefix": options.prefix, "suffix": SUFFIX, "turns": options.turns,
            "threads": options.threads, "ms": figures, "load": watch.read()}  # fmt: skip


def choices_of(names: tuple[str, ...]) -> dict[str, Weights]:
    """None, the first, and the first two at half their weight."""
    return {"none": ALONE, "one": ((names[0], 1.0),), "two": tuple((name, 0.5) for name in names[:2])}


def drawn(rng: np.random.Generator, vocabulary: int, prefix: int) -> Prompts:
    """One user's only candidate."""
    ids = rng.integers(0, vocabulary, prefix + SUFFIX).tolist()
    return Prompts.of([Prompt(tuple(ids[:prefix]), tuple(ids[prefix:]))])


def turn(scorer: YesNoScorer, choice: Weights, other: Weights, prompts: Prompts) -> dict[str, float]:
    """Milliseconds of the same question thrice: of a new user, at once again, and after a question to `other`."""
    scorer.forget()
    scorer.score(Prompts.of([Prompt((), (1,))]).by(choice))  # the change to it is not the first one's
    found = {"new": milliseconds(scorer, prompts.by(choice)), "returning": milliseconds(scorer, prompts.by(choice))}
    scorer.score(Prompts.of([Prompt((), (1,))]).by(other))
    return {**found, "changed": milliseconds(scorer, prompts.by(choice))}


def milliseconds(scorer: YesNoScorer, prompts: Prompts) -> float:
    started = time.monotonic()
    scorer.score(prompts)
    return 1000.0 * (time.monotonic() - started)


if __name__ == "__main__":
    raise SystemExit(main())
