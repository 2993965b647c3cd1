"""The LLM's settings against each single change of them, by length of the suffixes: is one choice right for all?

    python benchmarks/llm_settings.py --work runs/scoring [--trained BUNDLE] --out benchmarks/results/llm-settings.json

A user has returned: the prefix of 200 tokens is kept, 20 candidates are decoded. Every round opens the usual settings
and all changes again, on one model, and lets them take turns; each change is paired with the run of the usual settings
beside it. What the runtime gives no choice of (flash attention, split streams, `n_ubatch` apart from a decode's tokens)
is changed where llama.cpp makes the context. About ten minutes of two quiet cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corella_edge.errors import InputError
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from harness.models import TYPES, Subject, subject
from harness.options import check_words, numbers, words
from harness.pairs import ENOUGH, OURS, Pair, alternate, median_ms, ratio
from harness.quiet import Watch, is_void, undisturbed
from harness.results import ended
from harness.shapes import PromptStream
from harness.variants import CANDIDATES, CHANGES, PREFIX, opened, slate

SUFFIXES = (8, 15, 40)
# model → the GGUF types that were fastest in llm_scoring.py here
DEFAULTS = {"135m": ("Q4_0",), "trained": ("Q8_0",)}
Row = dict[str, Any]


def main() -> int:
    options = parse()
    return ended("llm_settings", lambda: measure(options), options.out)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the models, that of llm_scoring.py")
    parser.add_argument("--models", type=words, help=f"{','.join(DEFAULTS)} (default: those that can be made)")
    parser.add_argument("--trained", type=Path, help="a bundle")
    parser.add_argument("--types", type=words, help=f"{','.join(TYPES)} (default: {DEFAULTS})")
    parser.add_argument("--suffixes", type=numbers, default=SUFFIXES, help="tokens of a suffix")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=ENOUGH, help="rounds")
    parser.add_argument("--retries", type=int, default=1, help="how often a disturbed block is measured again")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Numbers and names before any work is done.

    Raises:
        InputError: one that is too small, too great or not known.
    """
    for name in ("threads", "pairs"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: at least 1 is needed")
    if options.retries < 0:
        raise InputError(f"--retries {options.retries}: 0 or more are needed")
    for suffix in options.suffixes:
        if not 1 <= suffix <= max(SUFFIXES):
            raise InputError(f"--suffixes {suffix}: 1 to {max(SUFFIXES)} tokens fit")
    check_words(options, {"models": tuple(DEFAULTS), "types": TYPES})


def measure(options: argparse.Namespace) -> Row:
    """Every model, type and length of suffix.

    Raises:
        InputError: an option that does not fit.
    """
    check(options)
    torch.set_num_threads(options.threads)
    found = {"what": "settings of the LLM", "threads": options.threads, "prefix": PREFIX, "candidates": CANDIDATES}
    return {**found, "blocks": list(blocks(options))}


def blocks(options: argparse.Namespace) -> Iterator[Row]:
    """One at a time, printed when it is done."""
    for name in options.models or (("135m", "trained") if options.trained else ("135m",)):
        types = options.types or DEFAULTS[name]
        made = subject(name, options.work, types, options.trained, None)
        for kind, suffix in ((kind, suffix) for kind in types for suffix in options.suffixes):
            print(f"… {name} {kind}, suffixes of {suffix}: {options.pairs} rounds", file=sys.stderr, flush=True)
            work = partial(block, made, kind, suffix, options.pairs, options.threads)
            found = undisturbed(work, itemgetter("load"), options.retries)
            print(table(found), flush=True)
            yield found


def block(made: Subject, kind: str, suffix: int, rounds: int, threads: int) -> Row:
    """All changes at one length of the suffixes."""
    stream, answers, decodes = PromptStream(made.vocab, seed=19), list[dict[str, list[float]]](), dict[str, int]()
    watch = Watch()

    def run(_: int, steps: Sequence[str]) -> list[float]:
        prefix = stream.ids(PREFIX)
        with opened(made.files[kind], list(CHANGES), threads) as sides:
            asked = slate(stream, prefix, suffix)
            answers.append({name: warm(side, asked) for name, side in sides.items()})
            timed = slate(stream, prefix, suffix)
            return [clock(sides[name], timed, decodes, name) for name in steps]

    pairs, own = alternate(list(CHANGES), rounds, run)
    load = watch.read()
    rows = [row_of(name, found, decodes[name], gap(answers, name)) for name, found in pairs.items()]
    about = {"model": made.name, "type": kind, "suffix": suffix, "usual_ms": median_ms(own), "decodes": decodes[OURS]}
    return {**about, "rows": rows, "faster": [] if is_void(load) else faster(rows), "load": load, "void": is_void(load)}


def warm(side: YesNoScorer, asked: Sequence[Prompt]) -> list[float]:
    """P(Yes) of one slate, after which a side's prefix is kept and its buffers have been written to."""
    side.score(asked[:1])
    return [answer.probability for answer in side.score(asked)]


def clock(side: YesNoScorer, asked: Sequence[Prompt], decodes: dict[str, int], name: str) -> float:
    """Seconds for these prompts of the user who is kept; how many decodes they took is noted."""
    before, began = side.counters.decodes, time.perf_counter()
    side.score(asked)
    seconds = time.perf_counter() - began
    decodes[name] = side.counters.decodes - before
    return seconds


def gap(answers: Sequence[dict[str, list[float]]], name: str) -> float:
    """Greatest difference of P(Yes) from the usual settings."""
    return max(float(np.abs(np.subtract(found[name], found[OURS])).max()) for found in answers)


def row_of(name: str, pairs: Sequence[Pair], decodes: int, difference: float) -> Row:
    """A change against the usual settings: above 1 it is slower."""
    changed = ratio([Pair(pair.peer, pair.ours) for pair in pairs]).to_json()
    times = {"ms": median_ms([pair.peer for pair in pairs]), "decodes": decodes}
    return {"change": name, **times, "ratio": changed, "difference": round(difference, 6)}


def faster(rows: Sequence[Row]) -> list[str]:
    """Changes whose whole interval lies below 1, over enough pairs."""
    return [row["change"] for row in rows if row["ratio"]["high"] < 1.0 and row["ratio"]["pairs"] >= ENOUGH]


def table(found: Row) -> str:
    """The figures for reading."""
    name = f"{found['model']} {found['type']}, suffixes of {found['suffix']}"
    void = f"  VOID {found['load']}" if found["void"] else ""
    lines = [f"\n{name}: usual {found['usual_ms']:.1f} ms in {found['decodes']} decode(s){void}"]
    for row in found["rows"]:
        r = row["ratio"]
        spread = f"{r['median']:7.3f}  [{r['low']:.3f}, {r['high']:.3f}] n={r['pairs']}"
        lines.append(f"  {row['change']:34}{row['ms']:9.1f} ms{row['decodes']:4d} decode(s){spread}"
                     f"  dP {row['difference']:.1e}")  # fmt: skip
    return "\n".join([*lines, f"  faster than the usual settings: {', '.join(found['faster']) or 'none'}"])


if __name__ == "__main__":
    sys.exit(main())
