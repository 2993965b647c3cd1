"""The training report: what a run's logs say, as one HTML page with plots."""

from corella_edge_export.report.page import write_report

__all__ = ["write_report"]
