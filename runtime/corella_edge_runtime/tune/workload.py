"""The requests that are timed: users of the bundle's own sample, each as a new and then as a returning one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Feed
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Candidates, Event, Request, User
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.llm.contract.messages import Prompt

USERS, CANDIDATES, HISTORY = 40, 20, 30
MOST_ITEMS = 50_000


@dataclass(frozen=True, slots=True)
class Visit:
    """Prompts of one user's first request and of the next one, with other candidates."""

    first: list[Prompt]
    again: list[Prompt]

    @property
    def longest(self) -> int:
        """Tokens of the longest of all its prompts."""
        return max(len(prompt.prefix) + len(prompt.suffix) for prompt in (*self.first, *self.again))


def requests(bundle: Bundle, catalog: Catalog, seed: int = 0) -> list[Request]:
    """One request a user, without candidates beyond their own.

    Raises:
        InputError: the catalogue is empty. BundleError: a line of the sample is malformed.
    """
    if not len(catalog):
        raise InputError(f"{bundle.root}: the catalogue has no items, so there is nothing to measure with")
    if not bundle.has(traffic.SAMPLE):
        return _made_up(catalog, seed)
    rows = traffic.read(bundle, None)
    return [rows[i].request for i in traffic.one_per_user(rows, USERS, seed)]


def _made_up(catalog: Catalog, seed: int) -> list[Request]:
    """Users whose history is drawn from the catalogue."""
    rng = np.random.default_rng([seed, 6])
    size = min(HISTORY, len(catalog))
    drawn = [rng.choice(len(catalog), size=size, replace=False).tolist() for _ in range(USERS)]
    histories = [tuple(Event(catalog.ids[row]) for row in rows) for rows in drawn]
    return [Request(User(None, {}, history), ()) for history in histories]


def visits(found: Sequence[Request], catalog: Catalog, prompts: PromptEncoder, seed: int = 0) -> list[Visit]:
    """Twenty candidates a request.

    Raises:
        InputError: no item has a text to ask about.
    """
    rng = np.random.default_rng([seed, 4])
    count = min(CANDIDATES, len(catalog))
    made = [
        Visit(*(prompts_of(prompts, traffic.fill(one, catalog, count, rng)) for one in (request, _bare(request))))
        for request in found
    ]
    usable = [visit for visit in made if visit.first and visit.again]
    if not usable:
        raise InputError("no item of the catalogue has a text: there is nothing to ask the LLM")
    return usable


def _bare(request: Request) -> Request:
    return replace(request, candidates=Candidates(()))


def prompts_of(encoder: PromptEncoder, request: Request) -> list[Prompt]:
    """A prompt for every candidate that has text."""
    prefix = tuple(encoder.prefix(request.user))
    suffixes = (encoder.suffix(candidate) for candidate in request.candidates or ())
    return [Prompt(prefix, tuple(suffix)) for suffix in suffixes if suffix]


def longest_item(prompts: PromptEncoder) -> int:
    """Tokens of the longest text among the catalogue's items, of very many a spread of them."""
    count = len(prompts.catalog)
    texts = (prompts.item(row) for row in range(0, count, 1 + count // MOST_ITEMS))
    return max((len(text) for text in texts if text), default=0)


def feeds(found: Sequence[Request], encoder: FeatureEncoder, seed: int = 0) -> list[Feed]:
    """The CRM's inputs, with the typical number of candidates."""
    rng = np.random.default_rng([seed, 5])
    count = min(typical_candidates(found), len(encoder.catalog))
    filled = (traffic.fill(request, encoder.catalog, count, rng) for request in found)
    return [encoder.encode(request.user, request.candidates or ())[0] for request in filled]


def typical_candidates(found: Sequence[Request]) -> int:
    """Median of the requests' own counts, at least twenty: labelled rows have one candidate, real requests do not."""
    counts = [len(request.candidates or ()) for request in found]
    return max(CANDIDATES, int(np.median(counts)))
