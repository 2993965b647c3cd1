"""One block is one model on one shape: all GGUF types in a few rounds, then each side at its best in all rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt
from harness.models import Subject
from harness.ours import Ours
from harness.pairs import OURS, Pair, alternate, median_ms, ratio
from harness.quiet import Watch, is_void, undisturbed
from harness.shapes import SHAPES, PromptStream, Shape
from harness.vocabulary import answer_tokens
from peers.table import COLD, KNOWN, Peer, make_peer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MeasuringPlan:
    """How much is measured.

    Attributes:
        pairs: rounds at the best types.
        scan: rounds at every type, which choose the best.
        retries: how often a disturbed stage is measured again.
    """

    threads: int
    pairs: int
    scan: int
    types: tuple[str, ...]
    retries: int


@dataclass(frozen=True, slots=True)
class TimedStage:
    """Sides that ran by turns: (peer, its type) → pairs with ours, whose type is `own`."""

    own: str
    kinds: dict[str, str]
    pairs: dict[str, list[Pair]]
    own_seconds: list[float]
    differences: dict[str, float]
    compared: dict[str, int]
    load: dict[str, float]


def block(subject: Subject, shape: str, peers: Sequence[str], plan: MeasuringPlan, say: Say) -> dict[str, Any]:
    """All rows of one model and shape, ready for JSON."""
    typed = [name for name in peers if KNOWN[name][0]]
    scans: list[TimedStage] = []
    if len(plan.types) > 1:
        for kind in plan.types:
            say(f"{subject.name} {shape}: {kind}, {plan.scan} rounds")
            scans.append(quiet_stage(subject, SHAPES[shape], kind, dict.fromkeys(typed, kind), plan.scan, plan))
    own, kinds = best_types(scans, peers, plan.types[0])
    say(f"{subject.name} {shape}: ours {own}, peers {kinds}, {plan.pairs} rounds")
    final = quiet_stage(subject, SHAPES[shape], own, kinds, plan.pairs, plan)
    rows = [row for stage in scans for row in rows_of(subject, shape, stage, "scan")]
    rows += rows_of(subject, shape, final, "best")
    return {"model": subject.name, "shape": shape, "rows": rows, "cold": cold_best(rows)}


def quiet_stage(
    subject: Subject, shape: Shape, own: str, kinds: dict[str, str], rounds: int, plan: MeasuringPlan
) -> TimedStage:
    """A stage on a quiet machine, or the last one that was tried."""
    measure = partial(stage, subject, shape, own, kinds, rounds, plan.threads)
    return undisturbed(measure, lambda found: found.load, plan.retries)


def stage(subject: Subject, shape: Shape, own: str, kinds: dict[str, str], rounds: int, threads: int) -> TimedStage:
    """Ours and the peers by turns, on the same prompts in a round; all are opened again for every round.

    Where a side's buffers happen to lie is worth up to 15 % of its time, and stays so until it is opened again: rounds
    of one opening would not be independent, and an interval over them too narrow.
    """
    stream, compared = PromptStream(subject.vocab, seed=11), []
    open_now: dict[str, Peer] = {}
    watch = Watch(lambda: [child for side in open_now.values() for child in side.processes()])

    def run(_: int, steps: Sequence[str]) -> list[float]:
        with sides(subject, own, kinds, answer_tokens(), threads) as found:
            open_now.update(found)
            compared.append(compare(found, stream.batch(shape)))
            batch = stream.batch(shape)
            seconds = [clock(found[name], batch) for name in steps]
            open_now.clear()
        return seconds

    pairs, own_seconds = alternate(list(kinds), rounds, run)
    return TimedStage(own, kinds, pairs, own_seconds, *greatest(compared), watch.read())


@contextmanager
def sides(
    subject: Subject, own: str, kinds: dict[str, str], tokens: Tokens, threads: int
) -> Iterator[dict[str, Peer]]:  # fmt: skip
    """Ours and the peers, opened; all are closed at the end."""
    with ExitStack() as stack:
        found: dict[str, Peer] = {OURS: stack.enter_context(closing(Ours(subject.files[own], tokens, threads)))}
        for name, kind in kinds.items():
            found[name] = stack.enter_context(closing(make_peer(name, subject, kind, tokens, threads)))
        yield found


def clock(side: Peer, prompts: Sequence[Prompt]) -> float:
    """Seconds for these prompts, from nothing."""
    part = prompts[: side.sample]
    side.reset()
    began = time.perf_counter()
    side.score(part)
    return (time.perf_counter() - began) * len(prompts) / len(part)


def compare(found: dict[str, Peer], prompts: Sequence[Prompt]) -> tuple[dict[str, float], dict[str, int]]:
    """Of each peer, the greatest difference of P(Yes) from ours, and over how many prompts."""
    found[OURS].reset()
    own = found[OURS].score(prompts)
    differences, compared = {}, {}
    for name, side in found.items():
        if name != OURS:
            side.reset()
            gaps = np.abs(np.asarray(side.score(prompts[: side.sample])) - np.asarray(own[: side.sample]))
            seen = gaps[~np.isnan(gaps)]
            compared[name] = len(seen)
            differences[name] = float(seen.max()) if len(seen) else math.nan
    return differences, compared


def greatest(
    compared: Sequence[tuple[dict[str, float], dict[str, int]]],
) -> tuple[dict[str, float], dict[str, int]]:
    """Of each peer in all parts of a stage: the greatest difference, nan if there was none to see, and all prompts."""
    return (
        {name: float(np.fmax.reduce([gaps[name] for gaps, _ in compared])) for name in compared[0][0]},
        {name: sum(seen[name] for _, seen in compared) for name in compared[0][1]},
    )


def best_types(scans: Sequence[TimedStage], peers: Sequence[str], first: str) -> tuple[str, dict[str, str]]:
    """The type at which ours, and each peer, was fastest in the scans; `first` where there were none."""
    scans = [stage for stage in scans if not is_void(stage.load)] or scans
    if not scans:
        return first, dict.fromkeys(peers, first)
    own = min(scans, key=lambda stage: float(np.median(stage.own_seconds))).own
    fastest = {
        name: min(scans, key=lambda stage: float(np.median([pair.peer for pair in stage.pairs[name]]))).own
        for name in scans[0].pairs
    }
    return own, {name: fastest.get(name, own) for name in peers}


def rows_of(subject: Subject, shape: str, stage: TimedStage, kind: str) -> list[dict[str, Any]]:
    """One row a peer."""
    return [row_of(subject, shape, stage, name, kind) for name in stage.pairs]


def row_of(subject: Subject, shape: str, stage: TimedStage, name: str, kind: str) -> dict[str, Any]:
    """Everything about one peer in one stage."""
    pairs = stage.pairs[name]
    gap = stage.differences[name]
    return {
        "model": subject.name, "shape": shape, "stage": kind, "peer": name, "ours_type": stage.own,
        "peer_type": type_of(name, stage.kinds[name]), "ours_ms": median_ms([pair.ours for pair in pairs]),
        "peer_ms": median_ms([pair.peer for pair in pairs]), "ratio": ratio(pairs).to_json(),
        "difference": None if math.isnan(gap) else round(gap, 6), "compared": stage.compared[name],
        "load": stage.load, "void": is_void(stage.load),
    }  # fmt: skip


def type_of(name: str, kind: str) -> str:
    """The GGUF type, or torch's number format."""
    return kind if KNOWN[name][0] else name.split("-")[1]


def cold_best(rows: Sequence[dict[str, Any]]) -> str | None:
    """The fastest peer, at its best type, of those that read every prompt from its beginning."""
    found = [row for row in rows if row["stage"] == "best" and row["peer"] in COLD]
    return min(found, key=lambda row: float(row["peer_ms"]))["peer"] if found else None
