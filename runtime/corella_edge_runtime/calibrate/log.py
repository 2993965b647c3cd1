"""A labelled log, whatever it is written as: Parquet, JSON lines or CSV, told by its first bytes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from corella_edge.errors import InputError, MissingExtraError, told
from corella_edge.formats import text_files
from corella_edge.formats.text_files import TextFile
from corella_edge.labelled_files import read_csv, read_json_lines
from corella_edge.routing.labelled import LabelledRows

MAGIC = b"PAR1"
EXTRA = "parquet"


def read(path: Path) -> LabelledRows:
    """The rows of a file.

    Raises:
        InputError: names file, row and field. MissingExtraError: Parquet without pyarrow.
    """
    file = TextFile(path)
    with text_files.told(str(file)), file.open() as opened:
        head = opened.read(len(MAGIC))
    if head == MAGIC:
        _need(path)
        from corella_edge_runtime.partitions import parquet

        return parquet.read_labelled(path)
    first = next((line for _, line in file.lines() if line.strip()), b"")
    return read_json_lines(file) if first.lstrip()[:1] in (b"{", b"[") else read_csv(file)


def write(rows: LabelledRows, path: Path) -> None:
    """As Parquet where the name ends in .parquet, else as JSON lines.

    Raises:
        InputError: it cannot be written. MissingExtraError: Parquet without pyarrow.
    """
    try:
        if path.suffix == ".parquet":
            _need(path)
            from corella_edge_runtime.partitions import parquet

            parquet.write_labelled(rows, path)
        else:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(rows.lines())
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {told(error)}") from None


def _need(path: Path) -> None:
    if find_spec("pyarrow") is None:
        raise MissingExtraError(f"{path.name}, which is Parquet,", EXTRA)
