"""How many routed candidates of returning users need no new answer of the LLM? A replayed stream of sessions.

    python benchmarks/kept_answers.py BUNDLE [--threshold ratio:0.1] [--kept 100000] [--age 3600] [--out …]

The users of the bundle's sample come back in sessions, as they do to a shop: a session is some views of a page of 20
candidates, each view half new and half from the view before, half a minute apart; between two views the user does
something with a given chance, and then the history is another one. The base model is the bundle's own; the LLM is not
asked, because how often it would be is all that is counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.json_lines import parse_traffic, read_lines
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.routing.kept import KeptAnswers, key_of, state_of
from corella_edge_runtime.engine import Engine
from harness.results import ended

PAGE, VIEWS, APART, PAUSE = 20, 4, 30.0, 20.0  # candidates, views a session in the mean, seconds; seconds to the next
CHANCES = (0.0, 0.1, 0.3, 1.0)


def users_of(engine: Engine) -> list[User]:
    """Each user of the sample once."""
    path = engine.bundle.path("sample.jsonl")
    rows = [row.request.user for row in read_lines(path, parse_traffic, BundleError)]
    return list({user.id: user for user in rows}.values())


def stream(
    users: Sequence[User], items: Sequence[str], sessions: int, chance: float, rng: np.random.Generator
) -> Iterator[tuple[float, User, list[str]]]:
    """Time in seconds, user and candidates of each view, in their order of time."""
    known, views = list(users), list[tuple[float, int, list[str], bool]]()
    for session in range(sessions):
        place, page = int(rng.integers(len(known))), list[str]()
        for view in range(1 + int(rng.poisson(VIEWS - 1))):
            fresh = [items[n] for n in rng.integers(0, len(items), PAGE)]
            page = fresh if not view else list(dict.fromkeys([*page[PAGE // 2 :], *fresh]))[:PAGE]
            views.append((session * PAUSE + view * APART, place, page, view > 0 and rng.random() < chance))
    for time, place, page, acted in sorted(views, key=lambda found: found[0]):
        if acted:
            user = known[place]
            known[place] = User(user.id, user.features, [*user.history, Event(page[0], 5.0)])
        yield time, known[place], page


def hit_rate(engine: Engine, kept: KeptAnswers, sessions: int, chance: float, seed: int) -> tuple[float, int]:
    """The part of the routed candidates whose answer was kept, and their number."""
    items = engine.encoder.catalog.ids
    for time, user, page in stream(users_of(engine), items, sessions, chance, np.random.default_rng(seed)):
        scores = engine.rank(Request(user, tuple(map(Candidate, page))), refuses=False)
        wanted = [item for item, reason in zip(scores.items, scores.reason, strict=True) if reason]
        state = state_of(user)
        key = key_of(user, state)
        missing = np.isnan(kept.get(key, state, wanted, time))
        kept.put(key, state, [item for item, new in zip(wanted, missing, strict=True) if new],
                 np.zeros(int(missing.sum())), time)  # fmt: skip
    routed = kept.hits + kept.misses
    return kept.hits / max(1, routed), routed


def main() -> int:
    options = arguments()
    return ended("kept_answers", lambda: measured(options), options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threshold", default="ratio:0.1")
    parser.add_argument("--kept", type=int, default=100_000)
    parser.add_argument("--age", type=float, default=3600.0)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The hit rate at each chance of an event between two views, as JSON."""
    rows = []
    with Engine.open(options.bundle, llm=None, threshold=options.threshold) as engine:
        for chance in CHANCES:
            rate, routed = hit_rate(engine, KeptAnswers(options.kept, options.age), options.sessions, chance, 1)
            rows.append({"event_between_views": chance, "kept": rate, "routed": routed})
        name = engine.name
    settings = {name: value for name, value in vars(options).items() if name not in ("bundle", "out")}
    return {"what": "kept-answers", "bundle": name, "settings": settings, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
