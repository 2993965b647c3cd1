"""What the kept results say of quality and latency: the README's table, and the first tables of docs/results.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from corella_edge_export.evaluation.tables import ends, figure
from corella_edge_export.recipe import load_recipe

Json = dict[str, Any]
# The routed shares of the README's table: those whose latency was measured.
SHOWN = (0, 0.01, 0.05, 0.2, 1)


def curve(study: Json) -> list[Json]:
    """Share, AUC, gain and accuracy at each ratio, by the fusion rule that the study chose."""
    rule = _rule(study)
    return [
        {
            "ratio": point["ratio"], "share": _mean(point["share"]), "auc": point["lines"][rule]["auc"],
            "gain": point["lines"][rule]["over_base"]["auc"], "accuracy": point["lines"][rule]["accuracy"],
        }
        for point in study["analysis"]["curve"]
    ]  # fmt: skip


def short(study: Json, session: Json) -> Iterator[str]:
    """The README's table: quality of the study, latency of the session's benchmark."""
    ms = {row["ratio"]: row["request_ms"] for row in session["benchmark"]["ratios"]}
    yield "| threshold | routed share | AUC | gain in AUC | accuracy | p50, ms | p99, ms |"
    yield "|---|---|---|---|---|---|---|"
    for row in curve(study):
        if row["ratio"] in SHOWN:
            quality = f"{_spread(row['auc'])} | {_gain(row['gain'])} | {_spread(row['accuracy'])}"
            times = f"{ms[row['ratio']]['p50']:.1f} | {ms[row['ratio']]['p99']:.1f}"
            yield f"| `ratio:{row['ratio']:g}` | {row['share']:.1%} | {quality} | {times} |"
    yield ""
    rows, seeds = study["analysis"]["test"]["rows"], len(study["seeds"])
    yield f"AUC and accuracy: recipe `{study['name']}`, fusion rule `{_rule(study)}`, {rows:,} test rows,"
    yield f"mean ± standard deviation of {seeds} training seeds; gain over the CRM trained alone, with its"
    yield "95 % interval over users."
    yield f"Latency: one request of 20 candidates from a user not seen before, in process, {_where(session)}."


def _gain(found: Json) -> str:
    return figure({end: found[end] for end in ("value", "low", "high")}, "+")


def session(result: Json) -> Iterator[str]:
    """One bundle from the first command to the last: quality and latency by share, and how long each step took."""
    yield from _quality(result)
    yield from _steps(result)


def _quality(result: Json) -> Iterator[str]:
    group = result["evaluation"]["groups"]["all"]
    latency = {row["ratio"]: row["request_ms"] for row in result["benchmark"]["ratios"]}
    recipe = result["recipe"]
    yield f"MovieLens-1M ({result['note']}), recipe `{recipe['name']}`, seed {recipe['seed']}:"
    yield f"{group['rows']:,} test rows of {group['users']:,} users. Thresholds are fixed on validation rows."
    rule = result["evaluation"].get("fusion", {"rule": "replace"})["rule"]  # older results name none
    yield f"{ends(rule)}; 95 % intervals by bootstrap over users."
    shipped = load_recipe(recipe["name"]).export.fusion
    if shipped != rule:
        yield f"This bundle's fusion rule is `{rule}`; today the recipe ships `{shipped}`, measured by the study above."
    yield f"Latency: one request of 20 candidates of a new user, in process, {_where(result)}."
    yield ""
    yield "| ratio | share | AUC | gain over the CRM | log-loss | accuracy | p50 ms | p99 ms |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in group["at"]:
        ms = latency.get(row["ratio"])
        times = f"{ms['p50']:.2f} | {ms['p99']:.2f}" if ms else "|"
        figures = [figure(row["auc"]), figure(row["gain"], "+"), *(_point(row[m]) for m in ("logloss", "accuracy"))]
        yield f"| {row['ratio']:g} | {row['share']:.3f} | {' | '.join(figures)} | {times} |"
    yield ""


def _where(result: Json) -> str:
    machine, settings = result["machine"], result["benchmark"]["settings"]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''} ({machine['cpu']})"
    return f"{cores}, {settings['crm_threads']} thread for the CRM and {settings['llm_threads']} for the LLM"


def _steps(result: Json) -> Iterator[str]:
    trained = {name: f"{line['seconds']:,.0f} s" for name, line in result["train"].items()}
    names = [name for name, step in result["steps"].items() if step["seconds"] is not None]
    size = sum(result["bundle_bytes"].values()) / 2**20
    models = {name: result["bundle_bytes"][name] / 2**20 for name in ("crm.onnx", "llm.gguf")}
    yield "| step | " + " | ".join([*(f"stage {name}" for name in trained), *names]) + " |"
    yield "|---" * (len(names) + len(trained) + 1) + "|"
    times = [*trained.values(), *(f"{result['steps'][name]['seconds']:,.1f} s" for name in names)]
    yield f"| time | {' | '.join(times)} |"
    yield ""
    yield f"The bundle is {size:.1f} MiB: `crm.onnx` {models['crm.onnx']:.1f}, `llm.gguf` {models['llm.gguf']:.1f},"
    yield "most of the rest is `sample.jsonl`."


def study(result: Json) -> Iterator[str]:
    """Of all, of seen and of unseen users: what routing gains at the point of operation."""
    users = result["analysis"]["users"]
    notes = "; ".join(note for note in result["notes"] if "timestamps" in note)
    yield f"Recipe `{result['name']}` ({notes}), {len(result['seeds'])} training seeds. The fusion rule"
    yield f"(`{_rule(result)}`) and the threshold are chosen on validation rows; all figures are of test rows, ± over"
    yield "seeds. Gains over the stage-1 CRM are paired; their 95 % interval is in brackets."
    yield ""
    yield "| users | routed | stage-1 CRM, AUC | LLM alone, AUC | routed system, AUC | gain in AUC | gain in accuracy |"
    yield "|---|---|---|---|---|---|---|"
    for name, group in users.items():
        auc = [_spread(group[model]["auc"]) for model in ("base", "llm", "routed")]
        gains = [figure(group["over_base"][metric], "+") for metric in ("auc", "accuracy")]
        yield f"| {name} | {_mean(group['share']):.1%} | {' | '.join([*auc, *gains])} |"


def demo(result: Json) -> Iterator[str]:
    """The demo's synthetic data, seed by seed."""
    yield "| seed | CRM | LLM | routed at 0.3 | gain over the CRM | gain over the LLM | ratios that beat both |"
    yield "|---|---|---|---|---|---|---|"
    for seed, entry in result["seeds"].items():
        at = {row["ratio"]: row for row in entry["at"]}
        auc = [f"{at[ratio]['auc']['value']:.4f}" for ratio in (0.0, 1.0, 0.3)]
        gains = [figure(at[0.3][name], "+") for name in ("gain", "gain_over_llm")]
        winners = ", ".join(f"{ratio:g}" for ratio in entry["beats_both"])
        yield f"| {seed} | {' | '.join([*auc, *gains])} | {winners} |"


def held(result: Json) -> Iterator[str]:
    """A share that the controller holds, by a real server."""
    step, settled = _windows(result, of_step=True), _windows(result, of_step=False)
    loose = [_ends([one["not_held"] for one in result["windows"] if one["after_step"] is after])
             for after in (False, True)]  # fmt: skip
    any_window = _ends(list(result["any_window"].values()))
    window, target = f"{result['window_seconds']:g} s", f"{result['target']:g}"
    command = f"serve --target-ratio {target} --window {window.replace(' ', '')}"
    yield f"A share that is held (`benchmarks/held_share.py`): {result['requests']:,} requests to `{command}`,"
    yield "halfway a step from known users and items to new users and, in part, new items. It asked about"
    yield f"{_ends(settled)} of the candidates in {len(settled)} windows of {window}, and about {_ends(step)} in the"
    yield f"one that begins with the step; in any window of {window}, the first and those that end in the {window}"
    yield f"after the step left out, about {any_window}. The threshold `ratio:{target}`, which nothing holds, would"
    yield f"have asked about {loose[0]} before the step and {loose[1]} after it."


def _windows(result: Json, *, of_step: bool) -> list[float]:
    """The share of the window that begins with the step, or those of all others."""
    first = next(place for place, one in enumerate(result["windows"]) if one["after_step"])
    return [one["share"] for place, one in enumerate(result["windows"]) if (place == first) is of_step]


def _ends(shares: Sequence[float]) -> str:
    low, high = f"{min(shares):.3f}", f"{max(shares):.3f}"
    return low if low == high else f"{low} to {high}"


def _rule(study: Json) -> str:
    rule = study["analysis"]["operating_point"]["rule"]
    return rule if isinstance(rule, str) else next(iter(dict.fromkeys(rule)))


def _mean(value: Any) -> float:
    return float(value["value"] if isinstance(value, dict) else value)


def _point(found: Any) -> str:
    """A figure without its interval, which older results do not have."""
    return figure(_mean(found))


def _spread(value: Json) -> str:
    return f"{value['value']:.4f}" + (f" ± {value['sd']:.4f}" if value.get("sd") is not None else "")
