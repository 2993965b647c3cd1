"""`corella-edge verify` and `corella-edge inspect`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.common import Threads, trusted_key
from corella_edge.errors import BundleError

if TYPE_CHECKING:
    from corella_edge.bundle.artefact import Bundle
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.reference import Comparison, Tolerance


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--llm-threads", type=Threads(), help="Threads of the LLM. Default: all cores but one.")
@click.option("--trust", metavar="KEY", help="Public key, or file of one, that BUNDLE must be signed with.")
def verify(bundle: Path, llm_threads: int | None, trust: str | None) -> None:
    """Check every file of BUNDLE, then repeat its reference scores on this machine.

    Needs nothing of the training side. Without the extra [llm] the LLM's part is not checked, and says so; with it,
    an LLM that does not compute here is an error.
    """
    found = _check_files(bundle, trust)
    from corella_edge_runtime import reference
    from corella_edge_runtime.engine import Engine

    rows, allowed = reference.read(found), reference.tolerance(found)
    required = found.prompt() is not None and find_spec("llama_cpp") is not None
    with Engine.open(bundle, llm_threads=llm_threads, tuned=False, require_llm=required) as engine:
        result = reference.compare(engine, rows, allowed)
        for line in _findings(engine, result, allowed):
            click.echo(line)
    for problem in result.problems:
        click.echo(problem)
    if result.problems:
        raise BundleError(f"{bundle}: too different from the reference in {len(result.problems)} place(s)")
    click.echo(f"{found.label}: verified")


def _check_files(root: Path, trust: str | None) -> Bundle:
    from corella_edge_runtime.site.describe import survey

    found = survey(root, trusted_key(trust))
    for problem in found.problems:
        click.echo(problem)
    if found.bundle is None or found.problems:
        names = ", ".join(dict.fromkeys(problem.partition(":")[0] for problem in found.problems))
        raise BundleError(f"{root}: damaged, not as exported: {names}")
    files = found.bundle.manifest.files
    click.echo(f"files: {len(files)} as exported, {sum(entry.size for entry in files.values()):,} bytes")
    if trust is not None:
        click.echo("signature: of the trusted key")
    return found.bundle


def _findings(engine: Engine, result: Comparison, allowed: Tolerance) -> Iterator[str]:
    yield f"CRM: {result.rows} rows, greatest difference {result.crm:.2e} (at most {allowed.crm:g})"
    if engine.llm is None:
        yield "LLM: not checked: " + "; ".join(engine.warnings)
        return
    yield f"prompts: {result.prompts} compared by token ids"
    yield f"LLM: {result.llm_rows} rows, greatest difference {result.llm:.2e} (at most {allowed.llm:g})"
    yield f"fusion: {engine.fusion.rule}, greatest difference {result.fused:.2e}"


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE holds; of a damaged one, what is damaged and whatever can still be read."""
    from corella_edge_runtime.site.describe import describe

    description = describe(bundle)
    if as_json:
        click.echo(json.dumps(description, ensure_ascii=False, indent=1))
        return
    for name, part in description.items():
        if part not in (None, [], {}):
            click.echo("\n".join([name.upper() if name == "problems" else name, *_indented(_lines(part)), ""]))


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


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
