"""What the README and docs/results.md say of the base models: quality, microseconds and megabytes, by data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import base_models
from corella_edge_export.evaluation.tables import table_head, table_row

Json = dict[str, Any]
QUALITY = "base-models-quality-*.json"
NONE = ""  # not measured
NEW, RETURNING, MORE = "20 candidates, new user", "20 candidates, returning user", "20 candidates, one more event"
MANY, WHOLE = "100 candidates, new user", "top 10 of the catalogue, new user"
# By what the models learnt: the metrics that are shown, and which of them the gain is of.
METRICS = {"labels": ({"auc": "AUC", "logloss": "log-loss"}, "auc"),
           "ranking": ({"hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr": "MRR"}, "ndcg@10")}  # fmt: skip
BY = {metric: by for by, (metrics, _) in METRICS.items() for metric in metrics}


def short(results: Path) -> Iterator[str]:
    """The README's table: base models that learnt labels, beside their times on one CPU."""
    quality = next(found for found in _read(results, QUALITY) if found["by"] == "labels")
    # The CPU on which most of them were timed.
    timed = max(_read(results, "*/base-models.json"), key=lambda found: len(_times_of(found, quality)))
    models = _times_of(timed, quality)
    yield from table_head("base model", "AUC", "gain over DCNv2", "microseconds, new user", "returning user", "MB")
    for row in quality["models"]:
        model = models.get(row["name"])
        times = [f"{model['workloads'][name]['us']:,.0f}" if model else NONE for name in (NEW, RETURNING)]
        gain = row["gains"]["all"]["auc"] if row is not quality["models"][0] else None
        auc = _figure(row["parts"]["all"]["auc"])
        yield table_row(row["name"], auc, _figure(gain, "+"), *times, _megabytes(model) if model else NONE)
    yield ""
    rows = quality["counts"]["all"]["rows"]
    seeds = ", ".join(f"{row['name']} {row['seeds']}" for row in quality["models"])
    yield f"AUC on {rows:,} test rows, mean ± deviation of the seeds ({seeds}), with 95 % intervals over users."
    yield f"Time: `Engine.rank` of 20 candidates, one core, {timed['machine']['cpu']}{_void(timed)}."


def svg(results: Path) -> str:
    """docs/base-models.svg: every data set of the CPU on which most models with a figure of quality were timed."""
    by_cpu = [list(_read(folder, "base-models*.json")) for folder in sorted(results.iterdir()) if folder.is_dir()]
    most = max(by_cpu, key=lambda kept: sum(map(_with_quality, kept)))
    return base_models.plot([timed for timed in most if _with_quality(timed)])


def lines(results: Path, published: Path) -> Iterator[str]:
    """Quality on every data set, what others print of the same rows, and the time on each CPU that was measured."""
    for found in _read(results, QUALITY):
        yield from _quality(found, published / f"{found['data']}.json")
    for timed in _read(results, "*/base-models*.json"):
        yield from _times(timed)


def _read(results: Path, names: str) -> Iterator[Json]:
    for path in sorted(results.glob(names)):
        yield json.loads(path.read_text("utf-8"))


def _with_quality(timed: Json) -> int:
    return sum("quality" in model for model in timed["models"])


def _times_of(timed: Json, quality: Json) -> dict[str, Json]:
    """NAME → its times, of the models that are in both."""
    names = {row["name"] for row in quality["models"]}
    return {model["name"]: model for model in timed["models"] if model["name"] in names}


def _quality(found: Json, published: Path) -> Iterator[str]:
    metrics, main = METRICS[found["by"]]
    counts, first = found["counts"], found["models"][0]["name"]
    others = [part for part in counts if part != "all"]
    tested = f"{counts['all']['rows']:,} test rows of {counts['all']['users']:,} users"
    yield f"**{found['data']}**, {tested}; {_protocol(found)}"
    yield ""
    gains = [f"{metrics[main]} - {first}", *(f"{metrics[main]}, {part}" for part in others)]
    yield from table_head("base model", *metrics.values(), *gains, "seeds")
    for row in found["models"]:
        own = (_figure(row["parts"]["all"][metric]) for metric in metrics)
        gain = NONE if row["name"] == first else _figure(row["gains"]["all"][main], "+")
        yield table_row(row["name"], *own, gain, *(_figure(row["parts"][p][main]) for p in others), str(row["seeds"]))
    for row in json.loads(published.read_text("utf-8"))["base_models"] if published.exists() else ():
        cells = (f"{row[metric]:.4f}" if metric in row else NONE for metric in metrics)
        yield table_row(f"{row['method']} ({row['source']})", *cells, NONE, *(NONE for _ in others), NONE)
    yield ""


def _protocol(found: Json) -> str:
    if found["by"] == "labels":
        return "AUC and log-loss of the label."
    return f"the item of each row ranked among all {found['items']:,}, the history left out, ties against it."


def _figure(found: Any, sign: str = "") -> str:
    """A number with its spread over seeds and its interval; nothing where there is none."""
    if found is None:
        return NONE
    spread = f" ± {found['spread']:.4f}" if "spread" in found else ""
    return f"{found['value']:{sign}.4f}{spread} [{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def _times(found: Json) -> Iterator[str]:
    clock = "processor time" if found["clock"] == "processor" else "wall time"
    yield f"Microseconds ({clock}) of a whole `Engine.rank` without the LLM, one core, {found['machine']['cpu']},"
    yield f"median of {found['pairs']} turns{_void(found)}."
    yield "In brackets: the median ratio to the first row, with its 95 % interval."
    yield ""
    top = f"top 10 of {found['models'][0]['items']:,}, new user"
    shown = METRICS[BY[metric]][0][metric] if (metric := _metric(found)) else "quality"
    yield from table_head("base model", shown, NEW, RETURNING, MORE, MANY, top, "MB")
    for model in found["models"]:
        quality = f"{model['quality'][metric]:.4f}" if "quality" in model else NONE
        cells = (_time(model["workloads"][name]) for name in (NEW, RETURNING, MORE, MANY, WHOLE))
        yield table_row(model["name"], quality, *cells, _megabytes(model))
    yield ""
    if products := [_product(model) for model in found["models"] if "product" in model]:
        yield f"A bare product of that size (numpy), the floor of a ranking: {'; '.join(products)}."
        yield ""


def _product(model: Json) -> str:
    own, tops = model["product"], model["product"]["top"]
    times = (f"{_ratio(tops[user])} times that for a {user} user" for user in ("returning", "new"))
    return f"{model['name']} {own['us']:,.0f} µs, the top 10 takes {' and '.join(times)}"


def _metric(found: Json) -> str:
    """By which its models are judged; "" where they are not."""
    return next((str(model["metric"]) for model in found["models"] if "quality" in model), "")


def _void(found: Json) -> str:
    """What there is to say where the machine was not quiet."""
    load = max(found["load"]["foreign"], found["load"]["steal"])
    return f" (other work took {load:.0%} of the machine, so these times are void)" if found["void"] else ""


def _megabytes(model: Json) -> str:
    return f"{next(iter(model['megabytes'].values())):.1f}"


def _time(cell: Json) -> str:
    return f"{cell['us']:,.0f} ({_ratio(cell['ratio'])})"


def _ratio(found: Json) -> str:
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
