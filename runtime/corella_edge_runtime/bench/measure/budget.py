"""How a time budget is spent: which points are measured, by how many requests each, and what so many can tell.

Pure functions of costs that a few trial requests have shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from corella_edge.routing.load import touched
from corella_edge_runtime.bench.results.circumstances import Scenario, Users
from corella_edge_runtime.bench.results.figures import PERCENTILES, needed, supported
from corella_edge_runtime.bench.results.seen import Spot

# How a budget is divided: the headline (one at a time, new users) gets most, a control as much as shows the way.
WEIGHTS = {"single": 4.0, "returning": 1.0, "random": 1.0, "server": 3.0, "offline": 1.0}
QUALITY = 0.15  # of the budget, for scoring labelled rows
LEAST, MOST = 5, 20_000  # requests of a slice
LOAD = 0.5  # of what one at a time reaches: the rate of Server without an objective
TRIES = 8  # rates that a search for the largest one takes, each of as many requests as a slice, and of
LEAST_TRY = 30
PRIORITY = ("single", "server", "returning", "random", "offline")  # where a budget has no room for all of them
OVER = 1.5  # times its planned seconds that a slice may take


@dataclass(frozen=True, slots=True)
class Share:
    """What one slice of a spot may use: requests, and seconds after which it ends early."""

    requests: int
    seconds: float


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
    points: Sequence[Spot], costs: Mapping[str, float], budget: float, repeats: int, searches: bool,
    begun: Collection[str] = (),
) -> tuple[list[Spot], str]:  # fmt: skip
    """The points for which a budget has room with the least of requests, and a sentence about the others, or "".

    What is left out is left out as a group, the least telling first; one at a time is always measured, and so are the
    groups of which an interrupted run has measured something (`begun`).
    """
    kept, dropped, spent, whole = list[str](), list[str](), 0.0, 0.0
    groups = _groups(points)
    for name in (name for name in PRIORITY if name in groups):
        seconds = _least(name, repeats, searches) * sum(_seconds(spot, costs[spot.threshold]) for spot in groups[name])
        whole += seconds
        if not kept or name in begun or spent + seconds <= budget:
            kept, spent = [*kept, name], spent + seconds
        else:
            dropped.append(name)
    words = ", ".join(_NAMES[name] for name in dropped)
    told = f"the {budget:.0f} s for latency have no room for: {words}; all of it takes at least {whole:.0f} s"
    return [spot for spot in points if group(spot) in kept], told if dropped else ""


def _least(name: str, repeats: int, searches: bool) -> int:
    """Requests of each point of a group that the least measurement of it takes."""
    return repeats * LEAST + (TRIES * LEAST_TRY if name == "server" and searches else 0)


def _groups(points: Sequence[Spot]) -> dict[str, list[Spot]]:
    found: dict[str, list[Spot]] = {}
    for spot in points:
        found.setdefault(group(spot), []).append(spot)
    return found


def plan(
    points: Sequence[Spot], costs: Mapping[str, float], budget: float, repeats: int, searches: bool
) -> dict[Spot, Share]:
    """Of every slice of each spot. Within a group all spots get as many requests, so that all support the same
    percentiles.

    Args:
        costs: seconds a request, by threshold, one at a time.
        budget: seconds for all slices of all spots.
        searches: whether Server looks for the largest rate, once a spot.
    """
    groups = _groups(points)
    whole = sum(WEIGHTS[name] for name in groups)
    found: dict[Spot, Share] = {}
    for name, members in groups.items():
        each = {spot: _seconds(spot, costs[spot.threshold]) for spot in members}
        requests = budget * WEIGHTS[name] / whole / sum(each.values())  # of each spot, all slices and tries together
        count = min(MOST, max(LEAST, _slice_of(requests, name, repeats, searches)))
        found |= {spot: Share(count, OVER * count * each[spot]) for spot in members}
    return found


def _slice_of(requests: float, name: str, repeats: int, searches: bool) -> int:
    """How many of them each slice gets: a try of a search is as long as a slice, and no shorter than `LEAST_TRY`."""
    if name != "server" or not searches:
        return int(requests / repeats)
    even = requests / (repeats + TRIES)
    return int(even if even >= LEAST_TRY else (requests - TRIES * LEAST_TRY) / repeats)


def _seconds(spot: Spot, cost: float) -> float:
    """What one request of a spot takes: a returning user's is asked twice, and a server is idle half of its time."""
    if spot.scenario == "server":
        return cost / LOAD
    return cost * 2.0 if spot.users == "returning" else cost / spot.workers


def told(shares: Mapping[Spot, Share], repeats: int) -> list[str]:
    """What the budget buys, a sentence a group."""
    sizes: dict[str, int] = {}
    for spot, share in shares.items():
        sizes[group(spot)] = min(repeats * share.requests, sizes.get(group(spot), MOST * repeats))
    return [f"{_NAMES[name]}: {requests:,} requests a point, enough for {_enough(requests)}"
            for name, requests in sizes.items()]  # fmt: skip


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
