"""One benchmark from beginning to end: traffic, floors, labelled rows, timed requests, results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from corella_edge.bundle.artefact import MANIFEST, sha256
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import Traffic
from corella_edge.metrics import Bootstrap, sampled_auc
from corella_edge.request import Request
from corella_edge.routing.policy import Policy
from corella_edge_runtime.bench import machine, quality, traffic
from corella_edge_runtime.bench.ceiling import ceiling
from corella_edge_runtime.bench.measure import Progress, Timed, as_threshold, latency, measure, warm_up
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.machine.threads import llm_default

FORMAT = 1
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure. `candidates` is for requests made from the sample; those of a file stay as they are."""

    ratios: tuple[float, ...]
    candidates: int = 20
    max_requests: int = 200
    max_labelled: int = 2000
    repeat: int = 1
    seconds: float = 120.0
    seed: int = 0
    crm_threads: int = 1  # as the engine was opened, its defaults here
    llm_threads: int = field(default_factory=llm_default)


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests to time, and labelled rows with their users."""

    requests: list[Request]
    labelled: list[Traffic]
    users: list[str]


def workload(engine: Engine, rows: Sequence[Traffic], own: bool, settings: BenchSettings) -> Workload:
    """Choose and build the traffic; `own` says that the rows are the bundle's sample."""
    catalog, seed = engine.encoder.catalog, settings.seed
    if own:
        rng = np.random.default_rng([seed, 0])
        chosen = [rows[i].request for i in traffic.one_per_user(rows, settings.max_requests, seed)]
        requests = [traffic.fill(request, catalog, settings.candidates, rng) for request in chosen]
    else:
        requests = [traffic.resolve(row.request, catalog) for row in rows[: settings.max_requests]]
    keys = traffic.user_keys(rows)
    known = [i for i in range(len(rows)) if any(label is not None for label in rows[i].labels)]
    order = traffic.grouped([rows[i] for i in known], settings.max_labelled, seed)
    return Workload(requests, [rows[known[i]] for i in order], [keys[known[i]] for i in order])


def run(engine: Engine, file: TextFile | None, settings: BenchSettings, progress: Progress) -> dict[str, Any]:
    """The whole measurement as JSON-ready values.

    Raises:
        InputError, BundleError: the traffic cannot be used.
    """
    work = workload(engine, traffic.read(engine.bundle, file), file is None, settings)
    head = _head(engine, file, settings, work)
    engine.warm_up()
    warm_up(engine.rank, work.requests, settings.ratios)
    floor = ceiling(engine, work.requests)
    before = machine.ticks()
    timed = measure(
        engine.rank, engine.stats, work.requests, settings.ratios, settings.repeat, settings.seconds, settings.seed,
        progress,
    )  # fmt: skip
    head["disturbance"] = machine.disturbance(before, machine.ticks())
    data = quality.score(engine.rank, work.labelled, work.users, progress, engine.fusion)
    policies = [engine.parse_threshold(as_threshold(ratio)) for ratio in settings.ratios]
    found = _qualities(data, policies)
    rows = [_ratio(i, settings.ratios[i], policies[i].threshold, timed) | found[i] for i in range(len(policies))]
    return {**head, "ceiling": floor, "ratios": rows}


def _head(engine: Engine, file: TextFile | None, settings: BenchSettings, work: Workload) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured": "Engine.rank in process: encoding, CRM, routing, LLM; one request at a time, no HTTP",
        "bundle": {"label": engine.name, "manifest_sha256": sha256(engine.bundle.path(MANIFEST))},
        "machine": machine.machine(),
        "versions": machine.versions(),
        "settings": asdict(settings),
        "llm": engine.llm is not None,
        "fusion": engine.fusion.to_json(),
        "provider": engine.crm.provider,
        "warnings": list(engine.warnings),
        "traffic": _traffic(file, work),
    }


def _traffic(file: TextFile | None, work: Workload) -> dict[str, Any]:
    text = "the bundle's sample: one request a user, filled up with random catalogue items"
    users = len({request.user.id or i for i, request in enumerate(work.requests)})
    return {"source": text if file is None else file.name, "requests": len(work.requests), "users": users,
            "labelled_rows": len(work.labelled)}  # fmt: skip


def _ratio(index: int, ratio: float, threshold: float, timed: Sequence[Timed]) -> dict[str, Any]:
    head = {"ratio": ratio, "threshold": threshold if np.isfinite(threshold) else None}
    return head | summary([one for one in timed if one.ratio == index])


def _qualities(data: quality.Labelled, policies: Sequence[Policy]) -> list[dict[str, Any]]:
    """The field "quality" of each policy; none where no row has a label."""
    if not len(data.labels):
        return [{} for _ in policies]
    bootstrap = Bootstrap(data.users, DRAWS)
    crm = sampled_auc(data.crm, data.labels, bootstrap)
    found = [quality.under(data, policy, bootstrap, crm) for policy in policies]
    return [{"quality": _finite(asdict(one))} for one in found]


def summary(timed: Sequence[Timed]) -> dict[str, Any]:
    """Latency, throughput, realised share and LLM work of the requests timed at one ratio."""
    seconds, candidates = sum(one.seconds for one in timed), sum(one.candidates for one in timed)
    easy = [one.seconds for one in timed if not one.routed]
    per = len(timed)
    return {
        "requests": per,
        "candidates": candidates,
        "share": sum(one.routed for one in timed) / candidates,
        "request_ms": asdict(latency([one.seconds for one in timed])),
        "candidate_ms": asdict(latency([one.seconds / one.candidates for one in timed])),
        "requests_per_s": per / seconds,
        "candidates_per_s": candidates / seconds,
        "unrouted": {"requests": len(easy), "request_ms": asdict(latency(easy)) if easy else None},
        "llm_tokens_per_request": sum(one.evaluated for one in timed) / per,
        "llm_reused_per_request": sum(one.reused for one in timed) / per,
        "new_users": sum(one.new_user for one in timed) / per,
    }


def _finite(value: Any) -> Any:
    """JSON has no nan: null instead (an AUC needs both classes)."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
