"""Bundles without models, and rankers that know their version, what they were asked and when they were closed."""

from __future__ import annotations

import threading
from pathlib import Path

from corella_edge.bundle import artefact as bundle
from corella_edge.bundle import schema_files
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.schema import Field, Schema, Vocabulary

SCHEMA = Schema((Field("item_id", "categorical", "item", "id", "item_id"),), {"item_id": Vocabulary("item_id", ["a"])})


def toy_bundle(out: Path, version: str = "1", name: str = "toy", model: bytes = b"model") -> Path:
    """A sealed bundle that nothing can serve."""
    out.mkdir()
    schema_files.write_schema(out, SCHEMA, Catalog(["a"], [{}]))
    for file in ("routing.json", "verification.json"):
        (out / file).write_text("{}")
    (out / "crm.onnx").write_bytes(model)
    (out / "reference.jsonl").write_text(version)
    bundle.seal(out, name, version, {})
    return out


class Versioned:
    """A ranker that may not be asked once it is closed, nor closed twice or while it is asked."""

    def __init__(self, name: str, problems: list[str] | None = None) -> None:
        self.name, self.warnings, self.control = name, list[str](), None
        self.problems = [] if problems is None else problems
        self.running = self.asked = self.closed = self.warmed = self.measured = 0
        self.closed_in, self.cold = "", False
        self._lock = threading.Lock()

    def work(self) -> str:
        """What a request does; the name it must answer with."""
        with self._lock:
            self.running += 1
            self.asked += 1
            if self.closed:
                self.problems.append(f"{self.name}: asked when closed")
        with self._lock:
            self.running -= 1
        return self.name

    def told(self) -> list[str]:
        return ["threshold ratio:0.05"]

    def warm_up(self) -> None:
        if self.cold:
            raise BundleError("too little memory")
        self.warmed += 1

    def know_cost(self) -> None:
        assert self.warmed
        self.measured += 1

    def stats(self) -> dict[str, float]:
        return {"prompts": float(self.asked)}

    def close(self) -> None:
        with self._lock:
            self.closed += 1
            self.closed_in = threading.current_thread().name
            if self.closed > 1 or self.running:
                self.problems.append(f"{self.name}: closed {self.closed} times, {self.running} requests running")


class Shelf:
    """`load` for a site of fakes: what was loaded, what fails, and a gate that loading waits at."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.made: dict[str, list[Versioned]] = {}
        self.problems: list[str] = []
        self.broken: dict[str, BaseException] = {}
        self.cold: set[str] = set()  # versions that fail to warm up
        self.gate = threading.Event()
        self.gate.set()

    def load(self, path: Path) -> Versioned:
        self.loads.append(path.name)
        assert self.gate.wait(20)
        if path.name in self.broken:
            raise self.broken[path.name]
        made = Versioned(path.name.rpartition("+")[0] or path.name, self.problems)
        made.cold = path.name in self.cold
        self.made.setdefault(path.name, []).append(made)
        return made

    def spoil(self, version: str, reason: str) -> None:
        self.broken[version] = BundleError(reason)
