"""What became of every row that was read: kept, or dropped for a reason that is counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """read = kept + every reason for dropping, always.

    Attributes:
        read: rows of the events' files, headers and empty lines not counted.
        dropped: reason in words ("no user", "InvoiceNo matches ^C") → rows, in the order of the steps.
    """

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return self.read - sum(self.dropped.values())

    def drop(self, reason: str, rows: int) -> None:
        """Count rows dropped for `reason`; a reason without rows is not listed."""
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def to_json(self) -> dict[str, Any]:
        """The form in `dataset.json`."""
        return {"read": self.read, "dropped": dict(self.dropped), "kept": self.kept}
