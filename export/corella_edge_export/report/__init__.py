"""The training report: what a run's logs say, as one HTML page with plots."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from corella_edge_export.report.page import write_report

__all__ = ["report_if_possible", "write_report"]


def report_if_possible(folder: Path) -> None:
    """`write_report` where the plots' library is installed: a training has no need of it."""
    if find_spec("matplotlib"):
        write_report(folder)
