"""Shape (c): a user comes back. Against that user's first request, and against the suffix decodes alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from corella_edge_runtime.llm.contract.messages import Prompt
from harness.models import Subject
from harness.ours import Ours
from harness.pairs import median_ms, ratio_of
from harness.quiet import Watch, is_void, undisturbed
from harness.shapes import SHAPES, PromptStream
from harness.vocabulary import answer_tokens
from peers.suffix_decodes import Floor
from scenarios.scoring.blocks import MeasuringPlan


def returning(subject: Subject, plan: MeasuringPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """A row for every GGUF type and number of candidates; all rounds at the type that was fastest in a few."""
    rows = []
    for shape in ("c3", "c20"):
        scans = [_quiet(subject, shape, kind, plan.scan, plan, say) for kind in plan.types if len(plan.types) > 1]
        kind = min(scans, key=lambda row: float(row["returning_ms"]))["ours_type"] if scans else plan.types[0]
        rows += [{**row, "stage": "scan"} for row in scans]
        rows.append(_quiet(subject, shape, kind, plan.pairs, plan, say))
    return {"model": subject.name, "shape": "c", "rows": rows}


def _quiet(
    subject: Subject, shape: str, kind: str, rounds: int, plan: MeasuringPlan, say: Callable[[str], None]
) -> dict[str, Any]:
    say(f"{subject.name} {shape}: {kind}, {rounds} rounds")
    measure = partial(returning_row, subject, shape, kind, rounds, plan.threads)
    return undisturbed(measure, itemgetter("load"), plan.retries)


def returning_row(subject: Subject, shape: str, kind: str, rounds: int, threads: int) -> dict[str, Any]:
    """First request, second request and bare decode of the second's suffixes, by turns."""
    stream = PromptStream(subject.vocab, seed=17)
    watch = Watch()
    found = [_round(subject, shape, kind, threads, stream) for _ in range(rounds)]
    first, again, alone = np.asarray(found).T
    load = watch.read()
    return {
        "model": subject.name, "shape": shape, "stage": "best", "ours_type": kind, "first_ms": median_ms(first),
        "returning_ms": median_ms(again), "suffixes_alone_ms": median_ms(alone),
        "to_first": ratio_of((again / first).tolist()).to_json(),
        "to_suffixes_alone": ratio_of((again / alone).tolist()).to_json(), "load": load, "void": is_void(load),
    }  # fmt: skip


def _round(subject: Subject, shape: str, kind: str, threads: int, stream: PromptStream) -> tuple[float, float, float]:
    """A turn with both sides freshly opened (see `blocks.stage`), after one that is not timed."""
    asked = SHAPES[shape]
    ours = Ours(subject.files[kind], answer_tokens(), threads)
    floor = Floor(subject.files[kind], threads, asked.candidates)
    turn(ours, floor, stream.batch(asked), stream)
    found = turn(ours, floor, stream.batch(asked), stream)
    ours.close()
    floor.close()
    return found


def turn(ours: Ours, floor: Floor, prompts: list[Prompt], stream: PromptStream) -> tuple[float, float, float]:
    """Seconds of a user's first request, of the next one, and of its suffixes alone."""
    ours.reset()
    first = timed(ours, prompts)
    others = stream.again(prompts)
    again = timed(ours, others)
    return first, again, floor.seconds(others)


def timed(ours: Ours, prompts: list[Prompt]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    ours.score(prompts)
    return time.perf_counter() - began
