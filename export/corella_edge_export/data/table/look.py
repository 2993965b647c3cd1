"""One pass over a file before it is read: that it is whole and is text, and how its text is written."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import zstandard

from corella_edge.errors import InputError
from corella_edge.formats.text_files import UnreadableError, told
from corella_edge_export.data.table.description import Files

Packing = Literal["none", "gzip", "zstd"]
_MAGIC: dict[bytes, Packing] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PARQUET = b"PAR1"
_REFUSED = {
    b"PK\x03\x04": "is a zip archive or an Office file; unpack it, or save it as CSV",
    b"\xfd7zXZ\0": "is compressed with xz; unpack it first (xz -d)",
    b"BZh": "is compressed with bzip2; unpack it first (bzip2 -d)",
    b"\x04\x22\x4d\x18": "is compressed with lz4; unpack it first (lz4 -d)",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it first",
    b"\xd0\xcf\x11\xe0": "is an old Office file; save it as CSV",
    b"SQLite format 3\0": "is an SQLite database; write the table as CSV",
    _PARQUET: 'is a Parquet file; write format = "parquet"',
}
_OTHER_ENCODING = "write the encoding that it is in"
_CHUNK = 1 << 20
_LINE = 1 << 20  # letters of a line that are kept, to count those before a bad one


@dataclass(frozen=True)
class Look:
    """What a file is.

    Attributes:
        source: its hash and size, as `dataset.json` keeps them.
        utf8: whether the text is UTF-8, whatever encoding was said, as ASCII is.
        line_ends: of "\\n", "\\r\\n" and "\\r", those that occur. ended: whether the last line has an end.
        first_line: without its end; empty at the beginning of a file that begins with an empty line.
        escaped: whether the escape occurs. blank_quotes: whether a blank stands beside a quotation mark where a value
            begins or ends, or between two such marks.
    """

    source: dict[str, object]
    packing: Packing = "none"
    utf8: bool = True
    line_ends: frozenset[str] = frozenset()
    ended: bool = True
    first_line: str = ""
    escaped: bool = False
    blank_quotes: bool = False


def look(path: Path, files: Files) -> Look:
    """Read a file once from its beginning to its end.

    Raises:
        InputError: it is empty, cut, of another kind than `files` says, or not in its encoding; names the line.
    """
    refuse_special(path)
    with told(str(path)), path.open("rb") as file:
        head = file.read(16)
        if not head:
            raise InputError(f"{path}: is empty; get it again, or leave it out")
        source = {"sha256": _digest(file), "bytes": file.tell()}
        if files.format == "parquet":
            _check_parquet(path, file, head)
            return Look(source)
        packing: Packing = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")
        file.seek(0)
        return _Reader(path, files, packing).over(_unpacked(path, file, packing), source)


def refuse_special(path: Path) -> None:
    """Raise InputError for a pipe or a device, before opening it waits for a writer: a file is read more than once."""
    with told(str(path)):
        kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise InputError(f"{path}: is not a regular file; copy it to one")


@contextmanager
def open_text(path: Path, look: Look, encoding: str) -> Iterator[io.TextIOWrapper]:
    """The text of a file that `look` found whole, from behind its mark; lines keep their ends."""
    with path.open("rb") as file:
        plain: Any = file
        if look.packing == "gzip":
            plain = gzip.GzipFile(fileobj=file)
        elif look.packing == "zstd":
            plain = io.BufferedReader(
                cast(io.RawIOBase, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)), _CHUNK
            )
        with io.TextIOWrapper(plain, _marked(encoding), newline="") as text:
            yield text


def _marked(encoding: str) -> str:
    """The codec that leaves out a mark (BOM) at the beginning."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _digest(file: io.BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _check_parquet(path: Path, file: BinaryIO, head: bytes) -> None:
    if not head.startswith(_PARQUET):
        raise InputError(f'{path}: is no Parquet file; write the format that it is (format = "csv" or "jsonl")')
    file.seek(-4, io.SEEK_END)
    if file.read() != _PARQUET:
        raise InputError(f"{path}: is cut: a Parquet file ends with PAR1; get it again")


def _unpacked(path: Path, file: BinaryIO, packing: Packing) -> Iterator[bytes]:
    if packing == "zstd":
        yield from _unpacked_zstd(path, file)
        return
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packing == "gzip" else file
    while chunk := plain.read(_CHUNK):
        yield chunk


def _unpacked_zstd(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Frame by frame: the library itself takes a cut frame for the end of the file."""
    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while chunk := file.read(_CHUNK):
            while chunk:
                begun = True
                yield frame.decompress(chunk)
                chunk = b""
                if frame.eof:
                    chunk, begun = frame.unused_data, False
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise UnreadableError(f"{path}: its zstd data are damaged ({error}); get it again") from None
    if begun:
        raise UnreadableError(f"{path}: is cut: its zstd data end too early; get it again")


class _Reader:
    """Gathers what `Look` says, chunk by chunk."""

    def __init__(self, path: Path, files: Files, packing: Packing) -> None:
        self._path, self._files, self._packing = path, files, packing
        self._utf8 = codecs.lookup(files.encoding).name in ("utf-8", "ascii")
        self._decoder = codecs.getincrementaldecoder(_marked(files.encoding))("strict")
        self._counts = {"\n": 0, "\r\n": 0, "\r": 0}
        self._first: str | None = None
        self._begun = self._last = ""
        self._escaped = self._blank_quotes = False
        self._beside = _beside(files)

    def over(self, chunks: Iterator[bytes], source: dict[str, object]) -> Look:
        """Everything, to the end."""
        ascii_only, first = True, True
        for chunk in chunks:
            if first and chunk:
                self._check_kind(chunk)
                first = False
            ascii_only &= chunk.isascii()
            self._add(self._decoded(chunk, final=False))
        self._add(self._decoded(b"", final=True))
        quote = self._files.quote
        ends = self._begun.rstrip(" ") if self._begun.endswith(" ") else ""
        self._blank_quotes |= bool(quote) and ends.endswith(quote)  # where the file ends, a value does
        if not self._last:
            raise InputError(f"{self._path}: is empty once unpacked; get it again, or leave it out")
        return Look(
            source=source,
            packing=self._packing,
            utf8=self._utf8 or (ascii_only and _over_ascii(self._files.encoding)),
            line_ends=frozenset(end for end, count in self._counts.items() if count),
            ended=self._last in "\r\n",
            first_line=self._begun if self._first is None else self._first,
            escaped=self._escaped,
            blank_quotes=self._blank_quotes,
        )

    def _check_kind(self, chunk: bytes) -> None:
        for magic, problem in _REFUSED.items():
            if chunk.startswith(magic):
                raise InputError(f"{self._path}: {problem}")
        if chunk[257:262] == b"ustar":
            raise InputError(f"{self._path}: is a tar archive; unpack it first (tar -xf)")

    def _decoded(self, chunk: bytes, *, final: bool) -> str:
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(self._files.encoding, "replace")
            raise InputError(self._undecodable(error, before)) from None
        except UnicodeError as error:  # of UTF-16 and UTF-32, whose mark is missing
            raise InputError(f"{self._path}: is not {self._files.encoding} ({error}); {_OTHER_ENCODING}") from None
        if "\0" in text:
            line = self._line(text[: text.index("\0")])
            remedy = 'if it is UTF-16, write encoding = "utf-16"'
            raise InputError(f"{self._path} line {line}: holds a NUL, which is no text; {remedy}")
        return text

    def _undecodable(self, error: UnicodeDecodeError, before: str) -> str:
        byte = error.object[error.start]
        column = len(before) - max(before.rfind("\n"), before.rfind("\r"))
        if column == len(before) + 1:  # the line began in an earlier chunk
            column += len(self._begun)
        name = self._files.encoding
        remedy = 'write its own, such as encoding = "latin-1" or "cp1252"' if name == "utf-8" else _OTHER_ENCODING
        where = f"{self._path} line {self._line(before)}, letter {column}"
        return f"{where}: the byte 0x{byte:02x} is not {name} ({error.reason}); {remedy}"

    def _line(self, before: str) -> int:
        """The number of the line that begins or goes on after `before`, text that is not counted yet."""
        counts = _line_ends(before)
        return 1 + sum(self._counts.values()) + sum(counts.values()) - (self._last == "\r" and before.startswith("\n"))

    def _add(self, text: str) -> None:
        if not text:
            return
        if self._last == "\r" and text.startswith("\n"):
            self._counts["\r"] -= 1
            self._counts["\r\n"] += 1
            self._counts["\n"] -= 1
        for end, count in _line_ends(text).items():
            self._counts[end] += count
        quote, escape = self._files.quote, self._files.escape
        if quote and (quote in text or quote in self._tail):
            self._blank_quotes = self._blank_quotes or self._beside(self._tail + text)
        self._escaped |= bool(escape) and escape in text
        self._keep_first(text)
        self._last = text[-1]
        last = max(text.rfind("\n"), text.rfind("\r"))
        self._begun = text[last + 1 :] if last >= 0 else (self._begun + text)[:_LINE]

    @property
    def _tail(self) -> str:
        return self._begun[-64:]

    def _keep_first(self, text: str) -> None:
        if self._first is None and (found := re.search(r"[\r\n]", text)):
            self._first = self._begun + text[: found.start()]


def _over_ascii(encoding: str) -> bool:
    """Whether ASCII bytes are the same text in an encoding."""
    every = bytes(range(128))
    try:
        return every.decode(encoding) == every.decode("ascii")
    except UnicodeDecodeError:
        return False


def _beside(files: Files) -> Callable[[str], bool]:
    """Whether in a text a blank stands between a quotation mark and a separator, a line end or another such mark."""
    mark, signs = files.quote, (files.separator, "\n", "\r")
    one = [text for sign in signs for text in (f"{sign} {mark}", f"{mark} {sign}")] + [f"{mark} {mark}"]
    ends = "|".join(re.escape(sign) for sign in (*signs, mark))
    several = re.compile(rf"(?:{ends})  +{re.escape(mark)}|{re.escape(mark)}  +(?:{ends})")

    def begins_blank(text: str) -> bool:
        return text.startswith(" ") and text.lstrip(" ").startswith(mark)

    def found(text: str) -> bool:
        # Plain texts are found ten times as fast as patterns.
        if any(each in text for each in one) or begins_blank(text):
            return True
        return (f"  {mark}" in text or f"{mark}  " in text) and several.search(text) is not None

    return found


def _line_ends(text: str) -> dict[str, int]:
    if "\r" not in text:
        return {"\n": text.count("\n")}
    both = text.count("\r\n")
    return {"\n": text.count("\n") - both, "\r\n": both, "\r": text.count("\r") - both}
