"""What docs/results.md says of routing policies: measures at the same share, tables of other domains, and the scales of
both models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

Json = dict[str, Any]
ORACLE = "oracle"
TITLES = {"ridge": "gate (ridge)", "logistic": "gate (logistic)", "trees": "boosted trees"}
# Folders of reports, and what their rows are.
DOMAINS = {
    "routing-games": (
        "video games",
        'purchases of the first 4,000 users of Amazon Games, in their order; the last of each user beside 4 drawn '
        'negatives (`from = "seen-before"`, `unlike_drawn = "history"`); titles',
        "{rows:,} rows of {users:,} users, others than those that it is fitted on",
    ),
    "routing-musical-instruments": (
        "musical instruments",
        "Amazon's 10,261 reviews, real times, the earliest half trained on and the latest 40 % given to `calibrate` "
        "(`shares = [0.5, 0.1, 0.4]`); 5 stars are a like; no titles, so the LLM reads ids",
        "{rows:,} later rows of {users:,} users",
    ),
}  # fmt: skip
SCALES = {"routing-policies-ml-1m": "MovieLens-1M", "routing-policies-games": "Amazon Games"}


def _read(path: Path) -> Json:
    found: Json = json.loads(path.read_text("utf-8"))
    return found


def forms(results: Path) -> Iterator[str]:
    """Gains in AUC of every form of a measure at the same shares; the oracle's are of another script."""
    found = _read(results / "gate-forms-ml-1m.json")["shares"]
    other = _by_share(_read(results / "routing-policies-ml-1m.json"))
    rows = {
        share: {
            **{TITLES.get(one["measure"], one["measure"]): one["auc"] for one in ones},
            ORACLE: other[share][ORACLE],
        }
        for share, ones in found.items()
    }
    yield from _gains(rows)


def measures(results: Path) -> Iterator[str]:
    """Gains in AUC of every measure at the same shares, of a table of another domain."""
    yield from _gains(_by_share(_read(results / "routing-policies-games.json")))


def _by_share(found: Json) -> dict[str, dict[str, Json]]:
    rows: dict[str, dict[str, Json]] = {}
    for one in found["versus"]:
        rows.setdefault(f"{one['share']:g}", {})[one["measure"]] = one["over_crm"]["auc"]
    return rows


def _gains(rows: dict[str, dict[str, Json]]) -> Iterator[str]:
    names = tuple(next(iter(rows.values())))
    yield from table_head("share asked", *names)
    for share, found in rows.items():
        yield table_row(f"{float(share):.0%}", *(figure(found[name], "+") for name in names))


def domains(results: Path) -> Iterator[str]:
    """What `calibrate` reports of two tables of other domains, side by side."""
    reports = {name: _read(results / name / "report.json") for name in DOMAINS}

    def line(what: str, cell: Callable[[Json], str]) -> str:
        return table_row(what, *map(cell, reports.values()))

    yield from table_head("", *(title for title, _, _ in DOMAINS.values()))
    yield table_row("rows", *(rows for _, rows, _ in DOMAINS.values()))
    judged = [of.format_map(reports[name]["parts"]["held_out"]) for name, (_, _, of) in DOMAINS.items()]
    yield table_row("the policy is judged on", *judged)
    yield line("AUC of the base model", lambda one: figure(one["models"]["crm"]["auc"]))
    yield line("AUC of the LLM", lambda one: figure(one["models"]["llm"]["auc"]))
    yield line("policy, gain in AUC over the base model", _gain)
    yield line("AUC of the policy", lambda one: figure(one["policy"]["auc"]))
    yield line("NDCG@10, base model and policy", _ndcg)
    yield line("of the gain in AUC, by the LLM's answers", lambda one: figure(one["by_llm"]["auc"], "+"))
    yield line("milliseconds of the LLM: the first candidate of a request, each further one", _cost)
    links = (f"[report.md](../benchmarks/results/{name}/report.md)" for name in DOMAINS)
    yield table_row("report", *links)


def _gain(one: Json) -> str:
    policy = one["policy"]
    asked = f"{one['measure']['name']}, {policy['share']['value']:.1%} asked"
    return f"{asked}: {figure(policy['over_crm']['auc'], '+')}"


def _ndcg(one: Json) -> str:
    base, policy = one["models"]["crm"]["ndcg@10"], one["policy"]
    return f"{figure(base)} and {figure(policy['ndcg@10'])}: {figure(policy['over_crm']['ndcg@10'], '+')}"


def _cost(one: Json) -> str:
    return f"{one['cost']['first_ms']:.1f}, {one['cost']['further_ms']:.2f}"


def scales(results: Path) -> Iterator[str]:
    """Calibration error before and after each kind of map, by route."""
    yield from table_head("log", "rows: score", "number", "before", "temperature", "Platt", "isotonic")
    for file, name in SCALES.items():
        routes: dict[str, dict[str, Json]] = {}
        for one in _read(results / f"{file}.json")["maps"]:
            routes.setdefault(one["route"], {})[one["maps"]] = one
        for route, found in routes.items():
            after = [_after(found[kind]) for kind in ("temperature", "platt", "isotonic")]
            first = found["none"]
            yield table_row(name, route, f"{first['rows']:,}", f"{first['before']['value']:.3f}", *after)


def _after(one: Json) -> str:
    return f"{one['after']['value']:.3f} ({figure(one['change'], '+', 3)})"
