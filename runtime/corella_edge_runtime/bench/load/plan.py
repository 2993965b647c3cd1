"""What passes between a benchmark and its load generator: a folder with what is to be sent, then with what happened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from corella_edge.errors import InputError

MOST_CONNECTIONS = 900  # select() knows 1,024 descriptors
_KEEP = ("none", "hash", "all")


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A load: which request is sent when.

    Attributes:
        moments: seconds from the beginning, ascending.
        which: for each moment the index of its request.
        connections: most at a time; what finds all of them busy waits for one, and its time counts.
        patience: seconds from sending a request until it counts as failed.
        keep: of the bodies: "none", "hash" (SHA-256) or "all".
        count: a text whose occurrences in each body are counted.
        core: what the generator is bound to; None = nothing.
        host: name or address of the server.
    """

    port: int
    moments: Sequence[float]
    which: Sequence[int]
    connections: int = 256
    patience: float = 30.0
    keep: str = "none"
    count: str = ""
    core: int | None = None
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if len(self.moments) != len(self.which):
            raise InputError(f"load: {len(self.moments)} moments, but {len(self.which)} requests for them")
        if not 1 <= self.connections <= MOST_CONNECTIONS:
            raise InputError(f"load: {self.connections} connections; 1 to {MOST_CONNECTIONS} are possible")
        if self.keep not in _KEEP:
            raise InputError(f"load: bodies can be kept as {', '.join(_KEEP)}; {self.keep!r} is none of them")


@dataclass(slots=True)
class Happened:
    """What became of each request, in the order of the moments; seconds from the beginning.

    Attributes:
        sent, first, end: when its first byte was sent, the reply's first came and its last; nan where that never was.
        status: of HTTP; 0 where there is no reply, and `error` says why.
        timing: the header `Server-Timing`, or "".
        counted: how often `LoadPlan.count` is in the body.
        body: by `LoadPlan.keep`: hexadecimal digits, or the bytes.
        cpu_seconds, wall_seconds: the generator's own, from the beginning to the last reply.
        connections: how many were opened.
    """

    sent: list[float]
    first: list[float]
    end: list[float]
    status: list[int]
    error: list[str]
    timing: list[str]
    counted: list[int]
    body: list[bytes]
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    connections: int = 0


def address_of(url: str) -> tuple[str, int]:
    """Host and port of `http://HOST:PORT`.

    Raises:
        InputError: it is something else; the generator speaks no TLS and knows no paths.
    """
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is no number, or too high
        host = port = None
    plain = parts.scheme == "http" and parts.path in ("", "/") and not (parts.query or parts.fragment)
    if not plain or host is None or port is None or parts.username is not None:
        raise InputError(f"{url[:80]}: the load generator needs an address of the form http://HOST:PORT")
    return host, port


def write_plan(folder: Path, plan: LoadPlan, requests: Sequence[bytes]) -> None:
    """Into an existing folder."""
    _write(folder, "plan", {**asdict(plan), "moments": list(plan.moments), "which": list(plan.which)}, requests)


def read_plan(folder: Path) -> tuple[LoadPlan, list[bytes]]:
    """What `write_plan` wrote."""
    about, requests = _read(folder, "plan")
    return LoadPlan(**about), requests


def write_happened(folder: Path, happened: Happened) -> None:
    """Beside the plan."""
    about = asdict(happened)
    bodies = about.pop("body")
    _write(folder, "happened", about, bodies)


def read_happened(folder: Path) -> Happened:
    """What `write_happened` wrote."""
    about, bodies = _read(folder, "happened")
    return Happened(body=bodies, **about)


def _write(folder: Path, name: str, about: dict[str, Any], parts: Sequence[bytes]) -> None:
    (folder / f"{name}.bin").write_bytes(b"".join(parts))
    (folder / f"{name}.json").write_text(json.dumps({"about": about, "sizes": list(map(len, parts))}), "utf-8")


def _read(folder: Path, name: str) -> tuple[dict[str, Any], list[bytes]]:
    found = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return found["about"], list(_cut((folder / f"{name}.bin").read_bytes(), found["sizes"]))


def _cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    for start, end in pairwise(accumulate(sizes, initial=0)):
        yield data[start:end]
