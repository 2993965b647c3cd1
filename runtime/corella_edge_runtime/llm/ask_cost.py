"""What asking the LLM costs on this machine, in milliseconds: a request's first candidate, and each further one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from itertools import islice

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.json_lines import parse_traffic, read_lines
from corella_edge.request import Candidate, Event, User
from corella_edge.routing.policy import AskCost
from corella_edge_runtime.llm.asking import FIRST_ANSWER, Llm

MORE = 16  # candidates beside the first of the larger requests
ROUNDS = 3
SECONDS = 5.0  # after so long no further round begins
LINES = 200  # of the sample, among which users are looked for
EVENTS = 30  # of a history that is made up


def measure(llm: Llm, bundle: Bundle, catalog: Catalog, clock: Callable[[], float] = time.monotonic) -> AskCost | None:
    """The quickest of a few requests of users whom the LLM has not read, with one candidate and with many; None without
    an answer. Whatever else the machine does can only add to them.

    What is kept of those users is dropped afterwards.
    """
    people = users(bundle, catalog, 1 + 2 * ROUNDS)
    items = _with_text(llm, catalog, 1 + MORE)
    if not people or not items:
        return None
    begun, single, several = clock(), list[float](), list[float]()
    if not np.isfinite(_ask(llm, people[0], items[:1], clock)):  # a first time, which teaches only whether it answers
        return None
    for one, other in zip(people[1::2], people[2::2], strict=False):
        if single and clock() - begun > SECONDS:
            break
        single.append(_ask(llm, one, items[:1], clock))
        several.append(_ask(llm, other, items, clock))
    llm.forget()
    return cost_of(single, several, len(items) - 1)


def cost_of(single: Sequence[float], several: Sequence[float], more: int) -> AskCost | None:
    """From milliseconds of requests with one candidate, and with so many more; inf = no answer came."""
    if not single or not np.isfinite([*single, *several]).all():
        return None
    first = min(single)
    return AskCost(first, max(0.0, min(several) - first) / max(1, more))


def users(bundle: Bundle, catalog: Catalog, count: int) -> list[User]:
    """Different users of the bundle's sample, those with the longest histories first; without one, made up."""
    known: dict[str | None, User] = {}
    for user in _sampled(bundle):
        known.setdefault(user.id, user)
    if len(known) >= count:
        return sorted(known.values(), key=lambda user: -len(user.history))[:count]
    rng = np.random.default_rng(0)
    size = min(EVENTS, len(catalog))
    drawn = [rng.choice(len(catalog), size=size, replace=False).tolist() for _ in range(count)]
    return [User(None, {}, tuple(Event(catalog.ids[row]) for row in rows)) for rows in drawn]


def _sampled(bundle: Bundle) -> Iterator[User]:
    if bundle.has("sample.jsonl"):
        rows = read_lines(bundle.path("sample.jsonl"), parse_traffic, BundleError)
        yield from (row.request.user for row in islice(rows, LINES))


def _with_text(llm: Llm, catalog: Catalog, count: int) -> list[Candidate]:
    named = (Candidate(catalog.ids[row]) for row in range(len(catalog)) if llm.prompts.item(row))
    return list(islice(named, count))


def _ask(llm: Llm, user: User, items: Sequence[Candidate], clock: Callable[[], float]) -> float:
    """Milliseconds until all are answered; inf if one is not."""
    begun = clock()
    asking = llm.begin(user, items, np.zeros(len(items)), time.monotonic() + FIRST_ANSWER)
    if asking.future is not None:
        wait([asking.future], FIRST_ANSWER)
    took = 1000.0 * (clock() - begun)
    return took if asking.answers().answered.all() else float("inf")
