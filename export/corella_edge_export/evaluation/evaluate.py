"""A bundle on a split of prepared data: every row scored once by each model, every ratio derived from that.

Scores are kept in chunks as they are made, so that an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corella_edge.atomic import resumable_folder, write_file
from corella_edge.bundle import artefact as bundle
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.log_odds import sigmoid
from corella_edge.routing.policy import RATIOS, Policy
from corella_edge_export.data.prepared import PreparedData, fingerprint
from corella_edge_export.data.rowset import RowSet, choose_users, history_needed
from corella_edge_export.evaluation import plots, tables
from corella_edge_export.evaluation.baseline import without_learning
from corella_edge_export.evaluation.boundary import calibration
from corella_edge_export.evaluation.groups import UNSEEN_ITEMS, about, thirds
from corella_edge_export.evaluation.scored import (
    METRICS,
    Json,
    ScoredJudge,
    ScoredRows,
    doubts,
    few_users,
    gains,
    shown,
)
from corella_edge_export.evaluation.scored import number as finite
from corella_edge_export.evaluation.shares import lines
from corella_edge_export.evaluation.unknown import of_new_items, unknown
from corella_edge_runtime.bench.measure.machine import machine, versions
from corella_edge_runtime.engine import Engine

CHUNK = 2000
PLAIN = {  # what the tables call the baselines of `without_learning`
    "no_learning": "Like rates of item and user, without learning",
    "popularity": "Items by their likes in training rows",
}
RULES = (REPLACE, Fusion("blend"))  # beside the bundle's own: `stack` is fitted at export
Floats = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


def evaluate(engine: Engine, data: PreparedData, split: str, out: Path, rows: int, seed: int, progress: Progress,
             ratios: Sequence[float] = RATIOS) -> Json:  # fmt: skip
    """Score (or go on scoring) and judge; writes `out`/evaluation.json and .md, and one SVG a plot.

    Args:
        rows: 0 = the whole split, else a seeded sample of whole users with about as many rows.

    Raises:
        InputError: `out` holds an evaluation of another bundle, data or choice of rows.
    """
    chosen, same = choice(engine, data, split, rows, seed)
    with resumable_folder(out, "about.json", same):
        crm, llm = score(engine, chosen, out, progress)
        made = {
            "fusion": engine.fusion.to_json(),
            "machine": machine(),
            "versions": versions(),
            "notes": [
                *data.info.get("notes", []),
                *doubts(chosen.labels, f"{split} rows"),
                *few_users(chosen.users),
                *_beyond(engine),
            ],
            "unknown": unknown(engine.encoder, chosen),
        }
        result = {**same, **made, **judge(engine, chosen, crm, llm, ratios, progress)}
        write_file(out / "evaluation.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        if engine.llm is not None:
            plots.write(_for_plots(result), out)
        write_file(out / "evaluation.md", markdown(result).encode())
    return result


def choice(engine: Engine, data: PreparedData, split: str, rows: int, seed: int) -> tuple[RowSet, Json]:
    """The rows, and what a folder of their scores is told by. `rows`: 0 = the whole split."""
    template = engine.llm.prompts.template if engine.llm else None
    chosen = choose_users(data, split, rows, seed, history_needed(engine.encoder.schema, template))
    same = {
        "bundle": engine.name,
        "manifest": bundle.sha256(engine.bundle.path(bundle.MANIFEST)),
        "data": fingerprint(data),
        "split": split,
        "rows": len(chosen),
        "seed": seed if rows else None,
        "llm": engine.llm is not None,
    }
    return chosen, same


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
        scores = engine.rank(replace(request, threshold="ratio:1"), refuses=False)
        found.append((float(scores.crm[0]), float(scores.llm[0])))
        if len(found) % 50 == 0:
            progress("scoring", start + len(found), len(rows))
    return np.asarray(found, dtype=np.float64).T.copy()


def judge(engine: Engine, rows: RowSet, crm: Floats, llm: Floats, ratios: Sequence[float], progress: Progress
          ) -> Json:  # fmt: skip
    """All figures by group: every row; seen and unseen users (or warm and cold rows) apart; rows of unseen items."""
    known, (seen, unseen) = _known(engine, rows)
    new = of_new_items(engine.encoder, rows) > 0
    scored = ScoredRows(crm, crm, llm, rows.labels, rows.users.astype(np.int64), known, new)
    cold = rows.data.unseen_items(rows.split)[rows.indices]
    groups = {"all": np.ones(len(rows), dtype=bool), seen: known, unseen: ~known, UNSEEN_ITEMS: cold}
    plain = {name: p[rows.indices] for name, p in without_learning(rows.data.split("train"), rows.split).items()}
    return {"groups": {
        name: _group(engine, name, scored.part(mask), {of: p[mask] for of, p in plain.items()}, ratios, progress)
        for name, mask in groups.items() if mask.any()
    }}  # fmt: skip


def _known(engine: Engine, rows: RowSet) -> tuple[npt.NDArray[np.bool_], tuple[str, str]]:
    """Which rows are of what the training knew, and what to call them and the others.

    Where histories hold liked events only, users without a training row may still have a history, so there it
    counts that user and item both have training rows.
    """
    if rows.data.history_events != "all":
        return rows.data.warm(rows.split)[rows.indices], ("warm rows", "cold rows")
    index = engine.encoder.schema.vocabularies["user_id"].index_of
    known = np.asarray([rows.data.user_ids[user] in index for user in rows.users.tolist()])
    return known, ("seen users", "unseen users")


def _group(
    engine: Engine,
    name: str,
    rows: ScoredRows,
    plain: Mapping[str, Floats],
    ratios: Sequence[float],
    progress: Progress,
) -> Json:
    """Thresholds come from the bundle's calibration (validation rows), so the realised share may differ.

    `plain` are scores float64 [n] of any scale, of baselines without learning.
    """
    judged = ScoredJudge(rows)
    found: Json = {**about(rows), "crm": shown(judged(rows.crm))}
    asked, calibrations = [0.0], {"crm": calibration(rows.crm, rows.labels)}
    if engine.llm is not None:
        llm = judged(rows.llm_or_crm)
        found |= {"answered": float(rows.answered.mean()), "llm": shown(llm)}
        found |= {"llm_over_crm": gains(llm, judged(rows.crm)), "thirds": thirds(rows)}
        asked, calibrations["llm"] = [*ratios], calibration(rows.llm_or_crm, rows.labels)
    found |= {of: _over_plain(judged, scores, engine.llm is not None) for of, scores in plain.items()}
    found["at"] = []
    for number, ratio in enumerate(asked, 1):
        progress(f"{name}: bootstrap over users", number, len(asked))
        found["at"].append(_at(judged, ratio, _policy(engine, ratio), engine.fusion))
    return {**found, "calibration": calibrations}


def _over_plain(judged: ScoredJudge, plain: Floats, asked: bool) -> Json:
    """AUC of a ranking without learning, and what the models gain over it."""
    rows, other = judged.rows, judged(sigmoid(plain))
    models = {"crm": rows.crm, **({"llm": rows.llm_or_crm} if asked else {})}
    over = {f"{name}_over": gains({"auc": judged(p)["auc"]}, other)["auc"] for name, p in models.items()}
    return {"auc": shown({"auc": other["auc"]})["auc"], **over}


def _policy(engine: Engine, ratio: float) -> Policy:
    """What routes so much of the calibration rows: by the bundle's measure, or where that looks at more than the base
    model's probability by the entropy."""
    if engine.routing.measure.needs:
        return Policy(threshold=engine.bundle.calibration().threshold(ratio))
    return engine.parse_threshold(f"ratio:{ratio:.12g}")


def _beyond(engine: Engine) -> list[str]:
    """What these rows do not show of the bundle's policy: nothing, or one sentence."""
    if not (engine.routing.measure.needs or engine.fusion.beside):
        return []
    return [
        "rows are ordered by the entropy, and the fusion rule goes without a gate's inputs; `calibrate --data` judges "
        "the bundle's measure and rule"
    ]


def _at(judged: ScoredJudge, ratio: float, policy: Policy, rule: Fusion) -> Json:
    """Every line at one threshold; the figures of the bundle's own rule stand in the row itself too."""
    rows, chosen = judged.rows, np.zeros(len(judged.rows), np.bool_)
    chosen[policy.route(rows.crm)[0]] = True
    chosen &= rows.answered
    crm, llm = judged(rows.crm), judged(rows.llm_or_crm)
    found = {
        name: {**shown(figures), "over_crm": gains(figures, crm), "over_llm": gains(figures, llm)}
        for name, figures in lines(judged, chosen, list(dict.fromkeys([*RULES, rule]))).items()
    }
    own = found[rule.rule]
    return {
        "ratio": ratio, "threshold": finite(policy.threshold), "rows": len(rows), "share": float(chosen.mean()),
        **{metric: own[metric] for metric in METRICS},
        "gain": own["over_crm"]["auc"], "gain_over_llm": own["over_llm"]["auc"], "lines": found,
    }  # fmt: skip


def _for_plots(result: Json) -> Json:
    """All rows, in the form of the study's analyses."""
    group = result["groups"]["all"]
    name = f"{result['bundle']} on {result['split']}"
    return {"name": name, "curve": group["at"], "groups": group["thirds"], "calibration": group["calibration"]}


def markdown(result: Json) -> str:
    """The evaluation as Markdown tables."""
    head = [f"# {result['bundle']} on {result['split']} ({result['rows']:,} rows)", ""]
    head += [f"- {note}" for note in result["notes"]]
    shares = f"{tables.ends(result['fusion']['rule'])}; " if result["llm"] else ""
    head += [f"- {shares}[ ] is the 95 % interval, bootstrap over users.", ""]
    head += [*_unknown(result["unknown"]), ""]
    return "\n".join([*head, *(line for name, group in result["groups"].items() for line in _tables(name, group))])


def _unknown(found: Json) -> Iterator[str]:
    """Rows by field with a value that training has not seen."""
    yield from [
        "| field | policy for unknown values | rows with an unknown or missing one | share |",
        "|---|---|---|---|",
    ]
    for name, field in found.items():
        yield f"| {name} | {field['policy']} | {field['rows']:,} | {field['rate']:.2%} |"


def _over_nothing(title: str, found: Json, asked: bool) -> str:
    """What the models gain over a ranking that learns nothing."""
    gain = f"the CRM gains {tables.figure(found['crm_over'], '+')}"
    gain += f", the LLM alone {tables.figure(found['llm_over'], '+')}" if asked else ""
    return f"{title}: AUC {tables.figure(found['auc'])}; {gain}."


def _tables(name: str, group: Json) -> Iterator[str]:
    yield f"## {name}: {group['rows']:,} rows of {group['users']:,} users"
    yield ""
    asked = "llm" in group
    gain = {"gain": "gain over CRM", "gain_over_llm": "gain over LLM"} if asked else {}
    metrics = {"auc": "AUC", "logloss": "log-loss", "accuracy": "accuracy", "ece": "ECE"}
    yield from tables.table_head("ratio", "share", "AUC", *gain.values(), *list(metrics.values())[1:])
    for row in group["at"]:
        auc, *tail = (tables.figure(row[metric]) for metric in metrics)
        gains_ = [tables.figure(row[key], "+") for key in gain]
        yield tables.table_row(f"{row['ratio']:g}", f"{row['share']:.4f}", auc, *gains_, *tail)
    for of, title in PLAIN.items():
        if of in group:
            yield from ["", _over_nothing(title, group[of], asked)]
    yield ""
    if "llm" in group:
        yield from ["AUC of routing by other rules, at random, and by an oracle that knows the labels:", ""]
        yield from [*tables.curve({"curve": group["at"]}, "auc"), ""]
        yield from ["Thirds by the CRM's confidence:", "", *tables.groups({"groups": group["thirds"]}), ""]
