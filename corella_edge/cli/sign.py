"""`corella-edge sign`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import TextFileType, need

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--key", type=click.Path(path_type=Path), help="Secret key to sign BUNDLE with.")
@click.option("--new-key", type=click.Path(path_type=Path),
              help="Make a key pair: the secret key in this file, the public one in FILE.pub.",
              metavar="FILE")  # fmt: skip
@click.option("--no-password", is_flag=True, help="Do not encrypt the new secret key.")
@click.option("--password-file", type=TextFileType(), help="Its first line is the key's password; - is stdin.")
def sign(
    bundle: Path | None, key: Path | None, new_key: Path | None, no_password: bool, password_file: TextFile | None
) -> None:
    """Sign BUNDLE, so that `verify --trust` and `serve --trust` know who made it; or make a key.

    Keys and signatures are minisign's: `minisign -Vm BUNDLE/manifest.json -p KEY.pub` checks them too.
    """
    need("sign", "sign", "minisign")
    password = None if password_file is None else password_file.read().partition("\n")[0]
    if new_key is not None and bundle is None and key is None:
        _make(new_key, "" if no_password else password)
    elif bundle is not None and key is not None and new_key is None and not no_password:
        _sign(bundle, key, password)
    else:
        raise click.UsageError("expected BUNDLE --key FILE, or --new-key FILE [--no-password]")


def _make(path: Path, password: str | None) -> None:
    from corella_edge.bundle import signature

    if password is None:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    made = signature.new_key(path, password)
    click.echo(f"{path} (secret), {path}.pub (public, id {made.id})")


def _sign(bundle: Path, key_file: Path, password: str | None) -> None:
    from corella_edge.bundle import signature

    def ask() -> str:
        return str(click.prompt("Password", hide_input=True, err=True)) if password is None else password

    id = signature.sign(bundle, key_file, ask)
    click.echo(f"{bundle}: signed with the key {id}")
