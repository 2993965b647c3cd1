"""The server's own account of a request: the header `Server-Timing`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

OWN = ("parse", "wait", "serialise")  # hand-over is "wait"; scoring is not the server's
_METRIC = re.compile(r"\s*([A-Za-z0-9_-]+)((?:\s*;[^,]*)?)\s*")
_DURATION = re.compile(r";\s*dur=([0-9.]+)")


def spans(header: str) -> dict[str, float]:
    """Milliseconds by name; a metric without a duration is left out, one that comes twice counts twice."""
    found: dict[str, float] = {}
    for part in header.split(","):
        metric = _METRIC.fullmatch(part)
        length = _DURATION.search(metric[2]) if metric else None
        if metric and length:
            found[metric[1]] = found.get(metric[1], 0.0) + float(length[1])
    return found


def total(found: Mapping[str, float], names: Sequence[str]) -> float:
    """Milliseconds of those spans together; what is not there took no time."""
    return sum(found.get(name, 0.0) for name in names)
