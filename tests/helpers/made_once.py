"""Folders that several tests begin with: each is made once in a test run, whichever process asks first, then copied."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

FOLDER = "CORELLA_EDGE_TESTS_MADE"  # a variable that names the run's folder; tests/conftest.py sets it


def copy_of(name: str, out: Path, make: Callable[[Path], object]) -> Path:
    """A copy at `out` of the folder `name`, which `make` fills at the path that it is given.

    `name` must tell all that the content depends on. A copy may be changed; the kept folder, to whose path files in it
    may refer, is never handed out.
    """
    kept = Path(os.environ[FOLDER]) / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_name(f"{name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lock.seek(0, os.SEEK_END):  # nobody has written that it is whole
            shutil.rmtree(kept, ignore_errors=True)  # of a test that was stopped while it was made
            make(kept)
            lock.write("made")
    return Path(shutil.copytree(kept, out, dirs_exist_ok=True))
