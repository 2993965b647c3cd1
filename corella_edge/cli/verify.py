"""`corella-edge verify`: are a bundle's files as exported, and does this machine compute what was trained?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import ThreadCount, echo_json, json_option, mib, trusted_key
from corella_edge.errors import BundleError

if TYPE_CHECKING:
    from corella_edge.bundle.artefact import Bundle
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.site.describe import Survey


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--llm-threads", type=ThreadCount(), help="Threads of the LLM. Default: all cores but one.")
@click.option("--trust", metavar="KEY", help="Public key, or file of one, that BUNDLE must be signed with.")
@json_option
def verify(bundle: Path, llm_threads: int | None, trust: str | None, json: bool) -> None:
    """Check every file of BUNDLE, then repeat its reference scores and text vectors on this machine.

    Needs nothing of the training side. Without the extra [llm] the LLM's part is not checked, without [text] that of
    words, and says so; with [llm], an LLM that does not compute here is an error.
    """
    from corella_edge_runtime.site.describe import survey

    found = survey(bundle, trusted_key(trust))
    result = _files(found, trust is not None)
    _echo(iter(result["problems"]) if talk.quiet() else _file_lines(result), json)
    if found.bundle is not None and not found.problems:
        scores = _scores(found.bundle, llm_threads)
        _echo(iter(scores["problems"]) if talk.quiet() else _score_lines(scores), json)
        result |= scores
    result["verified"] = not result["problems"]
    if json:
        echo_json(result)
    _judge(bundle, found, result["problems"])
    _echo(iter([f"{result['bundle']}: verified"]), json)


def _echo(lines: Iterator[str], json: bool) -> None:
    for line in () if json else lines:
        click.echo(line)


def _files(found: Survey, signed: bool) -> dict[str, Any]:
    entries = found.bundle.manifest.files.values() if found.bundle else []
    return {
        "bundle": found.bundle.label if found.bundle else None, "files": len(entries),
        "bytes": sum(entry.size for entry in entries), "signed": True if signed else None, "problems": found.problems,
    }  # fmt: skip


def _file_lines(result: dict[str, Any]) -> Iterator[str]:
    yield from result["problems"]
    if not result["problems"]:
        yield f"files: {result['files']} as exported, {mib(result['bytes'])}"
        yield from ["signature: of the trusted key"] if result["signed"] else []


def _scores(bundle: Bundle, llm_threads: int | None) -> dict[str, Any]:
    """The reference rows, computed here: for each part how far it is from what was trained, and how far it may be."""
    from corella_edge.bundle.artefact import TEXT
    from corella_edge.bundle.schema_files import table_problems
    from corella_edge_runtime import reference
    from corella_edge_runtime.engine import Engine

    required = bundle.prompt() is not None and find_spec("llama_cpp") is not None
    with Engine.open(bundle.root, llm_threads=llm_threads, tuned=False, require_llm=required) as engine:
        line = talk.Progress()
        found = reference.compare(engine, lambda done, of: line.show(f"reference rows: {done} of {of}"))
        line.done()
        found.problems += table_problems(bundle.root)
        result: dict[str, Any] = {"crm": {"rows": found.rows, "difference": found.crm, "allowed": found.allowed.crm},
                  "text": None, "llm": None, "unchecked": [] if engine.llm else [engine.without_llm],
                  "problems": found.problems}  # fmt: skip
        if found.products:
            result["product"] = {"rows": found.products, "difference": found.product, "allowed": found.allowed.crm}
        if bundle.has(TEXT):
            result["text"] = {"rows": found.texts, "difference": found.text, "allowed": found.allowed.text,
                              "unchecked": None if found.texts else _why_no_text(engine)}  # fmt: skip
        if engine.llm is not None:
            result["llm"] = {"rows": found.llm_rows, "difference": found.llm, "allowed": found.allowed.llm,
                             "prompts": found.prompts}  # fmt: skip
            if found.adapters:
                usual, most = found.allowed.llm, found.allowed.adapters
                result["adapters"] = {name: {"difference": apart, "allowed": most.get(name, usual)}
                                      for name, apart in found.adapters.items()}  # fmt: skip
            result["fusion"] = {"rule": engine.fusion.rule, "difference": found.fused}
    return result


def _why_no_text(engine: Engine) -> str:
    from corella_edge.bundle.artefact import TEXT_REFERENCE

    if not engine.bundle.has(TEXT_REFERENCE):
        return f"the bundle has no {TEXT_REFERENCE}"
    return f"{TEXT_REFERENCE} holds no text" if engine.encoder.make_vectors else engine.wordless


def _score_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"base model (CRM): {_compared(result['crm'])}"
    if product := result.get("product"):
        yield f"ranking of the catalogue by one product: {_compared(product)}"
    if text := result["text"]:
        yield f"text vectors: {_compared(text) if text['rows'] else 'not checked: ' + text['unchecked']}"
    if llm := result["llm"]:
        yield f"prompts: {llm['prompts']} compared by token ids"
        yield f"LLM: {_compared(llm)}"
        for name, part in result.get("adapters", {}).items():
            yield f"LLM, adapter {name}: {_compared({**part, 'rows': llm['rows']})}"
        yield f"fusion: {result['fusion']['rule']}, greatest difference {result['fusion']['difference']:.2e}"
    else:
        yield "LLM: not checked: " + "; ".join(result["unchecked"])
    yield from result["problems"]


def _compared(part: dict[str, Any]) -> str:
    return f"{part['rows']} rows, greatest difference {part['difference']:.2e} (at most {part['allowed']:g})"


def _judge(root: Path, found: Survey, problems: list[str]) -> None:
    """Raises BundleError for what is not verified."""
    if found.bundle is None or found.problems:
        raise BundleError(f"{root}: {found.damage}")
    if problems:
        raise BundleError(f"{root}: too different from the reference in {len(problems)} place(s)")
