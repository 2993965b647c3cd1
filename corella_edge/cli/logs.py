"""What commands that read a log of decisions share: its rows, their labels, a policy of a file, and rows as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.common import Finite, figure
from corella_edge.errors import BundleError, InputError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from corella_edge.metrics import Interval
    from corella_edge.routing.offpolicy import Worth
    from corella_edge.routing.policy import Policy
    from corella_edge.routing.replay import LoggedRows

HOUR = 3600.0
PATH = click.Path(path_type=Path)
LABELS = click.option(
    "--labels", type=PATH, metavar="FILE",
    help="What became of the items: CSV or JSON lines of request, item, label (0 or 1); or of clicks, as for "
    "`prepare log`.",
)  # fmt: skip
WINDOW = click.option(
    "--window-hours", default=24.0, show_default=True, type=Finite(0, min_open=True),
    help="A click counts so long after its decision.",
)  # fmt: skip
CLIP = click.option(
    "--clip", default=100.0, show_default=True, type=Finite(1),
    help="Most rows that one stands for, where the LLM was asked at random.",
)  # fmt: skip


def read_rows(place: Path) -> LoggedRows:
    """A log of decisions, or a table of labelled rows (.parquet, .csv, or JSON lines with a label).

    Raises:
        InputError: names file and line.
    """
    from corella_edge.decision_log import decision_files, read_logged
    from corella_edge.routing.replay import LoggedRows

    if place.suffix not in (".parquet", ".csv") and not _is_labelled(place):
        return read_logged(decision_files(place, "LOG"), place)
    import numpy as np

    from corella_edge_runtime.calibrate.log import read

    rows = read(place)
    return LoggedRows(rows, rows.known, np.full(len(rows), "", np.object_), np.full(len(rows), np.nan))


def _is_labelled(place: Path) -> bool:
    """Whether the first line of a file of JSON lines is a labelled row."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return b'"candidates"' not in (head := file.readline()) and b'"label"' in head


def labelled_rows(logged: LoggedRows, labels: Path | None, window_hours: float) -> LoggedRows:
    """The rows whose label is known: by the file, or by themselves without one.

    Raises:
        InputError: a bad line; labels of one kind alone, of which no quality follows.
    """
    import numpy as np

    from corella_edge.decision_log import read_outcomes, with_outcomes

    if labels is not None:
        logged = with_outcomes(logged, read_outcomes(labels, window_hours * HOUR))
    known = logged.take(~np.isnan(logged.rows.label))
    positives = int(known.rows.label.sum())
    if not 0 < positives < len(known):
        what = "no row of the log has a label" if not len(known) else f"all {len(known)} labels are the same"
        raise InputError(f"{labels or '--labels'}: {what}; request ids and items have to be the log's")
    return known


def read_policy(place: Path, threshold: str | None) -> Policy:
    """Of a bundle, of its routing.json, or of a file with `measure`, `threshold` and maybe `fusion`.

    Args:
        threshold: what is written takes the place of the policy's own.

    Raises:
        InputError: names file and field.
    """
    from corella_edge.bundle.files import read_json
    from corella_edge.routing.forms import OWN, parse_threshold
    from corella_edge.routing.policy import Routing
    from corella_edge.routing.routing_file import parse_policy, parse_routing

    path = place / "routing.json" if place.is_dir() else place
    try:
        data = read_json(path)
        if "calibration" in data:
            return parse_threshold(OWN.prefix if threshold is None else threshold, parse_routing(data))
        if threshold is None:
            return parse_policy(data)
        own = parse_policy({"threshold": None, "measure": {"name": "entropy"}, **data})
        return parse_threshold(threshold, Routing(measure=own.measure, fusion=own.fusion))
    except BundleError as error:
        raise InputError(f"{path}: {_bare(str(error), path)}") from None


def _bare(said: str, path: Path) -> str:
    """Without the file's name, or that of a bundle's file, which parsers put before what they say."""
    return said.removeprefix(f"{path.name}: ").removeprefix("routing.json: ")


def write_rows(columns: Mapping[str, npt.NDArray[np.generic]], path: Path, lines: Callable[[], str]) -> None:
    """Rows as Parquet where the name ends so, else as the JSON `lines`; the file appears whole.

    Raises:
        InputError: it cannot be written. MissingExtraError: no pyarrow.
    """
    from corella_edge import atomic

    part = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".parquet":
            _parquet().write_columns(columns, part)
            atomic.publish_file(part, path)
        else:
            atomic.write_file(path, lines().encode())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def _parquet() -> Any:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("a Parquet file", "parquet")
    from corella_edge_runtime.partitions import parquet

    return parquet


def interval(found: Interval | None) -> str:
    """An estimate for people."""
    return "n/a" if found is None else f"{figure(found.value)} [{figure(found.low)}, {figure(found.high)}]"


HEAD = ("policy", "asked", "undecided", "effective rows", "AUC [95 %]", "log-loss, weighted", "log-loss, doubly robust",
        "accuracy, weighted")  # fmt: skip


def cells(name: str, worth: Worth) -> tuple[str, ...]:
    """A row of the table below `HEAD`."""
    return (name, f"{worth.share:.2%}", f"{worth.undecided:.1%}", f"{worth.effective:,.0f}", interval(worth.auc),
            interval(worth.logloss), interval(worth.logloss_robust), interval(worth.accuracy))  # fmt: skip
