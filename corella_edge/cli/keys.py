"""`corella-edge keys`: the API keys that `serve --keys FILE` asks for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Group
from corella_edge.cli.common import Finite
from corella_edge_runtime.server.guard.keys import SCOPES, Key, KeyLimits, add_key, default_burst, read_keys, revoke_key

_FILE = click.argument("file", type=click.Path(path_type=Path))
_MOST = 10**6


@click.group(cls=Group)
def keys() -> None:
    """Add, list and revoke API keys. A running server notices within a second."""


@keys.command()
@_FILE
@click.option("--name", required=True, help="Whose key it is, for people.")
@click.option("--scope", multiple=True, type=click.Choice(SCOPES), default=("rank",), show_default=True,
              help="What it may do; may be repeated.")  # fmt: skip
@click.option("--per-second", type=Finite(1e-6, _MOST), help="Requests a second. Default: no limit.")
@click.option("--burst", type=click.IntRange(1, _MOST), help="Requests at once within it. Default: a second's worth.")
@click.option("--concurrent", type=click.IntRange(1, _MOST), help="Requests in flight. Default: no limit.")
@click.option("--days", type=Finite(0.0, 36500.0, min_open=True), help="Days until it expires. Default: never.")
def add(
    file: Path, name: str, scope: tuple[str, ...], per_second: float | None, burst: int | None,
    concurrent: int | None, days: float | None,
) -> None:  # fmt: skip
    """Add a key to FILE, which is made if there is none. Its text goes to stdout, and is kept nowhere else."""
    if burst is not None and per_second is None:
        raise click.UsageError("--burst needs --per-second")
    if per_second is not None:
        burst = burst or default_burst(per_second)
    now = datetime.now(UTC)
    expires = None if days is None else now + timedelta(days=days)
    click.echo(add_key(file, name, scope, KeyLimits(per_second, burst, concurrent), now, expires))
    talk.note(f"the key is shown this once; {file} holds only its hash")


@keys.command("list")
@_FILE
def list_(file: Path) -> None:
    """List the keys of FILE."""
    now = datetime.now(UTC)
    for key in read_keys(file).entries:
        click.echo(_line(key, now))


@keys.command()
@_FILE
@click.argument("id")
def revoke(file: Path, id: str) -> None:
    """Make the key with this ID useless.

    The ID stands in the key's text, after `ce_`; `list` shows it, too.
    """
    key = revoke_key(file, id, datetime.now(UTC))
    click.echo(f"{key.id} ({key.name}): revoked")


def _line(key: Key, now: datetime) -> str:
    scopes = ",".join(scope for scope in SCOPES if scope in key.scopes)
    until = "" if key.expires is None else f", expires {key.expires:%Y-%m-%d %H:%M} UTC"
    return f"{key.id}  {key.state(now):<7}  {scopes}  {_limits(key.limits)}{until}  {key.name}"


def _limits(limits: KeyLimits) -> str:
    parts = []
    if limits.per_second is not None:
        parts.append(f"{limits.per_second:g}/s burst {limits.burst}")
    if limits.concurrent is not None:
        parts.append(f"{limits.concurrent} at once")
    return ", ".join(parts) or "no limits"
