"""What docs/results.md says of other people's tables: quality by data set, and what the way there took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.scored import FEW_USERS as FEW
from corella_edge_export.evaluation.tables import count, figure, table_head, table_row
from corella_edge_export.study.analysis import merged

Json = dict[str, Any]
NAME = "own-tables.json"
BUNDLE = ("init", "prepare", "train-1", "export-1")  # what stands between a file and a first bundle
DISTURBED = 0.05  # share of the machine that other work took


def lines(results: Path, published: Path) -> Iterator[str]:
    """Of every CPU that the tables were made on; `published` holds what others print of the same rows."""
    for path in sorted(results.glob(f"**/{NAME}")):
        result = json.loads(path.read_text("utf-8"))
        yield from _verdict(result["tables"])
        for name, found in result["tables"].items():
            yield from _quality(name, found)
            if (others := published / f"{name}.json").exists():
                yield from _beside(json.loads(others.read_text("utf-8")))
        yield from _way(result)


def _verdict(tables: Json) -> Iterator[str]:
    """First of all, where the LLM is worth its time at the share that the bundle asks it about."""
    gains = {name: _at(_group(found, "all"), _ratio(found))["gain"] for name, found in tables.items()}
    few = [name for name, found in tables.items() if _users(_group(found, "all")) < FEW]
    told = {name: gain for name, gain in gains.items() if name not in few}
    kinds = {
        "The LLM pays (95 % interval of the routed gain above zero)": [n for n, g in told.items() if g["low"] > 0],
        "It costs quality (interval below zero)": [n for n, g in told.items() if g["high"] < 0],
        "Nothing can be told (zero is in the interval)": [n for n, g in told.items() if g["low"] <= 0 <= g["high"]],
    }
    for what, names in kinds.items():
        shown = ", ".join(f"{name} ({figure(_plain(gains[name]), '+')})" for name in names)
        yield f"- {what}: {shown or 'nowhere'}."
    if few:
        yield f"- Too few users to tell (fewer than {FEW}; such figures stand without intervals): {', '.join(few)}."
    yield ""


def _quality(name: str, found: Json) -> Iterator[str]:
    counts, seeds = found["dataset"]["counts"], len(found["seeds"])
    ratio, rules = _ratio(found), {one["fusion"]["rule"] for one in found["seeds"].values()}
    yield f"**{name}**: {found['told']}."
    yield f"{counts['train']:,} training rows, {counts['test']:,} test rows; {seeds} seed{'s' * (seeds > 1)} of the"
    yield "base model; the LLM has a seed of its own, always the same."
    yield f"Routed: `ratio:{ratio:g}`, fusion rule {', '.join(f'`{rule}`' for rule in sorted(rules))}."
    yield ""
    yield from table_head(
        "test rows", "number", "by popularity", "by like rates", "CRM, AUC", "LLM alone, AUC", "routed, AUC", "share",
        "routed - CRM", "asked about all, - CRM",
    )  # fmt: skip
    for group in found["seeds"][next(iter(found["seeds"]))]["groups"]:
        yield _row(group, _group(found, group), ratio)
    yield ""


def _row(name: str, group: Json, ratio: float) -> str:
    point = _at(group, ratio)
    number = f"{count(group['rows'])} of {count(group['users'])} user{'s' * (count(group['users']) != '1')}"
    found = [group[of]["auc"] if of in group else None for of in ("popularity", "no_learning")]
    found += [group["crm"]["auc"], group["llm"]["auc"], point["auc"]]
    enough = _users(group) >= FEW
    gains = [_figure(_at(group, asked)["gain"], enough, "+") for asked in (ratio, 1.0)]
    auc = [_figure(one, enough) for one in found]
    return table_row(name, number, *auc, f"{_number(point['share']):.1%}", *gains)


def _beside(others: Json) -> Iterator[str]:
    """What others print of the same rows."""
    yield f"{others['what']}. {' '.join(others['notes'])}"
    yield ""
    yield from table_head("method", "LLM", "training rows", "AUC", "source")
    for row in others["rows"]:
        cells = (row["method"], row["llm"], f"{row['training_rows']:,}", f"{row['auc']:.4f}", row["source"])
        yield table_row(*cells)
    yield ""


def _way(result: Json) -> Iterator[str]:
    """Minutes to the first bundle, its size, answers over HTTP and latency."""
    yield f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['made'][:10]}, commit"
    yield f"{result['commit']}. Beside every time stands the share of the machine that other work took; where"
    yield f"that is above {DISTURBED:.0%}, the time is an upper bound. Latency: one request of 20 candidates of a new"
    yield "user, in process. `score` answers the same requests from a file."
    yield ""
    yield from table_head(
        "table", "files to first bundle", "bundle, MiB", "answered over HTTP", "difference to `score`",
        "p50 ms, CRM alone", "p50 ms, routed", "other work",
    )  # fmt: skip
    for name, found in result["tables"].items():
        yield _way_of(name, found)


def _way_of(name: str, found: Json) -> str:
    seeds = list(found["seeds"].values())
    first, steps = seeds[0], [found["steps"][step] for step in BUNDLE if step in found["steps"]]
    minutes = sum(step["seconds"] for step in steps) / 60
    watched = [step for step in steps if step["load"]]
    foreign = sum(step["seconds"] * step["load"]["foreign"] for step in watched) / sum(s["seconds"] for s in watched)
    other = f"other work {foreign:.0%}" + ", stopped in between" * any(step["resumed"] for step in steps)
    served = f"{sum(one['served']['answered'] for one in seeds)} of {sum(one['served']['requests'] for one in seeds)}"
    apart = max(one["served"]["greatest_difference_to_score"] for one in seeds)
    timed = min((one["benchmark"] for one in seeds), key=lambda one: one["disturbance"]["foreign"])
    ms = {row["ratio"]: row["request_ms"]["p50"] for row in timed["ratios"]}
    return table_row(
        name, f"{minutes:.1f} min ({other})", f"{sum(first['bundle_bytes'].values()) / 2**20:.1f}",
        served, f"{apart:.0e}" if apart else "none", f"{ms[0.0]:.2f}", f"{ms[_ratio(found)]:.2f}",
        f"{timed['disturbance']['foreign']:.0%}",
    )  # fmt: skip


def _group(found: Json, name: str) -> Json:
    """A group of rows, its figures the mean of the seeds."""
    group: Json = merged([one["groups"][name] for one in found["seeds"].values()])
    return group


def _at(group: Json, ratio: float) -> Json:
    return next(row for row in group["at"] if row["ratio"] == ratio)


def _ratio(found: Json) -> float:
    return float(next(iter(found["seeds"].values()))["ratio"])


def _users(group: Json) -> float:
    return _number(group["users"])


def _number(found: Any) -> float:
    """A figure of one seed, or the mean of several."""
    return float(found["value"] if isinstance(found, dict) else found)


def _figure(found: Json | None, enough: bool, sign: str = "") -> str:
    """Mean and interval; without the latter where users are too few for one."""
    if found is None:
        return ""
    return figure(_plain(found) if enough else found["value"], sign)


def _plain(found: Json) -> Json:
    """Mean and interval, without the deviation of two seeds."""
    return {end: found[end] for end in ("value", "low", "high")}
