"""`corella-edge recipe`: the shipped recipes, and one with all its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

import click

from corella_edge.cli.base import Group
from corella_edge.cli.common import columns, recipe_argument


@click.group(cls=Group)
def recipe() -> None:
    """List the shipped recipes, or show one with all its settings.

    A recipe is a TOML file that names the models, sizes and schedules of a training run.
    """


@recipe.command("list")
def list_() -> None:
    """List the shipped recipes, with what each is for."""
    from importlib import resources

    from corella_edge_export.recipe import shipped

    folder = resources.files("corella_edge_export") / "recipes"
    texts = {name: (folder / f"{name}.toml").read_text("utf-8") for name in shipped()}
    for line in columns([[name, _purpose(text)] for name, text in texts.items()]):
        click.echo(line)


def _purpose(text: str) -> str:
    """The first sentence of the comment that a recipe begins with."""
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), text.split("\n")))
    return comment.partition(". ")[0].removesuffix(".")


@recipe.command()
@recipe_argument
def show(recipe: str) -> None:
    """Print RECIPE as TOML with every setting, those that it leaves out included.

    RECIPE is a name that `recipe list` shows, or a TOML file. The output is a recipe itself: change it and give its
    file to `train`.
    """
    from corella_edge_export.recipe import load_recipe, table_of

    click.echo("\n".join(toml(table_of(load_recipe(recipe)))))


def toml(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    """A table of texts, numbers, lists and tables as lines of TOML."""
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    for name, value in table.items():
        if name not in inner:
            yield f"{_key(name)} = {_value(value)}"
    for name, value in inner.items():
        yield from ["", f"[{'.'.join(map(_key, (*path, name)))}]"]
        yield from toml(value, (*path, name))


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # with every digit, and never like a whole number
    # A JSON text is a TOML text, but for one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
