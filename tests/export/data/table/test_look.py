"""What one look at a file finds does not depend on the pieces that it is read in."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from unittest.mock import patch

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.table import look as module
from corella_edge_export.data.table.description import Files
from corella_edge_export.data.table.look import look, open_text

MANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
PIECES = st.lists(st.sampled_from(["a", "é", "\r", "\n", "\r\n", '"', " ", ",", "\\"]), min_size=1, max_size=20)


def naive_line_ends(text: str) -> set[str]:
    return set(re.findall(r"\r\n|\r|\n", text))


@MANY
@given(text=PIECES.map("".join), chunk=st.integers(1, 7), mark=st.booleans())
def test_in_small_pieces_as_in_one(tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int, mark: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "looked.csv"
    path.write_bytes(text.encode("utf-8-sig" if mark else "utf-8"))
    files = Files((path,), escape="\\")
    whole = look(path, files)
    with patch.object(module, "_CHUNK", chunk):
        pieces = look(path, files)
    assert pieces == whole
    assert whole.line_ends == naive_line_ends(text)
    assert whole.ended == (text[-1] in "\r\n")
    assert whole.first_line == re.split(r"[\r\n]", text)[0]
    assert whole.escaped == ("\\" in text)
    assert whole.blank_quotes == bool(re.search(r'(?:,|\r|\n|^) +"|" +(?:,|\r|\n|"|$)', text))
    with open_text(path, whole, "utf-8") as file:
        assert file.read() == text


@MANY
@given(before=PIECES.map("".join), after=PIECES.map("".join), chunk=st.integers(1, 7))
def test_the_place_of_a_byte_that_is_no_text(
    tmp_path_factory: pytest.TempPathFactory, before: str, after: str, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "bad.csv"
    path.write_bytes(before.encode() + b"\xff" + after.encode())
    lines = re.split(r"\r\n|\r|\n", before)
    with patch.object(module, "_CHUNK", chunk), pytest.raises(InputError) as refusal:
        look(path, Files((path,)))
    assert f"line {len(lines)}, letter {len(lines[-1]) + 1}: the byte 0xff is not utf-8" in str(refusal.value)


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.compress])
def test_packed_files_in_parts_are_one_and_a_cut_one_is_refused_wherever_it_is_cut(
    tmp_path: Path, packed: type[bytes]
) -> None:
    path = tmp_path / "packed"
    data = packed(b"a,b\n" * 50) + packed(b"c,d\n")
    path.write_bytes(data)
    with open_text(path, look(path, Files((path,))), "utf-8") as file:
        assert file.read() == "a,b\n" * 50 + "c,d\n"
    first = len(packed(b"a,b\n" * 50))
    for length in range(4, len(data)):
        path.write_bytes(data[:length])
        if length == first:  # a whole file
            continue
        with pytest.raises(InputError, match=r"is cut|damaged"):
            look(path, Files((path,)))
