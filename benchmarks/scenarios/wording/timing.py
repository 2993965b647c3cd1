"""Milliseconds of 20 candidates in both forms, each on its own trained weights, by turns on the same users.

A bundle's template has one text for lines and questions: bundled as it is, the paper's form would repeat its words in
every line of the history. Those prompts are timed as well ("repeated"), but not judged.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Request
from corella_edge_export.data.prepared import PreparedData
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from harness.pairs import alternate, median_ms, ratio
from harness.quiet import Watch, is_void, undisturbed
from harness.report import judged
from scenarios.wording.prompts import PAPER
from scenarios.wording.training import GGUF, Forms, Study

CANDIDATES, TARGET = 20, 0.6
LINES = ("short", "repeated")
JUDGED = "short"
Row = dict[str, Any]


class TimedForm:
    """One form's scorer on its own weights, and its prompts."""

    def __init__(self, path: Path, encoder: PromptEncoder, threads: int) -> None:
        self.encoder = encoder
        self._model = Model(path)
        self._scorer = YesNoScorer(self._model, encoder.tokens, LlmSettings(threads=threads))

    def seconds(self, request: Request, returning: bool) -> float:
        """Of a request's last 20 candidates; a returning user has asked for the first 20 before."""
        asked = prompts_of(self.encoder, request)
        self._scorer.forget()
        if returning:
            self._scorer.score(asked[:-CANDIDATES])
        start = time.perf_counter()
        answers = self._scorer.score(asked[-CANDIDATES:])
        passed = time.perf_counter() - start
        if any(answer.reason for answer in answers):
            raise ExportError(f"a prompt got no score: {sorted({answer.reason for answer in answers})}")
        return passed

    def close(self) -> None:
        self._scorer.close()
        self._model.close()


Encoders = Mapping[str, PromptEncoder]
Opened = Callable[[], AbstractContextManager[dict[str, TimedForm]]]


def prompts_of(encoder: PromptEncoder, request: Request) -> list[Prompt]:
    """A prompt for every candidate that has text."""
    prefix = tuple(encoder.prefix(request.user))
    suffixes = (encoder.suffix(candidate) for candidate in request.candidates or ())
    return [Prompt(prefix, tuple(suffix)) for suffix in suffixes if suffix is not None]


def request_of(data: PreparedData, catalog: Catalog, number: int) -> Request:
    """A seeded validation user with two lists of catalogue items, those with a title."""
    split, rng = data.split("valid"), np.random.default_rng([5, number])
    titled = [row for row in range(len(catalog)) if catalog.attributes[row].get("title")]
    places = {item: place for place, item in enumerate(data.item_ids)}
    drawn = rng.choice(titled, 2 * CANDIDATES, replace=False).tolist()
    row = int(rng.integers(len(split.users)))
    return data.request(int(split.users[row]), int(split.positions[row]), [places[catalog.ids[i]] for i in drawn])


def measure(study: Study, options: argparse.Namespace) -> Row:
    """New and returning users, on the first seed's models, which are trained first where they are not."""
    seed = options.seeds[0]
    forms = study.forms(seed)
    about = study.about(forms)
    for form in forms.values():
        form.train()
    _, catalog = study.words.fit_inputs()
    requests = [request_of(study.words.data, catalog, number) for number in range(options.pairs)]
    rows = [row for lines in LINES for row in of_lines(forms, lines, requests, options)]
    return {**about, "seed": seed, "candidates": CANDIDATES, "gguf": GGUF, "threads": options.threads,
            "rows": rows}  # fmt: skip


def of_lines(forms: Forms, lines: str, requests: list[Request], options: argparse.Namespace) -> Iterator[Row]:
    """Both kinds of users with one kind of history lines."""
    encoders = {name: form.short_lines() if lines == "short" else form.repeated() for name, form in forms.items()}
    opened = partial(sides_of, {name: form.gguf for name, form in forms.items()}, encoders, options.threads)
    for returning in (False, True):
        named = {"lines": lines, "user": "returning" if returning else "new"}
        measure = partial(by_turns, opened, encoders, requests, returning)
        yield {**named, **undisturbed(measure, itemgetter("load"), options.retries)}


@contextmanager
def sides_of(files: Mapping[str, Path], encoders: Encoders, threads: int) -> Iterator[dict[str, TimedForm]]:
    """Both scorers, ready."""
    sides = {name: TimedForm(path, encoders[name], threads) for name, path in files.items()}
    try:
        yield sides
    finally:
        for side in sides.values():
            side.close()


def by_turns(opened: Opened, encoders: Encoders, requests: list[Request], returning: bool) -> Row:
    """Ours and the paper's on the same user, one after the other, opened again for every user (see `blocks.stage`)."""

    def run(number: int, steps: Sequence[str]) -> list[float]:
        with opened() as sides:
            for side in sides.values():
                side.seconds(requests[number - 1], returning)  # not counted
            return [sides[name].seconds(requests[number], returning) for name in steps]

    watch = Watch()
    pairs, _ = alternate([PAPER], len(requests), run)
    load, found = watch.read(), ratio(pairs[PAPER])
    lengths = {name: mean_lengths([prompts_of(one, user) for user in requests]) for name, one in encoders.items()}
    return {
        "ours_ms": median_ms([pair.ours for pair in pairs[PAPER]]), "ratio": found.to_json(),
        "paper_ms": median_ms([pair.peer for pair in pairs[PAPER]]), "tokens": lengths,
        "load": load, "void": is_void(load),
    }  # fmt: skip


def mean_lengths(asked: Sequence[Sequence[Prompt]]) -> dict[str, float]:
    """Mean tokens of a prefix and of a suffix."""
    suffixes = [len(prompt.suffix) for prompts in asked for prompt in prompts]
    prefixes = [len(prompts[0].prefix) for prompts in asked]
    return {"prefix": round(float(np.mean(prefixes)), 1), "suffix": round(float(np.mean(suffixes)), 1)}


def targets(part: Row) -> list[Row]:
    """Time of 20 candidates where the histories are equal: the paper's form at its cheapest."""
    what = f"time of {CANDIDATES} candidates, ours / the paper's"
    return [judged(f"{what}, {row['user']} user", row["ratio"], "<=", TARGET, row["void"])
            for row in part["rows"] if row["lines"] == JUDGED]  # fmt: skip


def table(part: Row) -> str:
    """The figures for people."""
    return "\n".join(map(line, part["rows"]))


def line(row: Row) -> str:
    """One timing and its token counts."""
    counts = " against ".join(f"{one['prefix']:.0f} + 20 x {one['suffix']:.1f}" for one in row["tokens"].values())
    span = "{median:.3f} [{low:.3f}, {high:.3f}] n={pairs}".format(**row["ratio"])
    return (f"lines {row['lines']:9}{row['user']:10}ours {row['ours_ms']:8.2f} ms  paper's {row['paper_ms']:8.2f} ms  "
            f"{span}{'  VOID' if row['void'] else ''}  tokens {counts}")  # fmt: skip
