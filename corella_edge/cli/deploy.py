"""`corella-edge deploy`: versions of a bundle side by side, and which of them serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Group
from corella_edge.cli.common import Finite, echo_json, json_option, mib, trusted_key
from corella_edge.cli.talk import Progress
from corella_edge.errors import BundleError, CorellaError

if TYPE_CHECKING:
    from corella_edge_runtime.site.deployment import Deployment

_SITE = click.argument("site", type=click.Path(path_type=Path))
_BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
_VERSION = click.argument("version")
_VERIFY = click.option("--verify/--no-verify", default=True, show_default=True,
                       help="Whether to repeat the reference rows on this machine first.")  # fmt: skip
_TRUST = click.option("--trust", metavar="KEY", help="Public key, or file of one, that BUNDLE must be signed with.")
_WAIT = click.option("--wait/--no-wait", default=True, show_default=True,
                     help="Whether to wait until a running server has taken it up.")  # fmt: skip
_TIMEOUT = click.option("--timeout", default=600.0, show_default=True, type=Finite(0.0),
                        help="Seconds to wait for the server.")  # fmt: skip


@click.group(cls=Group)
def deploy() -> None:
    """Put versions of a bundle into a site and choose which of them serve.

    A site is a folder; `corella-edge serve SITE` serves what it says and follows every change without losing a
    request. VERSION is an id that `status` shows, or the beginning of one, of its part after @, or of its hash.
    """


@deploy.command()
@_SITE
@_BUNDLE
@_VERIFY
@_TRUST
def init(site: Path, bundle: Path, verify: bool, trust: str | None) -> None:
    """Make the folder SITE with BUNDLE as its live version."""
    from corella_edge.cli.checking import reference_check
    from corella_edge_runtime.site import layout as sites

    version = sites.create(site, bundle, reference_check(verify), trusted_key(trust))
    click.echo(f"{site}: {version} is live")


@deploy.command()
@_SITE
@_BUNDLE
@_VERIFY
@_TRUST
def add(site: Path, bundle: Path, verify: bool, trust: str | None) -> None:
    """Check BUNDLE and copy it into SITE; nothing serves it yet."""
    _add(site, bundle, verify, trust)


@deploy.command()
@_SITE
@_VERSION
@_WAIT
@_TIMEOUT
def use(site: Path, version: str, wait: bool, timeout: float) -> None:
    """Make VERSION live. A version that the server cannot load is refused, and the old one serves on."""
    _use(site, version, wait, timeout)


@deploy.command()
@_SITE
@_BUNDLE
@_VERIFY
@_TRUST
@click.option("--canary", type=float, metavar="SHARE",
              help="Give it to this share of the users alone, 0 to 1: `add` and `canary` in one.")  # fmt: skip
@_WAIT
@_TIMEOUT
def push(
    site: Path, bundle: Path, verify: bool, trust: str | None, canary: float | None, wait: bool, timeout: float
) -> None:
    """Add BUNDLE to SITE and make it live: `add` and `use` in one."""
    version = _add(site, bundle, verify, trust)
    if canary is None:
        _use(site, version, wait, timeout)
    else:
        _try(site, version, canary, wait, timeout)


@deploy.command()
@_SITE
@_WAIT
@_TIMEOUT
def rollback(site: Path, wait: bool, timeout: float) -> None:
    """Make the previous version live again. A second time goes forward again."""
    from corella_edge_runtime.site.deployment import rolled_back

    _change(site, rolled_back, wait, timeout)


@deploy.command()
@_SITE
@click.argument("version", required=False)
@click.option("--share", default=0.1, show_default=True, type=float, help="Share of the users, above 0 and below 1.")
@click.option("--stop", is_flag=True, help="Give everyone the live version again.")
@_WAIT
@_TIMEOUT
def canary(site: Path, version: str | None, share: float, stop: bool, wait: bool, timeout: float) -> None:
    """Give a share of the users VERSION. Each of them always gets the same; `use VERSION` gives it to all."""
    from corella_edge_runtime.site.deployment import without_canary

    if stop == (version is not None):
        raise click.UsageError("name a VERSION or give --stop, one of the two")
    if version is None:
        _change(site, without_canary, wait, timeout)
    else:
        _try(site, version, share, wait, timeout)


@deploy.command()
@_SITE
@_VERSION
def remove(site: Path, version: str) -> None:
    """Delete VERSION from SITE.

    Never one that serves, nor one that a rollback would return to.
    """
    from corella_edge_runtime.site import layout as sites

    sites.read(site)
    chosen = sites.find(site, version)
    sites.remove(site, chosen)
    click.echo(f"{site}: {chosen} is removed")


@deploy.command(short_help="Show the versions, and what the server serves of them.")
@_SITE
@json_option
def status(site: Path, json: bool) -> None:
    """Show the versions of SITE, which of them are to serve, and what the server says of itself."""
    from corella_edge_runtime.site import layout as sites

    found = sites.status(site)
    if json:
        echo_json(found)
    else:
        click.echo("\n".join(_status_lines(found)))


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    width = max(len(row["version"]) for row in found["versions"])
    for row in found["versions"]:
        share = f" ({found['canary']['share']:g} of the users)" if "canary" in row["roles"] else ""
        size = "damaged" if row["bytes"] is None else mib(row["bytes"])
        yield f"{row['version']:<{width}}  {size:>12}  {', '.join(row['roles'])}{share}".rstrip()
    yield from _server_lines(found["server"])


def _server_lines(server: dict[str, Any] | None) -> Iterator[str]:
    if server is None:
        yield "no server runs here"
        return
    if server["live"] is None:
        yield "a server starts"
    for role in ("live", "canary"):
        if part := server[role]:
            yield f"server {server['pid']}: {role} {part['version']} since {part['since']}"
    if refused := server["refused"]:
        yield f"refused {refused['version']} at {refused['at']}: {refused['reason']}"


def _add(site: Path, bundle: Path, verify: bool, trust: str | None) -> str:
    from corella_edge.cli.checking import reference_check
    from corella_edge_runtime.site import layout as sites

    sites.read(site)
    version, new = sites.add(site, bundle, reference_check(verify), trusted_key(trust))
    click.echo(f"{site}: {version} {'is added' if new else 'was there already'}")
    for other in sites.namesakes(site, version):
        talk.warn(f"{other} has the same name and version: answers and metrics will not tell them apart; export with "
                  "another --bundle-version")  # fmt: skip
    return version


def _use(site: Path, version: str, wait: bool, timeout: float) -> None:
    from corella_edge_runtime.site import layout as sites
    from corella_edge_runtime.site.deployment import promoted

    sites.read(site)
    chosen = sites.find(site, version)
    _change(site, lambda now: promoted(now, chosen), wait, timeout)


def _try(site: Path, version: str, share: float, wait: bool, timeout: float) -> None:
    from corella_edge_runtime.site import layout as sites
    from corella_edge_runtime.site.deployment import with_canary

    chosen = sites.find(site, version)
    _change(site, lambda now: with_canary(now, chosen, share), wait, timeout)


def _change(site: Path, step: Callable[[Deployment], Deployment], wait: bool, timeout: float) -> None:
    """Take one step, and follow what the server makes of it; what it refuses is taken back."""
    from corella_edge_runtime.site import layout as sites
    from corella_edge_runtime.site.deployment import undone

    before, after = sites.change(site, step)
    if wait and sites.server_runs(site):
        try:
            _confirmed(site, after, timeout)
        except BundleError:
            if after != before:
                sites.change(site, partial(undone, mine=after, before=before))
            raise
    elif wait:
        talk.note(f"no server runs on {site}; it takes effect when one starts")
    share = f", {after.canary.version} for {after.canary.share:g} of the users" if after.canary else ""
    click.echo(f"{site}: {after.live} is live{share}")


def _confirmed(site: Path, wanted: Deployment, timeout: float) -> None:
    """Return when the server serves what is wanted.

    Raises:
        BundleError: it refuses. CorellaError: it ends, or says nothing in time.
    """
    from corella_edge_runtime.site import layout as sites

    line, started = Progress(), time.monotonic()
    try:
        while (found := sites.outcome(state := sites.read_serving(site), wanted)) == "waiting":
            seconds = time.monotonic() - started
            if not sites.server_runs(site):
                raise CorellaError(f"{site}: the server ended before it took this up; its log says why")
            if seconds > timeout:
                raise CorellaError(f"{site}: the server has not taken this up after {timeout:g} s; see `deploy status`")
            line.show(f"waiting for the server to load what it needs: {seconds:.0f} s")
            time.sleep(0.1)
    finally:
        line.done()
    if found == "refused" and state and state.refused:
        raise BundleError(f"{site}: the server refuses {state.refused.version}: {state.refused.reason}; "
                          "all is as before")  # fmt: skip
    if found == "superseded":
        talk.warn(f"somebody has deployed to {site} after this")
