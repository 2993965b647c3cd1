"""Is the share that the LLM is asked about held over the window, before and after a step in traffic, by a real server?

    python benchmarks/held_share.py BUNDLE [--target 0.1] [--window 30] [--windows 4] [--rate 8] [--out …]

`serve BUNDLE --target-ratio 0.1 --window 30s` answers so many windows of the sample's users with items that training
has seen, then as many of users nobody has seen, whose candidates are new items half of the time. Shares are counted
from the answers; beside them stands what the threshold `ratio:0.1` would have asked about, which nothing holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.request import Candidate, Candidates, Request
from corella_edge.request_json import request_body
from corella_edge.routing.forms import parse_threshold
from corella_edge_runtime.bench.measure import traffic
from harness.load.server import Server, ServerError
from harness.load.traffic import RANK, TrafficSource
from harness.results import ended

CANDIDATES = 20
NEW = 0.5  # of the candidates after the step, that are new items
ALLOWED = 0.01  # from the target, over a window
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer.

    Attributes:
        at: seconds since the first request.
        candidates, llm: how many there were, and how many the LLM was asked about.
        loose: how many the threshold that nothing holds would have asked about.
    """

    at: float
    candidates: int
    llm: int
    loose: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", type=float, default=0.1, help="share of the candidates")
    parser.add_argument("--window", type=float, default=30.0, help="seconds")
    parser.add_argument("--windows", type=int, default=4, help="before the step, and as many after it")
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--log", type=Path, default=Path("runs/held-share.log"), help="what the server says")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.windows < 2:
        parser.error("--windows: at least 2, as the first of either kind of traffic does not count everywhere")
    return ended("held_share", lambda: measured(options), options.out)


def measured(options: argparse.Namespace) -> Json:
    """Every figure of one run."""
    options.log.parent.mkdir(parents=True, exist_ok=True)
    serve = ["--target-ratio", f"{options.target:g}", "--window", f"{options.window:g}s"]
    with Server(options.bundle, options.log, serve) as server:
        server.wait_ready()
        answers = list(asked(server, options))
    windows = by_window(answers, options.window, options.windows)
    return {
        "what": "held share", "bundle": Bundle.open(options.bundle).label, "target": options.target,
        "window_seconds": options.window, "rate": options.rate, "requests": len(answers),
        "candidates_a_request": CANDIDATES, "new_after_the_step": NEW, "windows": windows,
        "any_window": any_window(answers, options.window, options.windows), "allowed": ALLOWED,
        "met": met(windows, options.target),
    }  # fmt: skip


def asked(server: Server, options: argparse.Namespace) -> Iterator[Asked]:
    """The answers to both kinds of traffic, one after the other, at the wanted rate as far as the server keeps up."""
    routing = Bundle.open(options.bundle).routing()
    loose = parse_threshold(f"ratio:{options.target:g}", routing)
    length, begun, sent = options.window * options.windows, time.monotonic(), 0
    before, after = requests(options.bundle, int(length * options.rate) + 1)
    while (at := time.monotonic() - begun) < 2 * length:
        body = request_body((before if at < length else after)[sent % len(before)])
        status, answer = server.ask("POST", RANK, body)
        if status != 200:
            raise ServerError(f"the server answered {status}; {options.log} says why")
        rows = json.loads(answer)["candidates"]
        crm = np.array([row["crm"] for row in rows])
        yield Asked(at, len(rows), sum(row["llm"] is not None for row in rows), len(loose.route(crm)[0]))
        sent += 1
        time.sleep(max(0.0, begun + sent / options.rate - time.monotonic()))


def requests(bundle: Path, count: int) -> tuple[list[Request], list[Request]]:
    """So many requests of known users about known items, and of new users about new items in part."""
    source, rng = TrafficSource.open(bundle), np.random.default_rng(0)
    known = trained(Bundle.open(bundle)) or list(source.catalog.ids)
    new = sorted({*source.catalog.ids} - {*known})
    old = [Request(source.users[place % len(source.users)]) for place in range(count)]
    strangers = traffic.strangers(source.users, source.catalog, count, rng)
    return [with_items(one, known, [], rng) for one in old], [with_items(one, known, new, rng) for one in strangers]


def trained(bundle: Bundle) -> list[str]:
    """Items that training has seen; none where the bundle does not tell."""
    if not bundle.has("popular.jsonl"):
        return []
    return [json.loads(line)["item"] for line in bundle.path("popular.jsonl").read_text("utf-8").splitlines()]


def with_items(request: Request, known: Sequence[str], new: Sequence[str], rng: np.random.Generator) -> Request:
    """The request with drawn candidates, of which `NEW` are new items where there are such."""
    fresh = min(len(new), round(CANDIDATES * NEW))
    items = [*rng.choice(new, fresh, replace=False).tolist()] if fresh else []
    items += rng.choice(known, CANDIDATES - fresh, replace=False).tolist()
    return Request(request.user, Candidates.of(map(Candidate, items)))


def by_window(answers: Sequence[Asked], window: float, before: int) -> list[Json]:
    """Of each window, of which so many are before the step: the share that was asked about, and that nothing held."""
    found = []
    for place in range(2 * before):
        of = [one for one in answers if place * window <= one.at < (place + 1) * window]
        candidates = max(1, sum(one.candidates for one in of))
        found.append({
            "after_step": place >= before, "requests": len(of), "share": sum(one.llm for one in of) / candidates,
            "not_held": sum(one.loose for one in of) / candidates,
        })  # fmt: skip
    return found


def any_window(answers: Sequence[Asked], window: float, before: int) -> Json:
    """The least and the greatest share over a window that ends at any request, those of the first window and of the
    first one after the step left out: their windows are not full, or hold what the step cost."""
    at = np.array([one.at for one in answers])
    llm, candidates = (np.append(0, np.cumsum(n)) for n in zip(*((a.llm, a.candidates) for a in answers), strict=True))
    ends = np.flatnonzero((at >= window) & ((at < before * window) | (at >= (before + 1) * window)))
    begins = np.searchsorted(at, at[ends] - window, side="right")
    shares = (llm[ends + 1] - llm[begins]) / (candidates[ends + 1] - candidates[begins])
    return {"least": float(shares.min()), "greatest": float(shares.max())}


def met(windows: Sequence[Json], target: float) -> bool:
    """Whether each window is near the target, but the first after the step, in which what that cost is paid back."""
    begins = next((place for place, one in enumerate(windows) if one["after_step"]), None)
    settled = [one["share"] for place, one in enumerate(windows) if place != begins]
    return all(abs(share - target) <= ALLOWED for share in settled)


if __name__ == "__main__":
    sys.exit(main())
