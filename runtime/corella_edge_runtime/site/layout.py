"""A site: versions of a bundle side by side, and a file that says which of them serve.

    deployment.json   what is to serve: {"live", "previous", "canary": {"version", "share"} | null, "serial"}
    serving.json      what a server does serve, and what it refused last; the server writes it
    versions/ID/      whole bundles; ID is NAME@VERSION and the first 12 digits of the manifest's hash

A process that changes deployment.json locks the folder; a running server locks versions/.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corella_edge.atomic import check_free, link_or_copy, new_folder, write_file
from corella_edge.bundle.artefact import MANIFEST, SIGNATURE, Bundle, FileEntry, read_manifest, sha256, walk
from corella_edge.bundle.files import read_bytes
from corella_edge.bundle.signature import TrustedKey, lay_beside
from corella_edge.errors import BundleError, InputError
from corella_edge.formats.strict_json import decode
from corella_edge_runtime.site.deployment import HASH_DIGITS, Deployment, checked, is_version, parse

DEPLOYMENT, SERVING, VERSIONS = "deployment.json", "serving.json", "versions"
LOCK_SECONDS = 10.0  # a change of deployment.json takes milliseconds
MAX_BYTES = 2**20
_ODD = re.compile(r"[^A-Za-z0-9._+-]")

Check = Callable[[Path], None]


def read(site: Path) -> Deployment:
    """The deployment of a site.

    Raises:
        InputError: not a site, or its deployment.json is damaged.
    """
    path = site / DEPLOYMENT
    if not is_site(site):
        raise InputError(f"{site}: not a site ({DEPLOYMENT} is missing); `corella-edge deploy init` makes one")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES} bytes")
        return parse(decode(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError as error:
        raise InputError(f"{path}: {error}; `corella-edge deploy` writes it, nobody else") from None


def is_site(path: Path) -> bool:
    return (path / DEPLOYMENT).is_file()


def write(site: Path, deployment: Deployment) -> None:
    """Replace deployment.json; a reader sees the old one or the new. Raises InputError."""
    write_file(site / DEPLOYMENT, (json.dumps(asdict(deployment), indent=1) + "\n").encode())


def change(site: Path, step: Callable[[Deployment], Deployment]) -> tuple[Deployment, Deployment]:
    """The deployment before and after `step`; written if it differs. Nobody else can change it meanwhile.

    Raises:
        InputError: from `step`, or a version that it wants is not there, or the lock is not free in time.
    """
    read(site)  # there may be none to lock
    with locked(site):
        before = read(site)
        after = step(before)
        for version in (after.live, *([after.canary.version] if after.canary else [])):
            folder(site, version)
        if after != before:
            write(site, after)
    return before, after


@contextmanager
def locked(site: Path) -> Iterator[None]:
    """Hold the site against other changes. Raises InputError if it is not free within `LOCK_SECONDS`."""
    lock = _lock(site, LOCK_SECONDS)
    if lock is None:
        raise InputError(f"{site}: another `corella-edge deploy` is at work; wait for it")
    try:
        yield
    finally:
        os.close(lock)


def server_lock(site: Path) -> int:
    """A file descriptor that marks this process as the site's server, until it is closed or the process ends.

    Raises:
        InputError: there is one.
    """
    # For a moment `server_runs` may hold it, too.
    lock = _lock(site / VERSIONS, 1.0)
    if lock is None:
        raise InputError(f"{site}: another server serves it; stop that one, or give this one a site of its own")
    return lock


def server_runs(site: Path) -> bool:
    """Whether a process holds `server_lock`."""
    # Shared: two who look at once must not take each other for a server.
    lock = _lock(site / VERSIONS, 0.0, fcntl.LOCK_SH)
    if lock is not None:
        os.close(lock)
    return lock is None


def _lock(path: Path, seconds: float, kind: int = fcntl.LOCK_EX) -> int | None:
    """A descriptor that holds the folder's lock, or None if it is not free in time."""
    end = time.monotonic() + seconds
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from None
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(lock)
                return None
            time.sleep(0.02)


def version_id(bundle: Path) -> str:
    """The name of a bundle's folder in a site. Raises BundleError if there is no manifest, or a damaged one."""
    manifest = read_manifest(bundle)
    # Names and versions are free texts: what no folder should be called becomes "_"; the hash tells them apart.
    name, version = (_ODD.sub("_", text)[:60] or "_" for text in (manifest.name, manifest.version))
    return f"{'_' if name.startswith('.') else ''}{name}@{version}+{sha256(bundle / MANIFEST)[:HASH_DIGITS]}"


def versions(site: Path) -> list[str]:
    """Those that are there, sorted."""
    return sorted(path.name for path in (site / VERSIONS).iterdir() if is_version(path.name) and path.is_dir())


def folder(site: Path, version: str) -> Path:
    """The bundle of a version. Raises InputError if it is not there."""
    path = site / VERSIONS / checked(version, "version")
    if not (path / MANIFEST).is_file():
        raise InputError(f"{site}: the version {version} is not there; `corella-edge deploy add` puts one in")
    return path


def find(site: Path, text: str) -> str:
    """The one version that `text` stands for: an id, or the beginning of an id, of what follows @, or of the hash.

    Raises:
        InputError: none, or several.
    """
    known = versions(site)
    found = [v for v in known if v == text] or [v for v in known if any(p.startswith(text) for p in _beginnings(v))]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(found or known) or "none"
    raise InputError(f"{site}: {text!r} is {'several versions' if found else 'no version here'}; there are: {listed}")


def _beginnings(version: str) -> tuple[str, str, str]:
    return version, version.partition("@")[2], version[-HASH_DIGITS:]


def create(site: Path, bundle: Path, check: Check = lambda copy: None, trust: TrustedKey | None = None) -> str:
    """Make a site whose live version is `bundle`; its id. Raises as `add`, and InputError if `site` is taken."""
    if is_site(site):
        raise InputError(f"{site}: is a site already; `deploy push` adds to it")
    check_free(site, option="")
    with new_folder(site, option="") as partial:
        (partial / VERSIONS).mkdir()
        version, _ = add(partial, bundle, check, trust)
        write(partial, Deployment(version))
    return version


def add(
    site: Path, bundle: Path, check: Check = lambda copy: None, trust: TrustedKey | None = None
) -> tuple[str, bool]:
    """Copy a bundle in; its id, and whether it is new here. Nothing serves it yet.

    Args:
        check: called with the finished copy before it appears; what it raises is raised, and nothing is added.
        trust: the key that the bundle must be signed with.

    Raises:
        BundleError: the bundle is damaged or not signed. InputError: the disk refuses, or it is being added already.
    """
    Bundle.open(bundle, trust)
    version = version_id(bundle)
    target = site / VERSIONS / version
    if target.is_dir():
        Bundle.open(target)
        check(target)
        if (bundle / SIGNATURE).is_file():
            lay_beside(target, read_bytes(bundle / SIGNATURE))
        return version, False
    stored = _stored(site)
    with new_folder(target) as copy:
        _copy(bundle, copy, stored)
        for problem in Bundle(copy, read_manifest(copy, trust)).problems():
            raise BundleError(f"{bundle}: its copy is not as exported: {problem}")
        if version_id(copy) != version:
            raise BundleError(f"{bundle}: was changed while it was copied")
        check(copy)
    return version, True


def _stored(site: Path) -> dict[FileEntry, Path]:
    """Files of the site's versions by what they hold, so that no model is kept twice."""
    found: dict[FileEntry, Path] = {}
    for version in versions(site):
        root = site / VERSIONS / version
        with suppress(BundleError):  # a damaged one lends nothing
            found |= {entry: root / name for name, entry in read_manifest(root).files.items()}
    return found


def _copy(bundle: Path, target: Path, stored: dict[FileEntry, Path]) -> None:
    """Every file of the bundle: linked from another version of the site if one holds the same, else copied.

    Never linked from outside: somebody may change a file there, and a server has mapped this one.
    """
    listed = read_manifest(bundle).files
    for name, source in walk(bundle):
        if source.is_symlink() or not source.is_file():
            raise BundleError(f"{bundle}: {name}: not a regular file")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        same = stored.get(listed[name]) if name in listed else None
        if same is not None:
            link_or_copy(same, target / name)
        else:
            shutil.copyfile(source, target / name)


def remove(site: Path, version: str) -> None:
    """Delete a version, be it damaged. Raises InputError if it serves, or is what a rollback would return to."""
    path = site / VERSIONS / checked(version, "version")
    with locked(site):
        for role, used in read(site).roles().items():
            if used == version:
                raise InputError(f"{site}: {version} is the {role} version; use another one first")
        state = read_serving(site)
        if state and server_runs(site) and version in state.loaded():
            raise InputError(f"{site}: a server still serves {version}; `corella-edge deploy status` says why")
        gone = path.with_name(f".{version}.removed")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            path.rename(gone)
        except OSError as error:
            raise InputError(f"{path}: cannot be removed ({error.strerror})") from None
    shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RunningVersion:
    """A version that a server has loaded; `since` is ISO 8601, `share` that of the users who get it."""

    version: str
    label: str
    since: str
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class VersionRefusal:
    """A version that a server could not load, by which deployment it should, when and why."""

    version: str
    serial: int
    at: str
    reason: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server says of itself; `serial` is the deployment it has dealt with last, 0 before the first."""

    pid: int
    serial: int = 0
    live: RunningVersion | None = None
    canary: RunningVersion | None = None
    refused: VersionRefusal | None = None

    def loaded(self) -> set[str]:
        """The versions that answer."""
        return {part.version for part in (self.live, self.canary) if part}


def write_serving(site: Path, state: Serving) -> None:
    """Replace serving.json. Raises InputError."""
    write_file(site / SERVING, (json.dumps(asdict(state), indent=1) + "\n").encode())


def read_serving(site: Path) -> Serving | None:
    """What the server wrote last, be it running or not; None where none did, or another release of it."""
    try:
        data = json.loads((site / SERVING).read_bytes())
        live, canary, refused = data.pop("live"), data.pop("canary"), data.pop("refused")
        return Serving(
            live=RunningVersion(**live) if live else None,
            canary=RunningVersion(**canary) if canary else None,
            refused=VersionRefusal(**refused) if refused else None,
            **data,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def outcome(state: Serving | None, wanted: Deployment) -> str:
    """What became of a deployment: "waiting", "serving", "superseded" by a later one, or "refused"."""
    if state is None or state.serial < wanted.serial:
        return "waiting"
    if state.refused and state.refused.serial == wanted.serial:
        return "refused"
    return "serving" if state.serial == wanted.serial else "superseded"


def namesakes(site: Path, version: str) -> list[str]:
    """Other versions that are shown by the same `name@version`."""
    label = version.rpartition("+")[0]
    return [other for other in versions(site) if other != version and other.rpartition("+")[0] == label]


def status(site: Path) -> dict[str, Any]:
    """Everything known of a site, as JSON-ready values; "server" is null where none runs."""
    deployment = read(site)
    roles = deployment.roles()
    listed = sorted({*versions(site), *roles.values()})
    rows = [
        {"version": v, "roles": [r for r, used in roles.items() if used == v], "bytes": _size(site / VERSIONS / v)}
        for v in listed
    ]
    state = (read_serving(site) or Serving(0)) if server_runs(site) else None
    return {**asdict(deployment), "versions": rows, "server": asdict(state) if state else None}


def _size(root: Path) -> int | None:
    """Bytes that a version's manifest lists; None where it cannot be read."""
    try:
        return sum(entry.size for entry in read_manifest(root).files.values())
    except BundleError:
        return None
