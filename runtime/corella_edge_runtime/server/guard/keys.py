"""API keys: a file of hashed secrets with what each may do, and the check of the key that a client presents.

A key's text is `ce_ID_SECRET`. The secret is 256 random bits, so a plain hash of it is enough: salt and a slow
function protect passwords, which can be guessed.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge.formats.strict_json import decode

_LOG = logging.getLogger("corella_edge_runtime.server.guard.keys")

FORMAT_VERSION = 1
SCOPES = ("rank", "users", "stock", "metrics", "admin")
MAX_BYTES = 16 * 2**20
_ID, _SECRET, _SHA256 = r"[0-9a-f]{8}", r"[A-Za-z0-9_-]{43}", re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(f"ce_({_ID})_({_SECRET})")
_NOBODY = "0" * 64
_LIMITS = ("per_second", "burst", "concurrent")
_FIELDS = ("id", "name", "sha256", "scopes", "limits", "created", "expires", "revoked")


class KeyRefusedError(InputError):
    """A presented key is not known, or no longer valid."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use; None = no limit.

    Attributes:
        per_second, burst: requests a second in the long run, and how many may come at once; both or neither.
        concurrent: requests in flight.
    """

    per_second: float | None = None
    burst: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a keys file; `sha256` is of the secret's text, the moments are UTC."""

    id: str
    name: str
    sha256: str
    scopes: frozenset[str]
    limits: KeyLimits
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        limits = {name: getattr(self.limits, name) for name in _LIMITS}
        times = {name: _written(getattr(self, name)) for name in ("created", "expires", "revoked")}
        scopes = [scope for scope in SCOPES if scope in self.scopes]
        return {
            "id": self.id, "name": self.name, "sha256": self.sha256, "scopes": scopes, "limits": limits, **times
        }  # fmt: skip

    def state(self, now: datetime) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


class Keys:
    """The keys of one file."""

    def __init__(self, entries: Iterable[Key] = ()) -> None:
        self.entries = tuple(entries)
        self._by_id = {key.id: key for key in self.entries}

    def valid(self, now: datetime) -> int:
        """How many are neither expired nor revoked."""
        return sum(key.state(now) == "valid" for key in self.entries)

    def check(self, text: str, now: datetime) -> Key:
        """The key that a client presents as `text`.

        Raises:
            KeyRefusedError: it is unknown (or anything but a key), expired or revoked. The message holds no part of
                the secret.
        """
        found = _TEXT.fullmatch(text)
        id, secret = found.groups() if found else ("", "")
        key = self._by_id.get(id)
        # An unknown id is compared too: how long the refusal takes does not tell which ids there are.
        right = hmac.compare_digest(_hash(secret), _NOBODY if key is None else key.sha256)
        if key is None or not right:
            raise KeyRefusedError("the API key is not known")
        if (state := key.state(now)) != "valid":
            raise KeyRefusedError(f"the API key {key.id} is {state}")
        return key


def new_key(
    name: str, scopes: Iterable[str], limits: KeyLimits, created: datetime, expires: datetime | None = None
) -> tuple[Key, str]:
    """A key and its text, which is kept nowhere."""
    id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    entry = Key(id, name, _hash(secret), frozenset(scopes), limits, created, expires)
    # What cannot be read back is told before it is written.
    return _key(entry.to_json(), "key"), f"ce_{id}_{secret}"


def add_key(
    path: Path, name: str, scopes: Iterable[str], limits: KeyLimits, now: datetime, expires: datetime | None = None
) -> str:
    """Append a new key to the file, which is created if needed; returns the key's text."""
    with _locked(path):
        keys = read_keys(path) if path.exists() else Keys()
        taken = {key.id for key in keys.entries}
        while True:
            entry, text = new_key(name, scopes, limits, now, expires)
            if entry.id not in taken:
                break
        _write(path, (*keys.entries, entry))
    return text


def revoke_key(path: Path, id: str, now: datetime) -> Key:
    """Mark a key as revoked; its entry stays, so that `list` still tells whose it was.

    Raises:
        InputError: there is no such key, or it is revoked already.
    """
    with _locked(path):
        entries = read_keys(path).entries
        found = next((key for key in entries if key.id == id), None)
        if found is None or found.revoked is not None:
            known = ", ".join(key.id for key in entries if key.revoked is None) or "none"
            raise InputError(f"{path}: no valid key {id[:8]!r} (there are: {known})")
        revoked = replace(found, revoked=now)
        _write(path, [revoked if key is found else key for key in entries])
    return revoked


def read_keys(path: Path) -> Keys:
    """The keys of a file.

    Raises:
        InputError: it cannot be read, is damaged, or others may write it; the message says where and what.
    """
    try:
        _check_file(path.stat())
        return Keys(_entries(decode(path.read_bytes())))
    except OSError as error:
        hint = "; `corella-edge keys add` makes one" if isinstance(error, FileNotFoundError) else ""
        raise InputError(f"{path}: cannot be read ({error.strerror}){hint}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _check_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
        raise InputError(f"not a keys file (a regular file of at most {MAX_BYTES} bytes)")
    if found.st_mode & 0o022:
        raise InputError(f"others than its owner may write it (mode {found.st_mode & 0o777:o}); chmod 600 it")


def _entries(data: Any) -> list[Key]:
    if not isinstance(data, dict) or data.keys() != {"format_version", "keys"} or not isinstance(data["keys"], list):
        raise InputError("expected an object with format_version and keys, as `corella-edge keys add` writes it")
    if type(data["format_version"]) is not int or data["format_version"] != FORMAT_VERSION:
        raise InputError(f"format_version {data['format_version']!r:.40} is not known, expected {FORMAT_VERSION}")
    keys = [_key(value, f"keys[{i}]") for i, value in enumerate(data["keys"])]
    if len({key.id for key in keys}) != len(keys):
        raise InputError("an id occurs twice")
    return keys


def _key(value: Any, where: str) -> Key:
    """One entry of decoded JSON. Raises InputError with the place of what is wrong."""
    _check_object(value, _FIELDS, where)
    id, name, sha = value["id"], value["name"], value["sha256"]
    if not isinstance(id, str) or not re.fullmatch(_ID, id):
        raise InputError(f"{where}.id: expected 8 lower-case hexadecimal digits")
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= 100:
        raise InputError(f"{where}.name: expected a printable text of 1 to 100 characters")
    if not isinstance(sha, str) or not _SHA256.fullmatch(sha):
        raise InputError(f"{where}.sha256: expected 64 lower-case hexadecimal digits")
    created = _moment(value["created"], f"{where}.created")
    if created is None:
        raise InputError(f"{where}.created: expected a date and time")
    times = [_moment(value[name], f"{where}.{name}") for name in ("expires", "revoked")]
    limits = _limits(value["limits"], f"{where}.limits")
    return Key(id, name, sha, _scopes(value["scopes"], f"{where}.scopes"), limits, created, *times)


def _check_object(value: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object")
    for name in sorted(value.keys() ^ set(names)):
        raise InputError(f"{where}: {'unknown field' if name in value else 'lacks'} {name[:40]!r}")


def _scopes(value: Any, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not value or any(scope not in SCOPES for scope in value):
        raise InputError(f"{where}: expected a list of {', '.join(SCOPES)}")
    return frozenset(value)


def _limits(value: Any, where: str) -> KeyLimits:
    _check_object(value, _LIMITS, where)
    rate, burst, concurrent = (value[name] for name in _LIMITS)
    if rate is not None and not (type(rate) in (int, float) and 1e-6 <= rate <= 1e6):
        raise InputError(f"{where}.per_second: expected a number from 0.000001 to 1000000, or null")
    for name, count in (("burst", burst), ("concurrent", concurrent)):
        if count is not None and not (type(count) is int and 1 <= count <= 10**6):
            raise InputError(f"{where}.{name}: expected a whole number from 1 to 1000000, or null")
    if (rate is None) != (burst is None):
        raise InputError(f"{where}: per_second and burst belong together")
    return KeyLimits(None if rate is None else float(rate), burst, concurrent)


def default_burst(per_second: float) -> int:
    """A second's worth of requests, at least one."""
    return max(1, math.ceil(per_second))


def _moment(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: expected a date and time like 2026-01-31T00:00:00Z") from None
    if found.tzinfo is None:
        raise InputError(f"{where}: lacks its time zone (end it with Z)")
    return found


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(path: Path, entries: Iterable[Key]) -> None:
    """Write the file; who could read it before still can, be it root that changes a service's file."""
    data = {"format_version": FORMAT_VERSION, "keys": [key.to_json() for key in entries]}
    raw = (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode()
    try:
        before = path.stat() if path.exists() else None
        write_file(path, raw, mode=0o600)
        if before is not None:
            os.chown(path, before.st_uid, before.st_gid)
            path.chmod(stat.S_IMODE(before.st_mode))
    except OSError as error:
        raise InputError(f"{path}: its owner and mode cannot be kept ({error.strerror})") from None


class KeyFile:
    """A keys file in use: read again when it changes, so that a key can be revoked without a restart.

    A file that is damaged or gone changes nothing: the last good keys stay, and the log says why.
    """

    def __init__(
        self, path: Path, every: float = 1.0, clock: Callable[[], float] = time.monotonic,
        time_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        """Looks at the file at most once in `every` seconds. `time_now`: what keys expire by.

        Raises:
            InputError: it cannot be read now.
        """
        self.path, self._every, self._clock, self.now = path, every, clock, time_now
        self._seen, self._next = _fingerprint(path), clock() + every
        self._keys = read_keys(path)

    def keys(self) -> Keys:
        """The keys as of now."""
        now = self._clock()
        if now >= self._next:
            self._next = now + self._every
            self._look()
        return self._keys

    def _look(self) -> None:
        seen = _fingerprint(self.path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(self.path)
        except InputError as error:
            _LOG.error("the API keys stay as they were: %s", error)
        else:
            _LOG.warning("%s was read again; valid keys: %d", self.path, self._keys.valid(self.now()))


def _fingerprint(path: Path) -> tuple[int, ...]:
    """What differs when the file has changed; empty if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mode, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time: of two that read, change and write, neither loses the other's key."""
    try:
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
