"""Which versions of a site serve: live, previous, canary; and every change of that as a pure function."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from corella_edge.errors import InputError

HASH_DIGITS = 12
_PART = r"[A-Za-z0-9._+-]{1,61}"
_VERSION = re.compile(rf"(?!\.){_PART}@{_PART}\+[0-9a-f]{{{HASH_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Canary:
    """A version that a share of the users gets, 0 < share < 1."""

    version: str
    share: float


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is to serve; `serial` grows with every change."""

    live: str
    previous: str | None = None
    canary: Canary | None = None
    serial: int = 1

    def roles(self) -> dict[str, str]:
        """Role → version, of those that are filled."""
        canary = self.canary.version if self.canary else None
        named = {"live": self.live, "previous": self.previous, "canary": canary}
        return {role: version for role, version in named.items() if version is not None}


def promoted(now: Deployment, version: str) -> Deployment:
    """`version` is live, what was live is previous; as a canary it has done its work."""
    if version == now.live:
        return now
    canary = None if now.canary and now.canary.version == version else now.canary
    return Deployment(version, now.live, canary, now.serial + 1)


def rolled_back(now: Deployment) -> Deployment:
    """Live and previous change places. Raises InputError if there is no previous one."""
    if now.previous is None:
        raise InputError(f"there is nothing to roll back to: {now.live} is the only version that has been live")
    return promoted(now, now.previous)


def with_canary(now: Deployment, version: str, share: float) -> Deployment:
    """A share of the users gets `version`. Raises InputError for the live one, or a share outside 0 to 1."""
    if version == now.live:
        raise InputError(f"{version} is live already; a canary is another version")
    if not 0.0 < share < 1.0:
        raise InputError(f"--share {share:g}: between 0 and 1, for instance 0.1; for everyone there is `deploy use`")
    canary = Canary(version, share)
    return now if canary == now.canary else replace(now, canary=canary, serial=now.serial + 1)


def without_canary(now: Deployment) -> Deployment:
    """Everyone gets the live version."""
    return now if now.canary is None else replace(now, canary=None, serial=now.serial + 1)


def undone(now: Deployment, mine: Deployment, before: Deployment) -> Deployment:
    """`before` again, unless somebody has deployed after `mine`."""
    return now if now.serial != mine.serial else replace(before, serial=mine.serial + 1)


def parse(data: Any) -> Deployment:
    """From decoded JSON. Raises InputError naming the field that is missing or wrong."""
    if not isinstance(data, dict) or data.keys() != {"live", "previous", "canary", "serial"}:
        raise InputError("expected an object with the fields live, previous, canary, serial")
    if type(data["serial"]) is not int or data["serial"] < 1:
        raise InputError("serial: expected a whole number from 1")
    previous = None if data["previous"] is None else checked(data["previous"], "previous")
    canary = None if data["canary"] is None else _canary(data["canary"])
    found = Deployment(checked(data["live"], "live"), previous, canary, data["serial"])
    if found.live in (found.previous, canary and canary.version):
        raise InputError("live: is previous or canary as well")
    return found


def _canary(data: Any) -> Canary:
    if not isinstance(data, dict) or data.keys() != {"version", "share"}:
        raise InputError("canary: expected an object with the fields version, share, or null")
    share = data["share"]
    if type(share) not in (int, float) or not 0.0 < share < 1.0:
        raise InputError("canary.share: expected a number between 0 and 1")
    return Canary(checked(data["version"], "canary.version"), float(share))


def checked(version: Any, path: str) -> str:
    """A text that is the name of a folder of versions/ and nothing else."""
    if not isinstance(version, str) or not is_version(version):
        raise InputError(f"{path}: {repr(version)[:80]} is not a version, like name@1+0123456789ab")
    return version


def is_version(text: str) -> bool:
    return _VERSION.fullmatch(text) is not None
