"""Files as people have them: the same lines whatever the encoding, line ends and compression; else one clear error."""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile, UnreadableError, decoded
from corella_edge.json_lines import read_lines

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be")
MARKS = {"utf-16-be": b"\xfe\xff", "utf-32-be": b"\0\0\xfe\xff"}
LETTERS = st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "x", '"', "\\", "[{,}]", "é日😀"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
VALUES = st.lists(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), max_size=4)


@st.composite
def saved(draw: Any, text: str) -> bytes:
    """A text with line ends in LF as some program saves it."""
    parts = re.split("(\n)", text)
    ends = st.sampled_from(["\n", "\r\n", "\r"])
    one = draw(ends)
    mixed = draw(st.booleans())
    parts = [(draw(ends) if mixed else one) if part == "\n" else part for part in parts]
    encoding = draw(st.sampled_from(ENCODINGS))
    raw = MARKS.get(encoding, b"") + "".join(parts).encode(encoding)
    return gzip.compress(raw, mtime=0) if draw(st.booleans()) else raw


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "file"


def identity(value: Any) -> Any:
    return value


@given(st.data(), st.lists(st.text(LETTERS, max_size=12).map("l".__add__), max_size=6))
def test_any_mixture_of_marks_line_ends_and_compression_gives_the_same_lines(
    path: Path, data: st.DataObject, lines: list[str]
) -> None:
    raw = data.draw(saved("".join(line + "\n" for line in lines)))
    path.write_bytes(raw)
    assert [(number, line.decode()) for number, line in TextFile(path).lines()] == [
        (number, line + "\n") for number, line in enumerate(lines, 1)
    ]
    assert decoded(raw, "x") == TextFile(path).read() == "".join(line + "\n" for line in lines)


@given(st.data(), VALUES, st.sampled_from(["lines", "array", "pretty array", "pretty objects"]))
def test_lines_arrays_and_spread_objects_are_the_same_values(
    path: Path, data: st.DataObject, values: list[dict[str, Any]], form: str
) -> None:
    ascii_only = data.draw(st.booleans())
    if form == "lines":
        text = "".join(json.dumps(value, ensure_ascii=ascii_only) + "\n" for value in values)
    elif form == "pretty objects":
        values = [value for value in values if value]  # an empty one is not spread
        text = "\n".join(json.dumps(value, ensure_ascii=ascii_only, indent=2) for value in values)
    else:
        text = json.dumps(values, ensure_ascii=ascii_only, indent=1 if form == "pretty array" else None)
    path.write_bytes(data.draw(saved(text)))
    assert list(read_lines(path, identity)) == values


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xfe", b"\x1f\x8b\x08", b"[", b"{\n", b"\xef\xbb\xbf"]))
def test_any_bytes_are_read_or_one_error_that_names_the_file(path: Path, raw: bytes, begin: bytes) -> None:
    path.write_bytes(begin + raw)
    message = _refusal(path)
    assert not message or message.startswith(str(path))
    assert "\n" not in message


def _refusal(path: Path) -> str:
    try:
        list(read_lines(path, identity))
    except InputError as error:
        return str(error)
    return ""


@given(st.binary(max_size=40))
@settings(max_examples=10)
def test_cut_gzip_is_told(path: Path, raw: bytes) -> None:
    whole = gzip.compress(raw + b"\n", mtime=0)
    for size in range(2, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(UnreadableError, match="is cut: its gzip data end too early"):
            TextFile(path).read()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\x28\xb5\x2f\xfd\0", "is compressed with zstd; unpack it first (zstd -d)"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh91AY&SY", "compressed with bzip2"),
        (b"PK\x03\x04", "is a zip archive or an Office file"),
        (gzip.compress(b"x" * 257 + b"ustar", mtime=0), "is a tar archive"),
        (b"PAR1", "is a Parquet file"),
        ('{"a": 1}'.encode("utf-16-le"), "is UTF-16 without a mark; save it as UTF-8 (iconv -f UTF-16LE -t UTF-8)"),
        (b"x\ny\0z", "line 2: holds a NUL byte"),
        (b"\xff\xfea", "cut or damaged UTF-16-LE text"),
        (gzip.compress(b"x", mtime=0)[:-4] + b"abcd", "its gzip data are damaged"),
        (b"a\nb\xe9\n", "line 2: not UTF-8 text; save it as UTF-8"),
    ],
)
def test_what_can_not_be_read_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(raw)
    with pytest.raises(UnreadableError, match=re.escape(message)) as told:
        TextFile(path).read()
    assert str(told.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},]', "line 1 (value 2): not JSON"),
        ('[{"a": 1}', "the array that it begins with has no end; the file is cut"),
        ('[{"a": 1}] x', "line 1 (value 2): stands after the end of the array"),
        ('[{"a": 1}}]', "a '}' that nothing opened"),
        ('[\n {"a": 1}\n {"b": 2}\n]', "line 2 (value 1): not JSON: Extra data (line 3, column 2)"),
        ('[\n {\n  "a": 1\n  "b": 2\n }\n]', "line 2 (value 1): not JSON: Expecting ',' delimiter (line 4, column 3)"),
        ('{\n"a": 1\n}\n{\n"b":\n', "line 4 (value 2): not JSON"),
        ('{\n"a": 1\n},\n{\n"b": 2}', "line 3 (value 2): not JSON"),
        ('{"a": 1}\n[2]\n{', "line 3: not JSON"),
    ],
)
def test_a_bad_value_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}.*{re.escape(message)}"):
        list(read_lines(path, identity))


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"[]", b"[\n]\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_nothing_is_no_values(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "file").write_bytes(raw)
    assert list(read_lines(tmp_path / "file", identity)) == []


def test_files_with_marks_put_together_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\xef\xbb\xbf{"a": 2}\r\n')
    assert [value["a"] for value in read_lines(tmp_path / "file", identity)] == [1, 2]


def test_a_pipe_is_read_as_often_as_wanted(tmp_path: Path) -> None:
    pipe, raw = tmp_path / "pipe", gzip.compress(b'{"a": 1}\n' * 5_000, mtime=0)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(raw,))
    writer.start()
    file = TextFile(pipe)
    hashed = file.sha256()
    writer.join()
    plain = tmp_path / "plain"
    plain.write_bytes(raw)
    assert hashed == TextFile(plain).sha256()
    for _ in range(2):
        assert sum(value["a"] for value in read_lines(file, identity)) == 5_000
    assert sorted(tmp_path.iterdir()) == [pipe, plain]


def test_a_device_without_an_end_is_refused() -> None:
    with pytest.raises(UnreadableError, match="/dev/zero: is a device"):
        TextFile(Path("/dev/zero")).read()
    assert TextFile(Path("/dev/null")).read() == ""


@pytest.mark.parametrize(("place", "message"), [("none", "no such file"), (".", "cannot be read: Is a directory")])
def test_what_is_no_file_is_told(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        list(TextFile(tmp_path / place).lines())


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_large_file_is_streamed(tmp_path: Path, form: str) -> None:
    path, one = tmp_path / "file", json.dumps({"text": "x" * 1000})
    text = (one + "\n") * 2_000 if form == "lines" else "[\n" + ",\n".join([one] * 2_000) + "\n]\n"
    path.write_bytes(gzip.compress(text.encode(), 1, mtime=0))
    tracemalloc.start()
    assert sum(1 for _ in read_lines(path, identity)) == 2_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 500_000  # of 2 MB


def test_latin_1_and_utf_8_tell_themselves_apart() -> None:
    text = "Café\nSeñor\nÅngström\n"
    for encoding in ("latin-1", "utf-8", "utf-8-sig", "utf-16"):
        assert decoded(text.encode(encoding), "x", legacy="latin-1") == text
    mixed = "a\nCafé\n".encode("latin-1") + "Señor\n".encode()
    with pytest.raises(UnreadableError, match="x line 3: is UTF-8 and line 2 is not; save the file in one encoding"):
        decoded(mixed, "x", legacy="latin-1")
