"""What a worker of a cluster does: opens the bundle once, and scores partitions. Knows nothing of the cluster.

A worker and who asks it exchange plain data alone; an error that a person is to be told travels as its sentence.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corella_edge
from corella_edge.bundle import artefact
from corella_edge.errors import BundleError, CorellaError, InputError, as_line
from corella_edge_runtime.batch import Tally
from corella_edge_runtime.partitions import scoring
from corella_edge_runtime.partitions.layout import Partition

Json = dict[str, Any]
PATIENCE = 20.0  # seconds: a worker that was killed may hold its partition for a moment more


class EngineWorker:
    """An engine in a process of its own, with `cpus` of its machine's CPUs."""

    def __init__(self, bundle: str, manifest: str, release: str, cpus: int, options: Json) -> None:
        """`manifest`: the hash that the bundle's has to have. `options`: of `Engine.open`."""
        self._bundle, self._manifest, self._release = Path(bundle), manifest, release
        self._cpus, self._options = cpus, options
        self._tally = Tally()

    def open(self) -> Json:
        """Open the bundle; what there is to know of the worker, or {"error", "code"}."""
        return _told(self._open)

    def score(self, name: str, source: str, out: str, label: Json) -> Json:
        """Score a partition; what was done, as fields of a `Tally`, or {"error", "code"}."""
        return _told(lambda: self._score(Partition(name, Path(source), Path(out)), label))

    def done(self) -> int:
        """How many requests of the partition at work are."""
        return self._tally.kept + self._tally.requests

    def _open(self) -> Json:
        from corella_edge_runtime.engine import Engine

        _check_release(self._release)
        _check_bundle(self._bundle, self._manifest)
        self._engine = Engine.open(self._bundle, cpus=self._cpus, **self._options)
        return {
            "host": socket.gethostname(), "pid": os.getpid(), "llm": self._engine.llm is not None,
            "warnings": self._engine.warnings, "features": self._engine.user_features, "setup": str(self._engine.setup),
            "threshold": self._engine.policy.key,
        }  # fmt: skip

    def _score(self, partition: Partition, label: Json) -> Json:
        wanted = {name: value for name, value in label.items() if name != "input"}
        if partition.label(wanted) != label:
            raise InputError(f"{partition.source}: holds something else on {socket.gethostname()}; workers need one "
                             "IN, on a path that all of them reach")  # fmt: skip
        self._tally = Tally()
        scoring.score(self._engine, partition, label, self._tally, lambda tally: None, PATIENCE)
        return self._tally.to_json()


def _check_release(wanted: str) -> None:
    if corella_edge.__version__ != wanted:
        raise InputError(f"corella-edge {corella_edge.__version__} is installed on {socket.gethostname()}, and "
                         f"{wanted} here; install one release everywhere")  # fmt: skip


def _check_bundle(bundle: Path, manifest: str) -> None:
    """That it is the same as the one that was named; `Engine.open` checks that its files are those of its manifest."""
    try:
        found = artefact.sha256(bundle / artefact.MANIFEST)
    except OSError as error:
        raise InputError(f"{bundle}: cannot be read on {socket.gethostname()} ({error.strerror}); workers need the "
                         "bundle on a path that all of them reach") from None  # fmt: skip
    if found != manifest:
        raise BundleError(f"{bundle}: is another bundle on {socket.gethostname()} (its manifest differs); workers need "
                          "one bundle, on a path that all of them reach")  # fmt: skip


def _told(work: Callable[[], Json]) -> Json:
    """What `work` gives, or the sentence and the exit code of what a person is told of its error."""
    try:
        return work()
    except Exception as error:
        if (found := as_line(error)) is None:
            raise
        return {"error": found[0], "code": found[1]}


def raised(found: Json) -> Json:
    """The answer of a worker, or its error. Raises CorellaError."""
    if "error" not in found:
        return found
    error = CorellaError(found["error"])
    error.exit_code = found["code"]
    raise error
