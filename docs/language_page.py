"""A pre-trained LLM's worth: what docs/results.md says of it in one table, and all tables of docs/studies.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

Json = dict[str, Any]
NAMES = "**/language-worth-*.json"
ALL = "all rows"
PAYS = ("routed 20%", "routed 100%")  # the shares of the first table,
ASKED = (ALL, "new items", "least sure third")  # and its slices
CONTROL = "random"  # the LLM without language
_COUNTED = "; over a base model with the count of training likes beside it"


def pays(results: Path) -> Iterator[str]:
    """One row a data set, slice and share: what asking adds, and what it costs; of further LLMs, all rows alone."""
    gains = ("base model's AUC", "gain in AUC", "gain within users", "does it pay?")
    yield from table_head("data set", "slice", "LLM", "asked about", *gains, "tokens a row", "ms a row")
    for found in _kept(results):
        models = [model for model in _trained(found) if model["name"] != CONTROL]
        for model in models:
            parts = [part for part in ASKED if part in found["rows"]["test"]]
            for part in parts if model is models[0] else (ALL,):
                yield from (_pays(found, model, part, share) for share in PAYS)
    yield ""


def _pays(found: Json, model: Json, part: str, share: str) -> str:
    at = model[share]
    asked, gain = at["asked"][part], at[part]["gain"]
    cells = (figure(found["base"][part]["auc"]), figure(gain, "+"), figure(at[part]["uauc gain"], "+"), _verdict(gain))
    return table_row(found["data"], part, model["name"], f"{asked:.0%}", *cells, *_price(found, model, asked))


def _verdict(gain: Json) -> str:
    if gain["low"] is None or gain["low"] <= 0 <= gain["high"]:
        return "not proven"
    return "yes" if gain["low"] > 0 else "it costs AUC"


def _price(found: Json, model: Json, asked: float) -> tuple[str, str]:
    """Tokens and milliseconds of one core that a row of the slice takes on average, each prompt read by itself."""
    cost = found["scoring"][f"{model['name']}, test"]
    tokens = asked * cost["prompt_tokens"]
    return f"{tokens:.0f}", f"{1000 * tokens * cost['cpu_seconds'] / cost['tokens']:.0f}"


def lines(results: Path) -> Iterator[str]:
    """The tables of every data set that was asked about, for docs/studies.md."""
    kept = list(_kept(results))
    if kept:
        yield from ("## A pre-trained LLM over a strong base model", "")
        yield "What [results](results.md#when-does-an-llm-pay) say in short, by share and by slice of the test rows."
        yield ""
    for found in kept:
        yield from _alone(found)
        yield from _routed(found)
        yield from _slices(found)


def _kept(results: Path) -> Iterator[Json]:
    for path in sorted(results.glob(NAMES)):
        yield json.loads(path.read_text("utf-8"))


def _trained(found: Json) -> list[Json]:
    return [model for model in found["models"] if "trained" in model]


def _alone(found: Json) -> Iterator[str]:
    rows = found["rows"]["test"]
    counts = ", ".join(f"{rows[part]['rows']:,} of {part}" for part in rows)
    yield f"**{found['data']}**: AUC of each model alone (test rows: {counts}; {rows[ALL]['users']:,} users;"
    yield f"base model `{found['base']['recipe']}`; seed {found['seed']}):"
    yield ""
    yield from table_head("asked alone", *rows, "UAUC, all rows", "tokens of training", "a second", "memory, GB")
    for name, of, cost in [
        ("base model", found["base"], ["", "", ""]),
        *((model["name"], model["alone"], _cost(model)) for model in found["models"]),
    ]:
        yield table_row(name, *(figure(of[part]["auc"]) for part in rows), figure(of[ALL]["uauc"]), *cost)
    yield ""
    yield from _beyond(found)


def _beyond(found: Json) -> Iterator[str]:
    """What each further LLM gains over the first one that was trained."""
    for model in found["models"]:
        for key in [key for key in model if key.startswith("alone over ")]:
            auc, uauc = (figure(model[key][metric], "+") for metric in ("auc", "uauc"))
            other = key.removeprefix("alone over ")
            yield f"- `{model['name']}` less `{other}`, both alone, all rows: AUC {auc}, UAUC {uauc}"
    yield ""


def _cost(model: Json) -> list[str]:
    trained = model.get("trained")
    if trained is None:
        return ["0", "", ""]
    peak = f"{trained['peak_bytes'] / 1e9:.2f}"
    return [f"{trained['tokens']:,}", f"{trained['tokens_per_second']:.0f}", peak]


def _routed(found: Json) -> Iterator[str]:
    """All rows: each share beside the same share at random and by an oracle."""
    counted = "count" in found
    yield f"{found['data']}, all rows: what asking adds to the base model's AUC (`stack`, fitted on validation rows;"
    yield "paired), the least sure rows first; as many rows drawn at random; as many whose log-loss falls most, labels"
    beside = ("over base and count",) if counted else ()
    yield f"known (oracle){_COUNTED if counted else ''}; within users (UAUC)."
    yield ""
    yield from table_head("LLM", "asked about", "gain", "at random", "oracle", *beside, "within users")
    for model in _trained(found):
        for name in _shares(model):
            at = model[name]
            gains = [at[ALL]["gain"], at["at random"][ALL], at["oracle"][ALL]]
            gains += [model[one][name][ALL]["gain"] for one in beside]
            cells = [figure(gain, "+") for gain in (*gains, at[ALL]["uauc gain"])]
            yield table_row(model["name"], f"{at['asked'][ALL]:.0%}", *cells)
    yield ""


def _slices(found: Json) -> Iterator[str]:
    """The other slices: the gain at each share, with the share of the slice that was asked about."""
    trained = _trained(found)
    if not trained:
        return
    shares = _shares(trained[0])
    yield f"{found['data']}, slices: the gain where so much of all validation rows would be asked about"
    yield "(in brackets: of the slice's test rows)."
    yield ""
    yield from table_head("LLM", "slice", *(share.removeprefix("routed ") for share in shares))
    for model in trained:
        for part in [part for part in found["rows"]["test"] if part != ALL]:
            at = [model[share] for share in shares]
            cells = [f"{figure(one[part]['gain'], '+')} ({one['asked'][part]:.0%})" for one in at]
            yield table_row(model["name"], part, *cells)
        if "weights by newness" in model[shares[0]]:
            for part in ("new items", ALL):
                cells = [figure(model[share]["weights by newness"][part], "+") for share in shares]
                yield table_row(model["name"], f"{part}, new items with weights of their own", *cells)
                cells = [figure(model[share]["weights by newness"]["within users"][part], "+") for share in shares]
                yield table_row(model["name"], "the same, within users (UAUC)", *cells)
    yield ""


def _shares(model: Json) -> list[str]:
    return [name for name in model if name.startswith("routed ")]
