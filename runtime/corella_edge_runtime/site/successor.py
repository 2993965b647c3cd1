"""A bundle made of another one: what is unchanged is hard-linked, and the manifest names the parent."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from corella_edge.atomic import link_or_copy
from corella_edge.bundle.artefact import MANIFEST, Bundle, Manifest, seal, sha256
from corella_edge.errors import BundleError

HASH_DIGITS = 8


def link_files(bundle: Bundle, folder: Path, left_out: Collection[str]) -> None:
    """Second names in `folder` for the bundle's files, but for those left out; a signature is the old manifest's."""
    for name in bundle.manifest.files.keys() - set(left_out):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(bundle.path(name), folder / name)


def parent_of(bundle: Bundle) -> dict[str, str]:
    """What the new manifest says of the old one."""
    return {"version": bundle.manifest.version, "manifest_sha256": sha256(bundle.path(MANIFEST))}


def next_version(version: str, mark: str, parent: str, source: str) -> str:
    """A version after a change: what stood before the same mark, and a hash of the parent's manifest and the source."""
    digest = hashlib.sha256(f"{parent} {source}".encode()).hexdigest()
    return f"{version.partition(mark)[0]}{mark}{digest[:HASH_DIGITS]}"


def seal_next(
    bundle: Bundle, folder: Path, version: str, about: Mapping[str, Any], rewritten: Collection[str]
) -> Manifest:
    """Manifest and seal of a filled folder; `about` is added to the old bundle's.

    Raises:
        BundleError: a file that was linked is no longer what the old manifest lists.
    """
    old = bundle.manifest
    found = seal(folder, old.name, version, {**old.about, **about})
    for name in found.files.keys() & old.files.keys() - set(rewritten):
        if found.files[name] != old.files[name]:
            raise BundleError(f"{bundle.root}: {name}: was changed meanwhile")
    return found
