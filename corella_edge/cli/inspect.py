"""`corella-edge inspect`: what a bundle or prepared data hold, on a page or in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from corella_edge.cli import prepared
from corella_edge.cli.base import Command
from corella_edge.cli.common import columns, echo_json, figure, json_option, mib, nats
from corella_edge.errors import BundleError

Part = dict[str, Any]


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--all", is_flag=True, help="Everything: files, fields, the prompt, all thresholds, recipe and versions.")
@json_option
def inspect(bundle: Path, all: bool, json: bool) -> None:
    """Show what BUNDLE holds: the essentials on a page, or everything with --all or --json. BUNDLE may also be a folder
    that `prepare` wrote.

    Of a damaged bundle, what is damaged and whatever can still be read; the exit code is then 3.
    """
    if (bundle / prepared.INFO).is_file():
        _prepared(bundle, all, json)
        return
    from corella_edge_runtime.site.describe import damage, describe

    found = describe(bundle)
    if json:
        echo_json(found)
    else:
        click.echo("\n".join([*_problems(found), *(_everything(found) if all else _page(found, bundle))]))
    if found["problems"]:
        raise BundleError(f"{bundle}: {damage(found['problems'])}")


def _prepared(folder: Path, all: bool, json: bool) -> None:
    info = prepared.read(folder)
    problems = list(prepared.damage(folder, info))
    if json:
        echo_json({**info, "problems": problems})
    else:
        rest = [*_everything(info)] if all else [f"corella-edge inspect {folder} --all   shows the rest"]
        click.echo("\n".join([*_problems({"problems": problems}), *prepared.page(info), "", *rest]))
    if problems:
        raise BundleError(f"{folder}: {problems[0]}; run prepare again")


def _problems(found: Part) -> Iterator[str]:
    if found["problems"]:
        yield from ["PROBLEMS", *_indented(iter(found["problems"])), ""]


def _page(found: Part, bundle: Path) -> Iterator[str]:
    """The essentials, one line a topic; what a damaged bundle does not tell is left out."""
    rows = []
    for name, (part, line) in _PAGE.items():
        if (text := _told(line, found.get(part), found)) is not None:
            rows.append([name, text])
    if rows:
        yield from [*columns(rows), "", f"corella-edge inspect {bundle} --all   shows the rest"]


def _told(line: Callable[[Any, Part], str | None], part: Any, found: Part) -> str | None:
    """A line of the page. What another program wrote into a bundle may have any form: then the line is missing."""
    try:
        return None if part is None else line(part, found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _bundle(part: Part, _: Part) -> str:
    made = f", made {part['created']}" if part.get("created") else ""
    return f"{part['name']}@{part['version']}, format {part['format_version']}{made}"


def _recipe(part: Part, _: Part) -> str:
    return f"{part['recipe']['name']}, seed {part['recipe']['seed']}"


def _data(part: Part, _: Part) -> str:
    data, words = part["data"], {"name": "", "licence": "licence: "}
    return ", ".join(f"{word}{data[key]}" for key, word in words.items() if data.get(key))


def _notes(part: Part, _: Part) -> str | None:
    """What the data's preparation stamped: a split that flatters the figures, for example."""
    return "; ".join(map(str, part["data"]["notes"])) or None


def _files(part: list[Part], _: Part) -> str:
    return f"{len(part)}, {mib(sum(file['bytes'] for file in part))}"


def _crm(part: list[Part], found: Part) -> str:
    name = found["bundle"].get("models", {}).get("crm")
    return f"{f'{name}, ' if name else ''}{_sizes(part, '.onnx')}; {len(found['fields'])} fields"


def _llm(part: list[Part], found: Part) -> str | None:
    kinds = found["bundle"].get("models", {}).get("llm") or {}
    return _sizes(part, ".gguf", kinds) or "none: the base model decides alone"


def _adapters(part: Part, _: Part) -> str:
    usual = ", ".join(f"{name} ({weight:g})" for name, weight in part["default"].items())
    return f"{', '.join(part['adapters'])}; by itself {usual or 'none'}"


def _sizes(files: list[Part], ending: str, kinds: Mapping[str, str] | None = None) -> str:
    own = [file for file in files if file["file"].endswith(ending) and "/" not in file["file"]]
    kinds = kinds or {}
    return ", ".join(" ".join([file["file"], *([kinds[file["file"]]] if file["file"] in kinds else []),
                               mib(file["bytes"])]) for file in own)  # fmt: skip


def _catalogue(part: Part, _: Part) -> str:
    return f"{part['items']:,} items with {', '.join(part['attributes'])}"


def _routing(part: Part, _: Part) -> str:
    asked = nats(math.inf if part["nats"] is None else part["nats"])
    whom = (
        "the LLM is never asked"
        if asked == "never"
        else f"the LLM is asked about candidates whose entropy is at least {asked}"
    )
    of = "" if asked == "never" else _calibrated_on(part)
    return f"{part['threshold']}: {whom}; fusion: {part['fusion']['rule']}{of}"


def _calibrated_on(part: Part) -> str:
    """Whose figures they are, where the catalogue was replaced since."""
    other = part.get("calibrated_on")
    return f"; calibrated on the catalogue of {other}, which was replaced" if other else ""


def _quality(part: Part, found: Part) -> str:
    """AUC, and of a base model that learns which item comes next its ranks; these alone where all rows are liked."""
    ranked = found.get("verification", {}).get("metrics", {}).get("next_item")
    if not ranked:
        return _told_apart(part, found)
    own = _ranked(ranked)
    has_auc = any(row["ratio"] == 0 and row["auc"] is not None for row in part["table"])
    return f"{own}; {_told_apart(part, found)}" if has_auc else f"{own}{_calibrated_on(part)}"


def _ranked(told: Part) -> str:
    figures = ", ".join(f"{name} {figure(told[name.lower()])}" for name in ("HR@10", "NDCG@10", "MRR"))
    rows = f"the next liked item of {told['users']:,} validation users, among {told['items']:,} items"
    return f"base model alone {figures} ({rows})"


def _told_apart(part: Part, found: Part) -> str:
    by_ratio = {row["ratio"]: row["auc"] for row in part["table"]}
    usual = next((r for r in by_ratio if f"ratio:{r:g}" == part["threshold"]), None)
    asked = [*([(part["threshold"], usual)] if usual not in (None, 0, 1) else []), ("LLM asked about every row", 1)]
    has_llm = any(file["file"].endswith(".gguf") for file in found["files"])
    wanted = [("base model alone", 0), *(asked if has_llm else [])]
    figures = ", ".join(f"{name} {figure(by_ratio[ratio])}" for name, ratio in wanted)
    return f"{figures} (AUC on {part['judged']}){_calibrated_on(part)}"


def _checked(part: Part, _: Part) -> str:
    allowed = part["tolerance"]
    more = {"LLM": allowed.get("llm"), "text vectors": allowed.get("text")}
    others = "".join(f", {name} {figure:.2g}" for name, figure in more.items() if figure)
    return f"`verify` allows differences of: base model {allowed['crm']:g}{others}"


_PAGE: dict[str, tuple[str, Callable[[Any, Part], str | None]]] = {
    "bundle": ("bundle", _bundle),
    "recipe": ("bundle", _recipe),
    "data": ("bundle", _data),
    "notes on the data": ("bundle", _notes),
    "files": ("files", _files),
    "base model (CRM)": ("files", _crm),
    "LLM": ("files", _llm),
    "adapters": ("adapters", _adapters),
    "catalogue": ("catalogue", _catalogue),
    "routing": ("routing", _routing),
    "quality": ("routing", _quality),
    "verification": ("verification", _checked),
    "sha256": ("bundle", lambda part, _: str(part["sha256"])),
}


def _everything(found: Part) -> Iterator[str]:
    for name, part in found.items():
        if name != "problems" and part not in (None, [], {}):
            yield from [name, *_indented(_lines(_with_units(part))), ""]


def _with_units(part: Any) -> Any:
    """Sizes in MiB and thresholds in nats, wherever they stand."""
    if isinstance(part, list):
        return [_with_units(row) for row in part]
    if not isinstance(part, dict):
        return part
    return {("size" if name == "bytes" else name): _with_unit(name, value) for name, value in part.items()}


def _with_unit(name: str, value: Any) -> Any:
    if name == "bytes" and isinstance(value, int):
        return mib(value)
    if name in ("threshold", "nats") and (value is None or (isinstance(value, (int, float)) and 0 <= value <= 1)):
        return nats(math.inf if value is None else value)
    return _with_units(value)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return ("  " + line for line in lines)


def _lines(part: Any) -> Iterator[str]:
    """Any JSON value as readable lines: records as a table, objects as name and value."""
    if isinstance(part, list) and part and all(isinstance(row, dict) for row in part):
        yield from _table(part)
    elif isinstance(part, dict):
        for name, value in part.items():
            yield from _entry(name, value)
    else:
        yield from (map(_cell, part) if isinstance(part, list) else [_cell(part)])


def _entry(name: str, value: Any) -> Iterator[str]:
    records = value if isinstance(value, list) else [value]
    if any(isinstance(record, dict) and record for record in records) or "\n" in str(value):
        yield f"{name}:"
        yield from _indented(iter(value.split("\n")) if isinstance(value, str) else _lines(value))
    else:
        yield f"{name}: {_cell(value)}"


def _table(rows: list[Part]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield from columns([names, *([_cell(row.get(name)) for name in names] for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
