"""A file's bytes: packing, encoding, and what is refused before a line is read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose.content import find_encoding, line_ends, look
from shop_tables import put

TEXT = "user,item\n" + "".join(f"c{i % 7},Café {i}\n" for i in range(300))


@pytest.mark.parametrize(
    ("encoding", "found"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"),
     ("utf-16-be", "utf-16-be"), ("utf-32", "utf-32"), ("latin-1", "latin-1")],
)  # fmt: skip
def test_the_encoding_is_told_by_the_bytes(tmp_path: Path, encoding: str, found: str) -> None:
    content = look(put(tmp_path, "e.csv", TEXT.encode(encoding)))
    assert (content.encoding, content.text, content.whole) == (found, TEXT, True)


def test_signs_between_128_and_159_are_windows() -> None:
    name, why = find_encoding(Path("e.csv"), "a,b\nc,“naïve” – 5 €\n".encode("cp1252"))
    assert name == "cp1252"
    assert "line 2" in why


def test_text_that_was_once_read_wrongly_is_said() -> None:
    broken = "Für".encode().decode("latin-1")
    _, why = find_encoding(Path("e.csv"), f"a,Café é\nb,{broken}\n".encode("latin-1"))
    assert "1 lines hold UTF-8 that was once read as latin-1" in why


def test_a_line_that_is_not_utf_8_among_others_is_named(tmp_path: Path) -> None:
    path = put(tmp_path, "e.csv", b"a,b\n" + "Café\n".encode() * 5 + b"Caf\xe9\n")
    with pytest.raises(InputError, match=r"e\.csv line 7: is not UTF-8 and the rest of the file is"):
        look(path)


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd"), (bytes, "")])
def test_packed_files_are_told_by_their_bytes(tmp_path: Path, pack: type[bytes], name: str) -> None:
    content = look(put(tmp_path, "e.csv", pack(TEXT.encode())))
    assert (content.packing, content.text) == (name, TEXT)


def test_members_after_each_other_are_one_text(tmp_path: Path) -> None:
    for pack in (gzip.compress, zstandard.compress):
        assert look(put(tmp_path, "e.csv", pack(b"a,b\n") + pack(b"1,2\n"))).text == "a,b\n1,2\n"


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (zstandard.compress, "zstd")])
@pytest.mark.parametrize("left", [1, 9, 200])
def test_a_cut_file_is_refused(tmp_path: Path, pack: type[bytes], name: str, left: int) -> None:
    with pytest.raises(InputError, match=rf"is cut: its {name} data end too early; get it again"):
        look(put(tmp_path, "e.csv", pack(TEXT.encode())[:-left]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "is a spreadsheet .*save the sheet as CSV"),
        (b"PK\x03\x04" + bytes(26) + b"rows.csv", "is a zip archive; unpack it"),
        (b"\xd0\xcf\x11\xe0" + bytes(30), r"is an Office file \(.xls\); save the sheet as CSV"),
        (b"SQLite format 3\0", "is a SQLite database"),
        (bytes(257) + b"ustar" + bytes(20), "is a tar archive"),
        (b"\xfd7zXZ\0 ", "is compressed with xz"),
        (b"a,b\n1,\0\0\0\x01\n", "holds NUL bytes, so it is no text"),
    ],
)
def test_what_is_no_text_is_named_with_a_way_out(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        look(put(tmp_path, "e.csv", data))


def test_of_a_large_file_head_middle_and_end_are_read(tmp_path: Path) -> None:
    path = put(tmp_path, "e.csv", "".join(f"{i},{i}\n" for i in range(400_000)))
    content = look(path, cap=1000)
    assert not content.whole
    assert content.text.startswith("0,0\n")
    assert len(content.text) <= 1001
    assert len(content.further) == 2
    assert content.further[-1].endswith("399999,399999\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [("a\nb\n", "LF"), ("a\r\nb\r\n", "CR LF"), ("a\rb\r", "CR"), ("a\r\nb\n", "CR LF and LF"), ("a", "none")],
)
def test_line_ends(text: str, found: str) -> None:
    assert line_ends(text) == found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), packed=st.booleans()
)
def test_utf_8_is_always_known(tmp_path: Path, text: str, packed: bool) -> None:
    data = text.encode()
    if find_encoding(Path("x"), data)[0] != "utf-8":  # a text that begins with a byte order mark of its own
        assert text.startswith("\ufeff")
        return
    content = look(put(tmp_path, "e.csv", gzip.compress(data) if packed else b"\n" + data))
    assert content.text == (text if packed else f"\n{text}")
