"""How a time budget is spent: which points are measured, by how many requests each, and what so many can tell.

Pure functions of costs that a few trial requests have shown.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corella_edge.routing.load import touched
from corella_edge_runtime.bench.results.circumstances import Scenario, Users
from corella_edge_runtime.bench.results.figures import PERCENTILES, needed, supported
from corella_edge_runtime.bench.results.seen import Spot

# How a budget is divided: the headline (one at a time, new users) gets most, a control as much as shows the way.
WEIGHTS = {"single": 4.0, "returning": 1.0, "random": 1.0, "server": 3.0, "offline": 2.0}
QUALITY = 0.15  # of the budget, for scoring labelled rows
PILOT = 0.02  # as much as of the budget, for learning what requests cost
LEAST, MOST = 5, 20_000  # requests of a slice
# Requests from which on a slice shows what it is to show: with fewer, there are fewer rounds. Of Offline several times
# as many as wait at once: its beginning and its end, where fewer do, are then a smaller part of it.
ENOUGH = {"single": 10, "returning": 10, "random": 10, "server": 30, "offline": 60}
FEWEST = 3  # rounds in which a point is measured, where a run has so many: early, in the middle and late
LOAD = 0.5  # of what one at a time reaches: the rate of Server without an objective
TRIES = 7  # rates that the first search for the largest one takes, each of as many requests as a slice
LEAST_TRY = 30  # requests of each, and of a slice that is one of them
# Times the objective's limit that a try lasts at least. Too many requests at once keep any limit while they are few: at
# a quarter more than can be done, the last of so long a stretch waits for the limit.
SPAN = 5.0
# Rates that every later slice of Server tries besides, to see whether the largest one is still that: one where it is
# or is the next lower one, two where it is the next higher one.
AGAIN = 2
PRIORITY = ("single", "server", "returning", "random", "offline")  # where a budget has no room for all of them
OVER = 1.5  # times its planned seconds that a slice may take


@dataclass(frozen=True, slots=True)
class Share:
    """What one slice of a spot may use: requests, and seconds after which it ends early; and the rounds, from 0, in
    which there is one."""

    requests: int
    seconds: float
    rounds: tuple[int, ...] = (0,)


def in_turn(shares: Mapping[Spot, Share], seed: int) -> Iterator[tuple[int, Spot]]:
    """Every slice as its round and its spot, round by round. In each round, what is due comes in an order of its own: a
    machine that drifts drifts for all of them, and each spot is measured early, in the middle and late."""
    for number in sorted({number for share in shares.values() for number in share.rounds}):
        due = [spot for spot, share in shares.items() if number in share.rounds]
        for place in np.random.default_rng([seed, 3, number]).permutation(len(due)).tolist():
            yield number, due[place]


def spread_out(rounds: int, of: int) -> tuple[int, ...]:
    """Which so many of the rounds: the first, the last and as many between, evenly."""
    return tuple(dict.fromkeys(np.rint(np.linspace(0, of - 1, rounds)).astype(int).tolist())) if rounds > 1 else (0,)


def spots(
    thresholds: Sequence[str], ratios: Sequence[float | None], scenarios: Sequence[Scenario], users: Sequence[Users],
    controls: bool, cores: int,
) -> list[Spot]:  # fmt: skip
    """All points of a benchmark. One at a time has all users and the control; the other scenarios have new users.

    Args:
        ratios: the share in each threshold, None where it names none; random routing needs one between 0 and 1.
        controls: whether the target can route at random.
        cores: processes that share an Offline run besides the run of one.
    """
    found = [Spot(scenario="single", threshold=threshold, users=kind)
             for kind in users for threshold in thresholds if "single" in scenarios]  # fmt: skip
    if controls and "single" in scenarios:
        found += [Spot(scenario="single", threshold=threshold, routing="random", users=users[0])
                  for threshold, ratio in zip(thresholds, ratios, strict=True) if ratio and ratio < 1.0]  # fmt: skip
    if "server" in scenarios:
        found += [Spot(scenario="server", threshold=threshold, users=users[0]) for threshold in thresholds]
    if "offline" in scenarios:
        found += [Spot(scenario="offline", threshold=threshold, users=users[0], workers=workers)
                  for workers in dict.fromkeys((1, max(1, cores))) for threshold in thresholds]  # fmt: skip
    return found


def group(spot: Spot) -> str:
    """The part of the budget that a spot is paid from."""
    if spot.scenario != "single":
        return spot.scenario
    return "random" if spot.routing == "random" else "returning" if spot.users == "returning" else "single"


def smoothed(costs: Mapping[str, float], ratios: Mapping[str, float | None], candidates: int) -> dict[str, float]:
    """Seconds a request by threshold, where a few trial requests at a small share may have met no hard candidate: at
    least as much as independent candidates and half of the whole LLM's cost a touched request would come to."""
    known = {ratio: costs[threshold] for threshold, ratio in ratios.items() if ratio is not None}
    if 0.0 not in known or 1.0 not in known:
        return dict(costs)
    alone, whole = known[0.0], max(known[0.0], known[1.0])
    least = {threshold: alone + 0.5 * touched(ratio or 0.0, candidates) * (whole - alone)
             for threshold, ratio in ratios.items()}  # fmt: skip
    return {threshold: max(cost, least[threshold]) for threshold, cost in costs.items()}


def affordable(
    points: Sequence[Spot], costs: Mapping[str, float], budget: float, repeats: int, limit: float | None = None,
    begun: Collection[str] = (),
) -> tuple[list[Spot], str]:  # fmt: skip
    """The points for which a budget has room with the least of requests, and a sentence about the others, or "".

    What is left out is left out as a group, the least telling first; one at a time is always measured, and so are the
    groups of which an interrupted run has measured something (`begun`). `limit`: as in `plan`.
    """
    kept, dropped, spent, whole = list[str](), list[str](), 0.0, 0.0
    groups = _groups(points)
    for name in (name for name in PRIORITY if name in groups):
        each = [_seconds(spot, costs) for spot in groups[name]]
        way = _Way(name, min(FEWEST, repeats), limit)
        seconds = way.slots * way.seconds(way.least, each)
        whole += seconds
        if not kept or name in begun or spent + seconds <= budget:
            kept, spent = [*kept, name], spent + seconds
        else:
            dropped.append(name)
    words = ", ".join(_NAMES[name] for name in dropped)
    told = f"the {budget:.0f} s for latency have no room for: {words}; all of it takes at least {whole:.0f} s"
    return [spot for spot in points if group(spot) in kept], told if dropped else ""


@dataclass(frozen=True, slots=True)
class _Way:
    """How a group is measured in so many rounds: `limit` of seconds makes Server search for the largest rate."""

    name: str
    rounds: int
    limit: float | None

    @property
    def searches(self) -> bool:
        return self.name == "server" and self.limit is not None

    @property
    def slots(self) -> int:
        """Slices of each spot, and tries, which are as long."""
        return self.rounds + (TRIES + AGAIN * (self.rounds - 1) if self.searches else 0)

    @property
    def least(self) -> int:
        """Requests of a slice."""
        return LEAST_TRY if self.searches else LEAST

    def seconds(self, count: int, each: Sequence[float]) -> float:
        """Of one slice of all spots, of so many requests of `each` seconds."""
        span = SPAN * (self.limit or 0.0) if self.searches else 0.0
        return sum(max(count * one, span) for one in each)

    def count(self, budget: float, each: Sequence[float]) -> int:
        """The most requests of a slice for which a budget of seconds is enough."""
        return bisect_right(range(MOST), budget / self.slots, key=lambda count: self.seconds(count + 1, each))


def _groups(points: Sequence[Spot]) -> dict[str, list[Spot]]:
    found: dict[str, list[Spot]] = {}
    for spot in points:
        found.setdefault(group(spot), []).append(spot)
    return found


def plan(
    points: Sequence[Spot], costs: Mapping[str, float], budget: float, repeats: int, limit: float | None = None
) -> dict[Spot, Share]:
    """Of every slice of each spot. Within a group all spots get as many requests, so that all support the same
    percentiles. Where there are too few for `repeats` slices of `ENOUGH`, there are fewer slices, spread over the
    rounds.

    Args:
        costs: seconds a request, by threshold, one at a time.
        budget: seconds for all slices of all spots.
        limit: seconds of the objective by which Server looks for the largest rate; None = it does not.
    """
    groups = _groups(points)
    whole = sum(WEIGHTS[name] for name in groups)
    found: dict[Spot, Share] = {}
    for name, members in groups.items():
        each = {spot: _seconds(spot, costs) for spot in members}
        rounds, count = _slices_of(name, list(each.values()), budget * WEIGHTS[name] / whole, repeats, limit)
        due = spread_out(rounds, repeats)
        found |= {spot: Share(count, OVER * count * each[spot], due) for spot in members}
    return found


def _slices_of(name: str, each: Sequence[float], budget: float, repeats: int, limit: float | None) -> tuple[int, int]:
    """In how many rounds there is a slice, and of how many requests."""
    ways = [_Way(name, rounds, limit) for rounds in range(repeats, min(FEWEST, repeats) - 1, -1)]
    way = next((one for one in ways if one.count(budget, each) >= ENOUGH[name]), ways[-1])
    return way.rounds, max(way.least, way.count(budget, each))


def _seconds(spot: Spot, costs: Mapping[str, float]) -> float:
    """What one request of a spot takes: a returning user's is asked twice, first about all candidates, and a server is
    idle half of its time."""
    cost = costs[spot.threshold]
    if spot.scenario == "server":
        return cost / LOAD
    return cost + max(costs.values()) if spot.users == "returning" else cost / spot.workers


def told(shares: Mapping[Spot, Share]) -> list[str]:
    """What the budget buys, a sentence a group; within a group all spots have the same share of it."""
    found = {group(spot): (len(share.rounds), len(share.rounds) * share.requests) for spot, share in shares.items()}
    return [f"{_NAMES[name]}: {requests:,} requests a point in {rounds} round{'s' if rounds > 1 else ''}, enough for "
            f"{_enough(requests)}" for name, (rounds, requests) in found.items()]  # fmt: skip


_NAMES = {"single": "one at a time", "returning": "returning users", "random": "random routing", "server": "Server",
          "offline": "Offline"}  # fmt: skip


def _enough(requests: int) -> str:
    """The highest percentile that so many requests tell, and what the next one takes."""
    known = supported(requests)
    following = next((name for name in PERCENTILES if name not in known), None)
    best = "p99.9" if known and known[-1] == "p999" else known[-1] if known else "no percentile"
    return best if following is None else f"{best} ({_word(following)} takes {needed(following):,})"


def _word(name: str) -> str:
    return "p99.9" if name == "p999" else name


def rate(cost: float, share: float = LOAD) -> float:
    """Requests a second at which a server is busy for so much of its time."""
    return share / max(cost, 1e-6)
