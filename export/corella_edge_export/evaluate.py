"""A bundle on a split of prepared data: every row scored once by each model, every ratio derived from that.

Scores are kept in chunks as they are made, so that an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge import bundle
from corella_edge.atomic import resumable_folder, write_file
from corella_edge.metrics import Bootstrap, sampled_auc
from corella_edge.router import RATIOS
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.rowset import RowSet, choose_users, history_needed
from corella_edge_export.run import fingerprint
from corella_edge_runtime.bench.machine import machine, versions
from corella_edge_runtime.bench.quality import Labelled, at_threshold_sampled
from corella_edge_runtime.engine import Engine

CHUNK = 2000
Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


def evaluate(engine: Engine, data: PreparedData, split: str, out: Path, rows: int, seed: int, progress: Progress,
             ratios: tuple[float, ...] = RATIOS) -> dict[str, Any]:  # fmt: skip
    """Score (or go on scoring) and judge; writes `out`/evaluation.json and .md.

    Args:
        rows: 0 = the whole split, else a seeded sample of whole users with about as many rows.

    Raises:
        InputError: `out` holds an evaluation of another bundle, data or choice of rows.
    """
    template = engine.llm.prompts.template if engine.llm else None
    chosen = choose_users(data, split, rows, seed, history_needed(engine.encoder.schema, template))
    about = {
        "bundle": engine.name,
        "manifest": bundle.sha256(engine.bundle.path(bundle.MANIFEST)),
        "data": fingerprint(data),
        "split": split,
        "rows": len(chosen),
        "seed": seed if rows else None,
        "llm": engine.llm is not None,
    }
    with resumable_folder(out, "about.json", about):
        crm, llm = score(engine, chosen, out, progress)
        made = {"machine": machine(), "versions": versions(), "notes": data.info.get("notes", [])}
        result = {**about, **made, **judge(engine, chosen, crm, llm, ratios, progress)}
        write_file(out / "evaluation.json", (json.dumps(result, indent=1) + "\n").encode())
        write_file(out / "evaluation.md", markdown(result).encode())
    return result


def score(engine: Engine, rows: RowSet, out: Path, progress: Progress) -> tuple[Floats, Floats]:
    """(crm, llm) float64 [n] of all rows; chunks that are there already are read."""
    parts: list[Floats] = []
    while len(parts) * CHUNK < len(rows):
        path = out / f"scores-{len(parts):04d}.f64"
        if not path.exists():
            write_file(path, _chunk(engine, rows, len(parts) * CHUNK, progress).tobytes())
        parts.append(np.frombuffer(path.read_bytes(), dtype=np.float64).reshape(2, -1))
    crm, llm = np.concatenate(parts, axis=1)
    return crm, llm


def _chunk(engine: Engine, rows: RowSet, start: int, progress: Progress) -> Floats:
    """float64 [2, m]: both models' scores of up to CHUNK rows."""
    found: list[tuple[float, float]] = []
    for request in islice(rows.requests(start), CHUNK):
        scores = engine.rank(replace(request, threshold="ratio:1"))
        found.append((float(scores.crm[0]), float(scores.llm[0])))
        if len(found) % 50 == 0:
            progress("scoring", start + len(found), len(rows))
    return np.asarray(found, dtype=np.float64).T.copy()


def judge(engine: Engine, rows: RowSet, crm: Floats, llm: Floats, ratios: tuple[float, ...], progress: Progress
          ) -> dict[str, Any]:  # fmt: skip
    """Metrics of the CRM, the LLM and routing at each ratio, for all rows and for seen and unseen users apart."""
    names = [rows.data.user_ids[user] for user in rows.users.tolist()]
    known = engine.encoder.schema.vocabularies["user_id"].index_of
    seen = np.asarray([name in known for name in names])
    groups = {"all": np.ones(len(rows), dtype=bool), "seen users": seen, "unseen users": ~seen}
    data = Labelled(crm, llm, rows.labels, tuple(names))
    made = ((name, mask) for name, mask in groups.items() if mask.any())
    return {"groups": {name: _group(engine, name, _part(data, mask), ratios, progress) for name, mask in made}}


def _part(data: Labelled, mask: npt.NDArray[np.bool_]) -> Labelled:
    users = tuple(user for user, inside in zip(data.users, mask.tolist(), strict=True) if inside)
    return Labelled(data.crm[mask], data.llm[mask], data.labels[mask], users)


def _group(engine: Engine, name: str, data: Labelled, ratios: tuple[float, ...], progress: Progress) -> dict[str, Any]:
    """Thresholds come from the bundle's calibration (validation rows), so the realised share may differ."""
    bootstrap = Bootstrap(data.users)
    crm = sampled_auc(data.crm, data.labels, bootstrap)
    llm = sampled_auc(np.where(np.isnan(data.llm), data.crm, data.llm), data.labels, bootstrap)
    table: list[dict[str, Any]] = []
    asked = [*ratios] if engine.llm is not None else [0.0]
    for number, ratio in enumerate(asked, 1):
        progress(f"{name}: bootstrap over users", number, len(asked))
        found, auc = at_threshold_sampled(data, engine.calibration.threshold(ratio), bootstrap, crm)
        row = {"ratio": ratio, **asdict(found)}
        if engine.llm is not None:
            row["gain_over_llm"] = asdict(auc.gain(llm))
        table.append(row)
    return {"rows": len(data.labels), "users": len(set(data.users)), "positive": float(data.labels.mean()), "at": table}


def markdown(result: dict[str, Any]) -> str:
    """The evaluation as Markdown tables."""
    head = [f"# {result['bundle']} on {result['split']} ({result['rows']:,} rows)", ""]
    head += [f"- {note}" for note in result["notes"]]
    head += ["- Share 0 is the CRM alone, share 1 the LLM alone; intervals are 95 %, bootstrap over users.", ""]
    tables = [line for name, group in result["groups"].items() for line in _table(name, group)]
    return "\n".join([*head, *tables]) + "\n"


def _table(name: str, group: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}: {group['rows']:,} rows of {group['users']:,} users"
    yield ""
    yield "| ratio | share | AUC | gain over CRM | gain over LLM | log-loss | accuracy |"
    yield "|---|---|---|---|---|---|---|"
    for row in group["at"]:
        auc, gain = _interval(row["auc"]), _interval(row["gain"], "+")
        over = _interval(row["gain_over_llm"], "+") if "gain_over_llm" in row else ""
        tail = f"{row['logloss']:.4f} | {row['accuracy']:.4f}"
        yield f"| {row['ratio']:g} | {row['share']:.4f} | {auc} | {gain} | {over} | {tail} |"
    yield ""


def _interval(value: dict[str, float], sign: str = "") -> str:
    return f"{value['value']:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"
