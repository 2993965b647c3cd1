"""`corella-edge recipe`: the shipped recipes, and one with all its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from corella_edge.cli.base import Group
from corella_edge.cli.common import columns, need, recipe_argument

RUN = "run.json"  # what tells a run's folder
Reasons = dict[tuple[str, ...], str]


@click.group(cls=Group)
def recipe() -> None:
    """List the shipped recipes, or show one with all its settings.

    A recipe is a TOML file that names the models, sizes and schedules of a training run.
    """


@recipe.command("list")
def list_() -> None:
    """List the shipped recipes, with what each is for."""
    from importlib import resources

    from corella_edge_export.recipe import GENERIC, shipped

    folder = resources.files("corella_edge_export") / "recipes"
    texts = {name: _purpose((folder / f"{name}.toml").read_text("utf-8")) for name in shipped()}
    texts[GENERIC] = "Any prepared data: fields, prompt and sizes are made for the data at hand"
    for line in columns(sorted([name, text] for name, text in texts.items())):
        click.echo(line)


def _purpose(text: str) -> str:
    """The first sentence of the comment that a recipe begins with."""
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), text.split("\n")))
    return comment.partition(". ")[0].removesuffix(".")


@recipe.command()
@recipe_argument
@click.option("--data", type=click.Path(path_type=Path), help="Folder written by `prepare`; `generic` is made for it.")
def show(recipe: str, data: Path | None) -> None:
    """Print RECIPE as TOML with every setting, those that it leaves out included.

    RECIPE is a name that `recipe list` shows, a TOML file, or a run's folder, whose own recipe is printed. The output
    is a recipe itself: change it and give its file to `train`. With --data, `generic` is printed as it would be for
    these data, with the reason of each value that they decide.
    """
    from corella_edge_export.recipe import load_recipe, recipe_of, table_of

    run, why = Path(recipe), Reasons()
    if (run / RUN).is_file():
        found = recipe_of(run / RUN)
    elif data is None:
        found = load_recipe(recipe)
    else:
        need("recipe show --data", "report", "polars")
        from corella_edge_export.data.prepared import PreparedData
        from corella_edge_export.generic.recipe import explained

        found, why = explained(recipe, PreparedData.open(data))
    click.echo("\n".join(toml(table_of(found), why)))


def toml(table: Mapping[str, Any], why: Reasons | None = None, path: tuple[str, ...] = ()) -> Iterator[str]:
    """A table of texts, numbers, lists and tables as lines of TOML; `why` gives the values at some places a comment."""
    inner = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    for name, value in table.items():
        if name not in inner:
            reason = (why or {}).get((*path, name))
            yield f"{_key(name)} = {_value(value)}" + (f"  # {_plain(reason)}" if reason else "")
    for name, value in inner.items():
        yield from ["", f"[{'.'.join(map(_key, (*path, name)))}]"]
        yield from toml(value, why, (*path, name))


def _plain(reason: str) -> str:
    """A comment is one line, and TOML has no control characters in it: attributes' names may hold some."""
    return "".join(c if c.isprintable() else " " for c in reason)


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
