"""What every command has: -v and -q, options from the environment, and a "did you mean" for a mistyped name."""

from __future__ import annotations

import logging
import os
from typing import Any

import click
from click.core import ParameterSource

from corella_edge.cli import talk
from corella_edge.errors import meant

PREFIX = "CORELLA_EDGE"


class Command(click.Command):
    """A command with -v and -q."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += _talking()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Names the environment variable that a bad value comes from, or that was to give a missing one."""
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter:
            self._warn_of_variables(ctx)
            raise
        except click.BadParameter as error:
            name = error.param.name if error.param else None
            if name and ctx.get_parameter_source(name) is ParameterSource.ENVIRONMENT:
                origin = f"from the environment variable {ctx.auto_envvar_prefix}_{name.upper()}"
                raise click.BadParameter(f"{error.message} ({origin})", ctx, error.param) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        verbose, quiet = ctx.params.pop("verbose"), ctx.params.pop("quiet")
        if verbose and quiet:
            raise click.UsageError("--verbose and --quiet exclude each other", ctx)
        level = logging.ERROR if quiet else (logging.NOTSET, logging.DEBUG, talk.ALL)[min(verbose, 2)]
        with talk.at(level):
            self._warn_of_variables(ctx)
            return super().invoke(ctx)

    def _warn_of_variables(self, ctx: click.Context) -> None:
        """Of variables that are nearly an option of this command; others may be anybody's."""
        prefix = f"{ctx.auto_envvar_prefix}_"
        options = {(param.name or "").upper() for param in self.params if isinstance(param, click.Option)}
        given = {name.removeprefix(prefix) for name in os.environ if name.startswith(prefix)}
        for name in sorted(given - options):
            if hint := meant(name, options):
                talk.warn(f"the environment variable {prefix}{name} is no option of {ctx.command_path}{hint}")


def _talking() -> list[click.Option]:
    return [
        click.Option(["-v", "--verbose"], count=True,
                     help="Also show debug messages, and the trace of an error; -vv also llama.cpp's log."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Show only errors and the result."),
    ]  # fmt: skip


class Group(click.Group):
    """Commands below one name."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"No such command {name!r}{meant(name, self.list_commands(ctx)) or '.'}")
        return super().resolve_command(ctx, args)
