"""The server's tables of docs/results.md: what the server reaches, from the kept results of its benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
SCENARIOS = ("spans", "faults", "deadline", "soak")
# Results of scripts of their own: what a request costs around its models, in the server and in the process.
AROUND = ("messages", "prompt-time")
SHOWN = ("serving", *AROUND, "swaps", "kill-events")  # a folder without any of these has no table


def between(text: str, name: str, contents: str) -> str:
    """`text` with new contents between the markers of that name."""
    before, begin, rest = text.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise SystemExit(f"the markers <!-- {name} --> and <!-- /{name} --> are missing")
    return f"{before}{begin}\n{contents}\n{end}{after}"


def lines(results: Path) -> Iterator[str]:
    """A table for each CPU, with one row a target of all scenarios that have been measured there."""
    others = (path for path in results.iterdir() if path.is_dir())
    folders = [
        results,
        *sorted(path for path in others if any(path.joinpath(f"{name}.json").exists() for name in SHOWN)),
    ]
    for i, folder in enumerate(folders):
        yield from [""] * (i > 0)
        yield from _one_machine(folder)


def _one_machine(results: Path) -> Iterator[str]:
    yield "| asked | found | target | |"
    yield "|---|---|---|---|"
    serving = _read(results, "serving").get("parts", {})
    for name in SCENARIOS:
        for target in serving.get(name, {}).get("targets", []):
            yield _row(target["target"], _figure(target), f"{target['sign']} {target['limit']:g}", target["met"])
    for name in AROUND:
        for target in _read(results, name).get("targets", []):
            yield _row(target["target"], _figure(target), f"{target['sign']} {target['limit']:g}", target["met"])
    yield from _swaps(_read(results, "swaps"))
    yield from _kills(_read(results, "kill-events"))
    yield ""
    yield from _made(serving)
    for name in AROUND:
        if found := _read(results, name):
            yield f"- `{name}`: {_where(found)}."


def _read(results: Path, name: str) -> Json:
    path = results / f"{name}.json"
    found: Json = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _row(what: str, found: str, target: str, met: bool) -> str:
    return f"| {what} | {found} | {target.replace('<=', '≤').replace('>=', '≥')} | {'met' if met else 'missed'} |"


def _figure(target: Json) -> str:
    if "low" not in target:
        return f"{target['value']:,}"
    return f"{target['value']:.4g} [{target['low']:.4g}, {target['high']:.4g}]"


def _swaps(found: Json) -> Iterator[str]:
    if found:
        done = found["done"]
        what = f"{done['swap']} swaps, {done['rollback']} rollbacks, {found['requests']:,} requests"
        yield _row(f"{what}: lost", str(found["lost"]), "<= 0", found["lost"] == 0)
        wrong = found["differing"]
        yield _row(f"{what}: differing from the offline score", str(wrong), "<= 0", wrong == 0)


def _kills(found: Json) -> Iterator[str]:
    if found:
        what = f"{found['kills']} SIGKILLs, {found['acknowledged_events']:,} acknowledged events: lost"
        yield _row(what, str(found["lost"]), "<= 0", found["lost"] == 0)


def _made(serving: Json) -> Iterator[str]:
    for name in SCENARIOS:
        if part := serving.get(name):
            load = part["load"]
            beside = f"foreign load {load['foreign']:.1%}, load generator {part['generator_share']:.1%} of a core"
            yield f"- `{name}`: {_where(part)}; {beside}."


def _where(part: Json) -> str:
    machine = part["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {part['made'][:10]}, commit {part['commit']}"
