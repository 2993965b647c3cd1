"""A folder or file that appears complete or not at all: written beside its place, synced, then renamed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from corella_edge.errors import FULL, InputError, told

# A label without what may differ.
Settled = Callable[[dict[str, Any]], dict[str, Any]]


def check_free(out: Path, option: str = "--out ") -> None:
    """Refuse an `out`, given by `option`, that would have to be overwritten. Raises InputError."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise InputError(f"{option}{out}: exists and is not a folder; name another one")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{option}{out}: exists and is not empty; remove it or name another one")


@contextmanager
def new_folder(out: Path, option: str = "--out ") -> Iterator[Path]:
    """Yield an empty folder beside `out`, given by `option`: synced and renamed to `out` at the end, deleted on any
    error.

    What a killed run left there is removed first; a run that still works there is an error.

    Raises:
        InputError: `out` is taken, another run is writing it, or the disk refuses.
    """
    check_free(out, option)
    partial = out.parent / f".{out.name}.partial"
    with _claimed(partial, out, option):
        try:
            yield partial
            _publish(partial, out, option)
        except OSError as error:
            raise InputError(f"{option}{out}: writing failed: {told(error)}") from error


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` for what is needed while `out` is made; deleted at the end.

    What a killed run left there is removed first. Raises InputError as `new_folder`.
    """
    folder = out.parent / f".{out.name}.work"
    with _claimed(folder, out, "--out "):
        yield folder


@contextmanager
def _claimed(folder: Path, out: Path, option: str) -> Iterator[None]:
    """Hold the empty `folder`, locked against a second run; whatever is still there at the end is deleted."""
    try:
        lock = _claim(folder, out, option)
    except OSError as error:
        raise InputError(f"{option}{out}: cannot be written: {told(error)}") from None
    try:
        yield
    finally:
        # After it got its name, another run may already work at the old one.
        with suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == folder.stat().st_ino:
                shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def resumable_folder(
    out: Path, label: str, same: dict[str, Any], notes: dict[str, Any] | None = None, settled: Settled = lambda was: was
) -> Iterator[None]:
    """Hold a folder that is filled in several runs, locked against a second one.

    Its file `label` records the settings it was started with. A later run must have an equal `settled(same)`; the rest
    of `same`, and `notes`, may differ, and the later run's are then kept.

    Raises:
        InputError: the folder holds something else, was begun with other settings, another run is writing it, or
            the disk is full.
    """
    with locked_folder(out):
        try:
            _check_label(out, label, same, notes or {}, settled)
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise InputError(f"--out {out}: writing failed: {told(error)}") from error


@contextmanager
def locked_folder(out: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, made if it is not there, against a second run.

    Args:
        patience: seconds to wait for one that may be just ending.

    Raises:
        InputError: another run holds it, or it cannot be written.
    """
    lock = _lock_folder(out, time.monotonic() + patience)
    try:
        yield
    finally:
        os.close(lock)


def _lock_folder(out: Path, until: float) -> int:
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written: {told(error)}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it at the end.
            if os.fstat(lock).st_ino == out.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(lock)
                raise InputError(f"--out {out}: another run is writing it; wait for it or name another one") from None
            time.sleep(0.05)
        os.close(lock)


def _check_label(out: Path, label: str, same: dict[str, Any], notes: dict[str, Any], settled: Settled) -> None:
    path = out / label
    if not path.exists():
        if any(not left.name.endswith(".partial") for left in out.iterdir()):
            raise InputError(f"--out {out}: exists and has no {label}; remove it or name another one")
        write_file(path, json.dumps({**same, **notes}, indent=1).encode())
        return
    try:
        before = json.loads(path.read_text("utf-8"))
        was, now = settled(before), {**before, **same, **notes}
        different = [key for key, value in settled(same).items() if was.get(key) != value]
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if different:
        raise InputError(f"--out {out}: was begun with another {different[0]}; remove it or name another one")
    if now != before:
        write_file(path, json.dumps(now, indent=1).encode())


def write_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write or replace one file; a reader sees the old contents or the new. `mode` is less what the umask takes."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        _write_new(partial, data, mode)
        publish_file(partial, path)
    except OSError as error:
        discard(partial)
        raise InputError(f"{path}: writing failed: {told(error)}") from error


def discard(partial: Path) -> None:
    """Remove an unfinished file, if it exists. A failure here is ignored: the error before it is reported."""
    with suppress(OSError):  # a read-only file system refuses it even where there is nothing
        partial.unlink(missing_ok=True)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)  # one that a killed run left has a mode of its own
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def publish_file(partial: Path, path: Path) -> None:
    """Sync a finished file and give it its name."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that nobody changes; a copy where the file system has none."""
    try:
        target.hardlink_to(source)
    except OSError:  # another device, too many links, or none at all
        shutil.copyfile(source, target)


def _claim(partial: Path, out: Path, option: str) -> int:
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The folder locked must still be the one at that name: its writer may just have renamed it.
        if os.fstat(lock).st_ino != partial.stat().st_ino:
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise InputError(f"{option}{out}: another run is writing it; wait for it or name another one") from None
    for left in partial.iterdir():
        shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return lock


def _publish(partial: Path, out: Path, option: str) -> None:
    for path in sorted(partial.rglob("*")):
        _sync(path)
    _sync(partial)
    try:
        partial.rename(out)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise InputError(f"{option}{out}: was filled by something else meanwhile; name another one") from None
        raise
    _sync(out.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
