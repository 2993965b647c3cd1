"""How far the LLM's scores move with batch, cache and neighbours: the usual mode against the deterministic one.

    python benchmarks/deviation.py BUNDLE [BUNDLE …] --out benchmarks/results/deviation.json

For every LLM file of a bundle, each prompt is scored alone (deterministic; a tenth of them once more: bit-equal), then
several times as serving does: through the real backend, by several callers at once. Users come mixed and return soon
or late, so that prefixes come, stay, are evicted, and grow by an event; each time all of their candidates are asked
about, or some; some callers have a near deadline or go away. By default 25,000 prompts a file, of 250 users: on
one core half a minute for the demo's model, two and a half for that of ml-1m-stages. It is no timing: the machine may
be busy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge.prompt import PromptEncoder, Tokens
from corella_edge.request import Request
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.llm.backends.thread import ThreadBackend
from corella_edge_runtime.llm.contract.backend import LlmBackend
from corella_edge_runtime.llm.contract.messages import Answers, Prompt
from corella_edge_runtime.llm.contract.settings import MOST_QUEUED, LlmSettings
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from corella_edge_runtime.tune.workload import prompts_of
from harness.results import ended

FloatArray = npt.NDArray[np.float64]
VISITS = 6  # of a user before the latest event, and again after it
SOON, LATE = 2.0, 40.0  # other users who come meanwhile, on average
HURRIED, GOING = 0.1, 0.1  # shares of the visits: with a near deadline, and called off
LONGEST = 0.03  # seconds until either
FAR = 5e-3  # the share of answers beyond it is told
PATIENCE = 600.0  # seconds for an answer
COUNTED = ("prefix_hits", "prefix_misses", "evictions", "expired", "aborted", "decodes")


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A user's prompts at one moment, and P(Yes) of each in the deterministic mode; nan before the latest event."""

    prompts: Sequence[Prompt]
    exact: FloatArray


@dataclass(frozen=True, slots=True)
class Question:
    """One question: some of a group's prompts; seconds to its deadline and until it is called off, None = never."""

    group: int
    chosen: tuple[int, ...]
    within: float | None = None
    leaves: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    return ended("deviation", lambda: measure(options), options.out)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A row a file of weights. Raises CorellaError: an option, or a bundle that cannot be used."""
    check(options)
    bundles = [opened(path) for path in options.bundles]
    found = [row for bundle, files in bundles for row in of_bundle(bundle, files, options)]
    print(table(found))
    names = ("threads", "callers", "candidates")
    about = {"what": "deviation of P(Yes) from the deterministic mode", **{k: getattr(options, k) for k in names}}
    return {**about, "far": FAR, "rows": found}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--prompts", type=int, default=25_000, help="of a file; fewer if the sample has few users")
    parser.add_argument("--candidates", type=int, default=100, help="of a user")
    parser.add_argument("--callers", type=int, default=8, help="at a time")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
    """Numbers before any work is done.

    Raises:
        InputError: one is below 1, or no file can be written at --out.
    """
    for name in ("prompts", "candidates", "callers", "threads"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: at least 1")
    if options.out and options.out.is_dir():
        raise InputError(f"--out {options.out}: is a folder; name a file")


def opened(path: Path) -> tuple[Bundle, list[str]]:
    """A bundle and its LLM files; all are opened before the first is measured."""
    bundle = Bundle.open(path)
    files = sorted(name for name in bundle.manifest.files if name.startswith("llm") and name.endswith(".gguf"))
    if not files:
        raise BundleError(f"{path}: the bundle has no LLM")
    return bundle, files


def of_bundle(bundle: Bundle, files: Sequence[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a file."""
    return [{"bundle": bundle.label, "file": file, **compared(bundle, file, options)} for file in files]


def compared(bundle: Bundle, file: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one file."""
    prompt = bundle.prompt()
    if prompt is None:
        raise BundleError(f"{bundle.root}: the bundle has no prompt")
    template, tokens = prompt
    model = Model(bundle.path(file))
    encoder = PromptEncoder(template, bundle.schema()[1], model.tokenize, tokens)
    users = [[prompts_of(encoder, moment) for moment in moments] for moments in moments_of(bundle, encoder, options)]
    groups, repeats = deterministic(model, tokens, users, options.threads)
    settings = LlmSettings(options.threads, queue_tokens=MOST_QUEUED, max_wait=PATIENCE)
    backend = ThreadBackend(lambda: YesNoScorer(model, tokens, settings), settings)
    try:
        gaps = visited(backend, groups, schedule(users, np.random.default_rng(1)), options.callers)
        counted = {name: int(backend.stats()[name]) for name in COUNTED}
    finally:
        backend.close()
    if not len(gaps):
        raise BundleError(f"{bundle.root}: {file} answered nothing: has no candidate of the sample a text?")
    count = sum(len(moments[-1]) for moments in users)
    return {"type": model.file_type, "prompts": count, **figures(gaps), "repeats": repeats, "counted": counted}


def moments_of(bundle: Bundle, encoder: PromptEncoder, options: argparse.Namespace) -> list[list[Request]]:
    """Of each user a request before the latest event and one after it, with the same candidates."""
    found, rng, rows = [], np.random.default_rng(0), traffic.read(bundle, None)
    count = -(-options.prompts // options.candidates)
    for k in traffic.one_per_user(rows, count, 0):
        request = traffic.fill(rows[k].request, encoder.catalog, options.candidates, rng)
        before = replace(request, user=replace(request.user, history=request.user.history[:-1]))
        found.append([before, request])
    return found


def deterministic(
    model: Model, tokens: Tokens, users: Sequence[Sequence[Sequence[Prompt]]], threads: int
) -> tuple[list[PromptGroup], bool]:
    """Each user's groups, the last with its exact scores; whether a tenth of these were bit-equal the second time."""
    scorer = YesNoScorer(model, tokens, LlmSettings(threads, deterministic=True))
    try:
        found = [
            PromptGroup(prompts, probabilities(scorer.score(prompts)) if last else np.full(len(prompts), np.nan))
            for moments in users
            for prompts, last in zip(moments, (False, True), strict=True)
        ]
        again = found[::-20]
        same = all(np.array_equal(probabilities(scorer.score(one.prompts[::-1]))[::-1], one.exact) for one in again)
        return found, same
    finally:
        scorer.close()


def probabilities(answers: Answers) -> FloatArray:
    """P(Yes) of each, nan where it came too late.

    Raises:
        BundleError: there is no answer for another reason.
    """
    reasons = set(answers.reasons) - {"", "deadline"}
    if reasons:
        raise BundleError(f"the LLM does not answer the bundle's own sample: {', '.join(sorted(reasons))}")
    return answers.probability


def schedule(users: Sequence[Sequence[Sequence[Prompt]]], rng: np.random.Generator) -> list[Question]:
    """Who comes when: user after user, each returning soon or late, first as before the event and then as after it."""
    timed, group = [], 0
    for start, moments in enumerate(users):
        at = float(start)
        for prompts in moments:
            for _ in range(VISITS):
                timed.append((at, visit_of(group, len(prompts), rng)))
                at += rng.exponential(rng.choice((SOON, LATE)))
            group += 1
    return [visit for _, visit in sorted(timed, key=lambda one: one[0])]


def visit_of(group: int, size: int, rng: np.random.Generator) -> Question:
    """All of the prompts, or every other time some, more often few than many; mostly without haste."""
    count = size if rng.random() < 0.5 else int(size ** rng.random())
    chosen = tuple(rng.permutation(size)[:count].tolist())
    mood, seconds = rng.random(), float(rng.random() * LONGEST)
    if mood < HURRIED:
        return Question(group, chosen, within=seconds)
    return Question(group, chosen, leaves=seconds if mood < HURRIED + GOING else None)


def visited(backend: LlmBackend, groups: Sequence[PromptGroup], visits: Sequence[Question], callers: int) -> FloatArray:
    """How far all answers are from the deterministic ones."""
    with ThreadPoolExecutor(callers) as pool:
        return np.concatenate(list(pool.map(lambda visit: asked(backend, groups[visit.group], visit), visits)))


def asked(backend: LlmBackend, group: PromptGroup, visit: Question) -> FloatArray:
    """The same of one visit: of what it was answered."""
    deadline = None if visit.within is None else time.monotonic() + visit.within
    future = backend.submit([group.prompts[i] for i in visit.chosen], deadline)
    if visit.leaves is not None:
        time.sleep(visit.leaves)
        if future.cancel():
            return np.empty(0)
    gaps = np.abs(probabilities(future.result(PATIENCE)) - group.exact[list(visit.chosen)])
    return gaps[~np.isnan(gaps)]


def figures(gaps: FloatArray) -> dict[str, Any]:
    """Of one answer at least."""
    return {
        "answers": len(gaps), "greatest": float(gaps.max()), "p9999": float(np.quantile(gaps, 0.9999)),
        "mean": float(gaps.mean()), "far": float((gaps > FAR).mean()),
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For the terminal."""
    gaps = f"greatest | 99.99 % | mean | above {FAR:g} | repeats bit-equal"
    lines = [
        "| {bundle} | {file} | {type} | {prompts} | {answers} | {greatest:.1e} | {p9999:.1e} | {mean:.1e} | {far:.1e} "
        "| {repeats} |".format(**row)
        for row in rows
    ]
    return "\n".join([f"| bundle | file | type | prompts | answers | {gaps} |", "|---" * 10 + "|", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
