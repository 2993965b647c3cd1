"""Energy of the CPU by its RAPL counters (Running Average Power Limit), which Linux shows in /sys/class/powercap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Counter:
    """One package's counter, in microjoules; it begins again at 0 after `span`."""

    file: Path
    span: int

    def read(self) -> int:
        """Now. Raises OSError, ValueError: it cannot be read any more."""
        return int(self.file.read_text())


@dataclass(frozen=True, slots=True)
class Rapl:
    """The counters of all packages; `why` says why there are none."""

    counters: tuple[Counter, ...]
    why: str = ""

    def read(self) -> tuple[int, ...] | None:
        """Of each counter; None without any."""
        try:
            return tuple(counter.read() for counter in self.counters) or None
        except (OSError, ValueError):
            return None

    def joules(self, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> float | None:
        """What was used between two readings, at most one turn of a counter apart: hours at full load."""
        if before is None or after is None:
            return None
        pairs = zip(self.counters, before, after, strict=True)
        return sum((late - early) % counter.span for counter, early, late in pairs) / 1e6


def find(root: Path = ROOT) -> Rapl:
    """The packages' counters, if this user may read them."""
    zones = sorted(zone for zone in root.glob("*-rapl:*") if zone.name.count(":") == 1)
    if not zones:
        return Rapl((), "this machine has no RAPL counters; virtual machines have none")
    try:
        spans = [int((zone / "max_energy_range_uj").read_text()) + 1 for zone in zones]
        found = tuple(Counter(zone / "energy_uj", span) for zone, span in zip(zones, spans, strict=True))
        for counter in found:
            counter.read()
    except (OSError, ValueError) as error:
        return Rapl((), f"the RAPL counters cannot be read: {getattr(error, 'strerror', None) or error}")
    return Rapl(found)
