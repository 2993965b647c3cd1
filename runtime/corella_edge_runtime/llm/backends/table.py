"""The backends by name. A new one is a module with `open_backend` and a row here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from corella_edge.errors import InputError
from corella_edge_runtime.llm.backends.remote.flavours import FAR_AWAY, FLAVOURS, parse_address
from corella_edge_runtime.llm.contract.backend import BackendModule, Liveness

NEAR = Liveness()


@dataclass(frozen=True, slots=True)
class Entry:
    """One backend.

    Attributes:
        module: below this folder; imported when the backend is opened, not before.
        liveness: when it is given up.
        remote: a server elsewhere computes, and its address is part of the kind: `NAME+http://HOST:PORT`.
    """

    module: str
    liveness: Liveness = NEAR
    remote: bool = False

    def load(self) -> BackendModule:
        """Raises MissingExtraError: what it needs is not installed."""
        return cast(BackendModule, importlib.import_module(f"{__package__}.{self.module}"))


TABLE: Mapping[str, Entry] = {
    "thread": Entry("thread"),
    "process": Entry("process.backend"),
    **{name: Entry("remote.client", FAR_AWAY, remote=True) for name in FLAVOURS},
}
_KNOWN = ", ".join(f"{name}+http://HOST:PORT" if entry.remote else name for name, entry in TABLE.items())


def find(kind: str, deterministic: bool = False) -> Entry:
    """The backend that a user means; nothing is loaded.

    Raises:
        InputError: there is no such backend, or its address is bad, or it cannot be deterministic.
    """
    name = parse_address(kind).flavour.name if "://" in kind else kind
    entry = TABLE.get(name)
    if entry is None or entry.remote != ("://" in kind):
        raise InputError(f"llm: {kind!r} is not a way to run the LLM; known: {_KNOWN}")
    if deterministic and entry.remote:
        raise InputError(
            f"--deterministic and --llm-backend {kind} exclude each other: scores of a server elsewhere depend on what "
            "else it computes; take --llm-backend thread or process, or leave out --deterministic"
        )
    return entry
