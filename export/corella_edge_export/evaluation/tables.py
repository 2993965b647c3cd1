"""The study's JSON as Markdown: one table a topic, of one analysis or of several training seeds combined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from corella_edge_export.evaluation.scored import METRICS, Json
from corella_edge_export.evaluation.shares import LINES

TITLES = {"auc": "AUC", "logloss": "log-loss", "accuracy": "accuracy", "ece": "ECE", "uauc": "UAUC"}
PLAIN = {"no_learning": "like rates of item and user", "popularity": "items by likes"}  # without learning
RANKED = "crm"  # the model whose gains over other rankings are shown
RANK_METRICS = {"hr@10": "HR@10", "ndcg@10": "NDCG@10", "mrr": "MRR"}
RANKINGS = {
    "crm": "CRM", "base": "stage-1 CRM", "popular": "items by likes in training rows",
    "following": "items that follow the last one in training rows", "recent": "the history's items, latest first",
    "alike": "cosine of text vectors with the mean of the last 3 items",
}  # fmt: skip
MODELS = {"base": "stage-1 CRM", "crm": "CRM", "llm": "LLM", "routed": "routed"}
SHIFTS = {
    "mean_score": "mean score, LLM - CRM", "calibration": "calibration error curves, mean distance",
    "flips": "decisions that differ at 0.5", "crm_bias": "CRM: mean score - share of positives",
    "llm_bias": "LLM: mean score - share of positives", "crm_ece": "CRM: ECE", "llm_ece": "LLM: ECE",
}  # fmt: skip


def markdown(result: Json, ablation: Sequence[Json] = (), notes: Sequence[str] = ()) -> str:
    """All tables of an analysis, or of `combine`'s, below what is to be known of the data and the runs."""
    parts = sections(result, ablation)
    return "\n".join(
        [*_head(result, notes), *(line for title, rows in parts for line in (f"## {title}", "", *rows, ""))]
    )


def sections(result: Json, ablation: Sequence[Json] = ()) -> list[tuple[str, Iterator[str]]]:
    """Title and lines of each table."""
    if "claim" not in result:
        return _of_base_model(result)
    return [
        ("Main claim: gain over the stage-1 CRM", claims(result)),
        ("Point of operation, chosen on validation rows", users(result)),
        *((f"{TITLES[metric]} by routed share", curve(result, metric)) for metric in ("auc", "accuracy", "logloss")),
        ("Thirds by the CRM's confidence", groups(result)),
        *((("Beside no learning", baseline(result)),) if "baseline" in result else ()),
        *((("Ranking the whole catalogue", ranking(result)),) if "ranking" in result else ()),
        ("Boundary shift on routed rows", boundary(result)),
        *((("Boundary shift by variant", shifts(result)),) if len(result.get("boundary_by_variant", ())) > 1 else ()),
        *((("Ablation", ablations(ablation)),) if ablation else ()),
        *((("Models by variant", models(result)),) if len(result.get("models_by_variant", ())) > 1 else ()),
    ]


def _of_base_model(result: Json) -> list[tuple[str, Iterator[str]]]:
    """Those of a recipe without an LLM."""
    ranked = [("Ranking the whole catalogue", ranking(result))] if "ranking" in result else []
    return [("The base model alone", base_model(result)), *ranked]


def _head(result: Json, notes: Sequence[str]) -> Iterator[str]:
    test = result["test"]
    yield f"# {result['name']}: {count(test['rows'])} test rows of {count(test['users'])} users"
    yield ""
    yield from (f"- {note}" for note in notes)
    yield from reading(result)
    yield ""


def reading(result: Json) -> Iterator[str]:
    """How the figures are to be read."""
    many = len(result.get("seeds", ())) > 1
    yield f"- [ ] is the 95 % interval, bootstrap over users, {result['draws']:,} draws; gains are paired."
    if many:
        yield f"- ± is the standard deviation over {len(result['seeds'])} seeds; [ ] is then their mean interval."


def claims(result: Json) -> Iterator[str]:
    """The main claim of each training seed, and their mean."""
    yield from table_head(
        "seed", "routed", "AUC", "AUC, %", "accuracy", "accuracy, %", "share, interval and target met"
    )
    seeds = result.get("seeds", {"-": result["claim"]})
    for seed, found in seeds.items():
        both = [found[metric] for metric in ("auc", "accuracy")]
        met = found["within_share"] and all(one["above_zero"] and one["reached"] for one in both)
        yield table_row(seed, _share(found["share"]), *_claim(found), "yes" if met else "no")
    if len(seeds) > 1:
        yield table_row("mean", _share(result["claim"]["share"]), *_claim(result["claim"]), "")


def _claim(found: Json) -> Iterator[str]:
    for metric in ("auc", "accuracy"):
        yield figure(found[metric]["gain"], "+")
        yield f"{figure(found[metric]['percent'], '+', 2)} (target {found[metric]['target']:+.2f})"


def users(result: Json) -> Iterator[str]:
    """Every model and the routed system on all rows, on seen and on unseen ones."""
    point = result["operating_point"]
    rule = point["rule"] if isinstance(point["rule"], str) else ", ".join(point["rule"])
    ratio, nats = figure(point["ratio"], digits=2), figure(point["threshold"])
    yield f"Rule: {rule}; validation ratio {ratio}; threshold {nats} nats."
    yield ""
    yield from table_head("rows", "model", "routed", *TITLES.values())
    for name, part in result["users"].items():
        for model, title in MODELS.items():
            share = _share(part["share"]) if model == "routed" else ""
            label = f"{name} ({count(part['rows'])} rows, {count(part['users'])} users)" if model == "base" else ""
            yield table_row(label, title, share, *(figure(part[model][metric]) for metric in METRICS))
        for other in ("crm", "base"):
            gains = part[f"over_{other}"]
            yield table_row("", f"routed - {MODELS[other]}", "", *(figure(gains[metric], "+") for metric in METRICS))


def base_model(result: Json) -> Iterator[str]:
    """The base model on all rows and in parts, and its gain in AUC over rankings that learn nothing."""
    plain = {of: title for of, title in PLAIN.items() if of in result["parts"]["all"]}
    yield from table_head("rows", *TITLES.values(), *(f"AUC - {title}" for title in plain.values()))
    for name, part in result["parts"].items():
        label = f"{name} ({count(part['rows'])} rows, {count(part['users'])} users)"
        over = (figure(part[of]["crm_over"]["auc"], "+") for of in plain)
        yield table_row(label, *(figure(part["crm"][metric]) for metric in METRICS), *over)


def ends(rule: str) -> str:
    """What the first and the last row of a table by routed share are, under a fusion rule."""
    last = "the LLM alone" if rule == "replace" else f"`{rule}` of both models wherever the LLM answers"
    return f"Share 0 is the CRM alone, share 1 {last}"


def curve(result: Json, metric: str) -> Iterator[str]:
    """One metric of every line at every share."""
    lines = lines_of(result)
    yield from table_head("ratio", "routed", *lines)
    for point in result["curve"]:
        figures = (figure(point["lines"][line][metric]) for line in lines)
        yield table_row(f"{point['ratio']:g}", _share(point["share"]), *figures)


def lines_of(result: Json) -> list[str]:
    """Names of the curve's lines, in order."""
    return [line for line in LINES if all(line in point["lines"] for point in result["curve"])]


def groups(result: Json) -> Iterator[str]:
    """CRM against LLM in each third."""
    titles = [f"{model} {TITLES[metric]}" for metric in ("auc", "accuracy") for model in ("CRM", "LLM", "LLM - CRM")]
    yield from table_head("third", *titles)
    for group, label in zip(result["groups"], ("1, most confident", "2", "3, least confident"), strict=False):
        yield table_row(label, *(cell for metric in ("auc", "accuracy") for cell in _versus(group, metric)))


def _versus(group: Json, metric: str) -> tuple[str, str, str]:
    return (figure(group["crm"][metric]), figure(group["llm"][metric]), figure(group["llm_over_crm"][metric], "+"))


def boundary(result: Json) -> Iterator[str]:
    """The shift between the models on routed rows."""
    found = result["boundary"]
    yield f"Validation ratio {found['ratio']:g}; {_share(found['share'])} of the test rows."
    yield ""
    yield from table_head("measure", "value")
    yield from (table_row(title, figure(found[name], "+")) for name, title in SHIFTS.items() if name in found)


def shifts(result: Json) -> Iterator[str]:
    """The shift of every variant on the rows that the full system routes at the validation ratio."""
    yield from table_head("variant", "routed", *SHIFTS.values())
    for name, found in result["boundary_by_variant"].items():
        yield table_row(name, _share(found["share"]), *(figure(found.get(measure), "+") for measure in SHIFTS))


def baseline(result: Json) -> Iterator[str]:
    """What every model gains over a ranking by smoothed like rates of item and user."""
    yield "Smoothed like rates of the item and the user in training rows; gains of every model over them."
    yield ""
    yield from table_head("rows", "metric", "no learning", *(f"{title} over it" for title in MODELS.values()))
    for name, found in result["baseline"].items():
        for metric in ("auc", "uauc"):
            over = (figure(found[f"{model}_over"][metric], "+") for model in MODELS)
            yield table_row(name, TITLES[metric], figure(found[metric]), *over)


def ranking(result: Json) -> Iterator[str]:
    """The CRM's ranking of the catalogue before and after alignment, beside simple ones."""
    yield f"{result['ranking']['protocol'].capitalize()}."
    yield ""
    yield from rankings(result["ranking"]["slices"], "###")


def rankings(slices: Json, level: str = "##") -> Iterator[str]:
    """One table a slice: every ranking's metrics, and what the CRM gains over it in NDCG."""
    for name, part in slices.items():
        yield from [f"{level} {name}: {count(part['rows'])} rows of {count(part['users'])} users", ""]
        yield from table_head("ranking", *RANK_METRICS.values(), "CRM - ranking, NDCG@10")
        for of, found in part["rankings"].items():
            over = part["gains"].get(RANKED, {}).get(of)
            figures = (figure(found[metric]) for metric in RANK_METRICS)
            yield table_row(RANKINGS[of], *figures, figure(over["ndcg@10"], "+") if over else "")
        yield ""


def ablations(table: Sequence[Json]) -> Iterator[str]:
    """One row a variant, beside the full system and the stage-1 CRM of the full system."""
    yield from table_head(
        "variant", "routed", "AUC", "log-loss", "accuracy", "AUC - full", "accuracy - full", "AUC - stage 1, %"
    )
    for row in table:
        over = (figure(row["over_full"][metric], "+") for metric in ("auc", "accuracy"))
        plain = (figure(row[metric]) for metric in ("auc", "logloss", "accuracy"))
        yield table_row(
            row["name"], _share(row["share"]), *plain, *over, figure(row["over_base_percent"]["auc"], "+", 2)
        )


def models(result: Json) -> Iterator[str]:
    """Both models of every variant alone, and the LLM's scores in place of the CRM's, nothing fitted."""
    yield f"Replaced: the LLM's scores as they are, at validation ratio {result['boundary']['ratio']:g}."
    yield ""
    titles = {"crm": "CRM", "llm": "LLM", "replace": "replaced"}
    columns = [f"{title}: {name}" for title in titles.values() for name in ("AUC", "AUC - full", "log-loss - full")]
    yield from table_head("variant", *columns, "replaced: AUC - stage-1 CRM")
    for name, found in result["models_by_variant"].items():
        cells = [cell for model in titles for cell in _against_full(found[model])]
        yield table_row(name, *cells, figure(found["replace"]["over_base"]["auc"], "+"))


def _against_full(found: Json) -> tuple[str, str, str]:
    over = found["over_full"]
    return figure(found["auc"]), figure(over["auc"], "+"), figure(over["logloss"], "+")


def figure(found: Any, sign: str = "", digits: int = 4) -> str:
    """A number; mean ± sd of seeds, of a gain (`sign`) also their mean interval; or a value with its interval."""
    if found is None or (isinstance(found, dict) and found["value"] is None):
        return "n/a"
    if not isinstance(found, dict):
        return f"{found:{sign}.{digits}f}"
    value = f"{found['value']:{sign}.{digits}f}"
    if found.get("sd") is not None:
        value += f" ± {found['sd']:.{digits}f}"
        if not sign:
            return value
    if found.get("low") is None:
        return value
    return f"{value} [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]"


def count(found: Any) -> str:
    """A whole number; the mean where seeds differ."""
    return f"{found['value'] if isinstance(found, dict) else found:,.0f}"


def _share(found: Any) -> str:
    return f"{100 * (found['value'] if isinstance(found, dict) else found):.1f} %"


def table_head(*titles: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield table_row(*titles)
    yield "|" + "---|" * len(titles)


def table_row(*cells: str) -> str:
    """A line of a Markdown table; a cell cannot end itself."""
    return f"| {' | '.join(_plain(cells))} |"


def _plain(cells: Iterable[str]) -> Iterator[str]:
    return (cell.replace("|", "/") for cell in cells)
