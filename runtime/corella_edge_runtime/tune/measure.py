"""Duels: two alternatives timed in turns, so that a machine that drifts drifts for both."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any

from corella_edge.adapters import ALONE, Weights
from corella_edge.errors import BundleError, CorellaError
from corella_edge.features.schema import Feed
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.messages import Prompts
from corella_edge_runtime.llm.llama.own_thread import claim
from corella_edge_runtime.tune.decide import Duel
from corella_edge_runtime.tune.workload import Visit

if TYPE_CHECKING:
    from corella_edge_runtime.crm import Crm

FEWEST, MOST = 5, 41
CALLS = 5  # of the CRM a timing: one lasts little longer than the clock's own noise
NEW, RETURNING, CRM = "new user", "returning user", "CRM"
# A turn: the number of the user or feed → workload → seconds.
Turn = Callable[[int], Mapping[str, float]]
Open = Callable[[], Any]  # a context manager of a Turn


def duel(challenger: str, incumbent: str, opened: tuple[Open, Open], seconds: float) -> Duel:
    """Time both in turns for about `seconds`, at least five turns; one that cannot be opened or run has lost.

    Args:
        opened: what opens the challenger and the incumbent.
    """
    with ExitStack() as stack:
        mine: Turn = stack.enter_context(opened[1]())
        mine(0)
        try:
            other: Turn = stack.enter_context(opened[0]())
            other(0)
        except CorellaError as error:
            return Duel(challenger, incumbent, note=f"cannot run: {error}")
        return summary(challenger, incumbent, list(turns(other, mine, seconds)))


def turns(
    other: Turn, mine: Turn, seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Mapping[str, float], Mapping[str, float]]]:
    """Both on the same work, who is first changing from turn to turn."""
    end = clock() + seconds
    for number in range(MOST):
        if number >= FEWEST and clock() >= end:
            return
        if number % 2:
            second = mine(number)
            yield other(number), second
        else:
            yield other(number), mine(number)


def summary(challenger: str, incumbent: str, pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Duel:
    """Medians of the times, and each turn's ratio over all workloads."""
    names = list(pairs[0][0])
    ms = {name: (_ms(pair[0][name] for pair in pairs), _ms(pair[1][name] for pair in pairs)) for name in names}
    ratios = [geometric_mean([other[name] / mine[name] for name in names]) for other, mine in pairs]
    return Duel(challenger, incumbent, ms, tuple(ratios))


def _ms(seconds: Iterator[float]) -> float:
    return 1000.0 * median(seconds)


@contextmanager
def llm_turn(spec: ModelSpec, visits: Sequence[Visit], by: Weights = ALONE) -> Iterator[Turn]:
    """A model with its scorer; a turn is one user's first request and the next, answered by these adapters of it.

    Raises:
        BundleError, InputError: the file cannot be loaded or run so.
    """
    # A thread of its own, as in serving: llama.cpp's threads inherit the cores of the one that starts them.
    with ThreadPoolExecutor(1, initializer=_bind, initargs=(spec.settings.cores,)) as owner:
        model, scorer = owner.submit(open_scorer, spec).result()
        usable = [visit for visit in visits if visit.longest <= scorer.limit]
        try:
            if not usable:
                raise BundleError(
                    f"{spec.file.name}: no prompt of the sample fits its context of {scorer.limit} tokens"
                )
            yield lambda number: owner.submit(_visit, scorer, spec.file.name, usable[number % len(usable)], by).result()
        finally:
            scorer.close()
            model.close()


def _bind(cores: Sequence[int]) -> None:
    claim()
    if cores:
        os.sched_setaffinity(0, cores)


def _visit(scorer: Any, name: str, visit: Visit, by: Weights) -> Mapping[str, float]:
    """Workload → seconds."""
    scorer.forget()
    first, again = (Prompts.of(prompts).by(by) for prompts in (visit.first, visit.again))
    return {NEW: _timed(scorer, name, first), RETURNING: _timed(scorer, name, again)}


def open_scorer(spec: ModelSpec) -> tuple[Any, Any]:
    """A `Model` and its `YesNoScorer`. Raises MissingExtraError without llama.cpp."""
    binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
    scorer = importlib.import_module("corella_edge_runtime.llm.llama.scorer")
    model = binding.Model(spec.file, extra=spec.extra, adapters=spec.adapters)
    try:
        return model, scorer.YesNoScorer(model, spec.tokens, spec.settings)
    except BaseException:
        model.close()
        raise


def _timed(scorer: Any, name: str, prompts: Sequence[Any]) -> float:
    began = time.perf_counter()
    answers = scorer.score(prompts)
    seconds = time.perf_counter() - began
    reasons = {answer.reason for answer in answers if answer.reason}
    if reasons:
        raise BundleError(f"{name}: prompts of the sample get no score ({', '.join(sorted(reasons))})")
    return seconds


@contextmanager
def crm_turn(crm: Crm, feeds: Sequence[Feed]) -> Iterator[Turn]:
    """A session; a turn is a few requests of one user."""

    def turn(number: int) -> Mapping[str, float]:
        feed = feeds[number % len(feeds)]
        crm.forget()  # the user comes, and asks again
        began = time.perf_counter()
        for _ in range(CALLS):
            crm.probability(feed)
        return {CRM: (time.perf_counter() - began) / CALLS}

    yield turn
