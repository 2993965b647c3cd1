"""A file's bytes: how it is packed, whether it is whole, and which encoding its text has."""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from corella_edge.errors import InputError
from corella_edge.formats.text_files import told
from corella_edge_export.data.table.look import refuse_special

CAP = 32 * 2**20  # bytes of unpacked text that are looked at from a file's beginning
PIECE = 2**20  # and from the middle and the end of one that is longer

_BINARY = (
    (b"\xd0\xcf\x11\xe0", "is an Office file (.xls); save the sheet as CSV (UTF-8)"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it first (xz -d)"),
    (b"BZh", "is compressed with bzip2; unpack it first (bzip2 -d)"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4; unpack it first (lz4 -d)"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (
        b"SQLite format 3\0",
        "is a SQLite database; write its table as CSV (sqlite3 -csv -header FILE 'SELECT * FROM …')",
    ),
    (b"ARROW1", "is an Arrow file; save it as Parquet"),
    (b"ORC", "is an ORC file; save it as Parquet"),
    (b"Obj\x01", "is an Avro file; save it as Parquet"),
    (b"\x89HDF", "is an HDF5 file; save its table as Parquet"),
    (b"%PDF", "is a PDF document; init reads tables"),
)
_GZIP, _ZSTD, _PARQUET, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"PK\x03\x04"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WINDOWS = re.compile(rb"[\x80-\x9f]")  # letters and signs in cp1252, invisible controls in latin-1
_NO_WINDOWS = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_TWICE = re.compile(rb"[\xc3\xc5][\x80-\xbf]")
_HIGH = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True)
class Content:
    """A file as its bytes show it.

    Attributes:
        form: "text" or "parquet" (then the rest is empty). packing: "", "gzip" or "zstd".
        encoding: a name that `codecs` knows. why: the evidence for it.
        text: what was read from the beginning; whole lines. further: pieces of its middle and end, if it is longer.
        whole: whether `text` is all of it.
    """

    path: Path
    form: str = "text"
    packing: str = ""
    encoding: str = "utf-8"
    why: str = ""
    text: str = ""
    further: tuple[str, ...] = ()
    whole: bool = True


def look(path: Path, cap: int = CAP) -> Content:
    """Read a file, at most `cap` unpacked bytes of it, and two pieces more if it is plain.

    Raises:
        InputError: it is missing, empty, cut, or something that is no table; the message says what to do.
    """
    refuse_special(path)
    with told(str(path)), path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if not head:
            raise InputError(f"{path}: the file is empty; get it again")
        if head.startswith(_PARQUET):
            return Content(path, form="parquet")
        refuse_binary(path, head)
        packing = "gzip" if head.startswith(_GZIP) else "zstd" if head.startswith(_ZSTD) else ""
        data = _unpacked(file, packing, cap + 1, path)
        if packing:
            refuse_binary(path, data[:512])
            if data.startswith(_PARQUET):
                raise InputError(f"{path}: is a Parquet file packed with {packing}; unpack it, it is packed inside")
        pieces = _pieces(file, len(data)) if len(data) > cap and not packing else []
    return _decoded(path, packing, data, pieces, cap)


def refuse_binary(path: Path, head: bytes) -> None:
    """Raise InputError for the first bytes of what is no text, with a way to get a table from it."""
    if head.startswith(_ZIP):
        office = b"[Content_Types]" in head or b"_rels/" in head or b"mimetype" in head[:60]
        do = "is a spreadsheet (Excel or OpenDocument); save the sheet as CSV (UTF-8)"
        raise InputError(f"{path}: {do if office else 'is a zip archive; unpack it (unzip) and name the files in it'}")
    for magic, what in _BINARY:
        if head.startswith(magic):
            raise InputError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path}: is a tar archive; unpack it first (tar -xf) and name the files in it")


def _unpacked(file: BinaryIO, packing: str, most: int, path: Path) -> bytes:
    if packing == "gzip":
        return gzip.GzipFile(fileobj=file).read(most)
    if packing == "zstd":
        return b"".join(_zstd(file, most, path))
    return file.read(most)


def _zstd(file: BinaryIO, most: int, path: Path) -> Iterator[bytes]:
    import zstandard

    unpack, read = zstandard.ZstdDecompressor().decompressobj(), 0
    try:
        while read < most and (part := file.read(1 << 17)):
            while part:
                if unpack.eof:
                    unpack = zstandard.ZstdDecompressor().decompressobj()
                out = unpack.decompress(part)
                read += len(out)
                part = unpack.unused_data if unpack.eof else b""
                yield out
    except zstandard.ZstdError as error:
        raise InputError(f"{path}: its zstd data are damaged ({error}); get it again") from None
    if read < most and not unpack.eof:
        raise InputError(f"{path}: is cut: its zstd data end too early; get it again")


def _pieces(file: BinaryIO, after: int) -> list[bytes]:
    size = file.seek(0, 2)
    found = []
    for place in sorted({max(after, size // 2), max(after, size - PIECE)}):
        file.seek(place)
        found.append(file.read(PIECE))
    return [piece for piece in found if piece]


def _decoded(path: Path, packing: str, data: bytes, pieces: list[bytes], cap: int) -> Content:
    whole = len(data) <= cap
    if not whole and b"\n" in data and find_mark(data) not in ("utf-16", "utf-32"):
        data = data[: data.rindex(b"\n") + 1]
    encoding, why = find_encoding(path, data + b"".join(_lines(piece) for piece in pieces))
    ignore = "strict" if whole else "ignore"  # the last letter may be cut
    with told(str(path)):
        text = data.decode(encoding, ignore)
    text = text if whole else text[: text.rfind("\n") + 1] or text
    if "\0" in text[:100_000]:
        raise InputError(f"{path}: holds NUL bytes, so it is no text; a spreadsheet is read once it is saved as CSV")
    plain = encoding not in ("utf-16", "utf-32", "utf-16-le", "utf-16-be")
    further = tuple(_lines(piece).decode(encoding, "replace") for piece in pieces) if plain else ()
    return Content(path, "text", packing, encoding, why, text, further, whole)


def _lines(piece: bytes) -> bytes:
    """The whole lines of a piece from somewhere in a file."""
    return piece[piece.find(b"\n") + 1 : piece.rfind(b"\n") + 1]


def find_mark(data: bytes) -> str | None:
    """The encoding that a byte order mark names."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def find_encoding(path: Path, data: bytes) -> tuple[str, str]:
    """(name, evidence) of the encoding of a text.

    Raises:
        InputError: most of it is UTF-8 and a line is not.
    """
    if marked := find_mark(data):
        return marked, "its first bytes are a byte order mark"
    head = data[:4096]
    for order, zeros, others in (("le", head[1::2], head[::2]), ("be", head[::2], head[1::2])):
        if len(head) > 1 and zeros.count(0) > 0.4 * len(zeros) and others.count(0) < 0.1 * len(others):
            return f"utf-16-{order}", "every second byte is zero"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _legacy(path, data, error.start)
    return "utf-8", "all bytes below 128" if data.isascii() else "all of it is valid"


def _legacy(path: Path, data: bytes, bad: int) -> tuple[str, str]:
    """The encoding of what is not UTF-8 at byte `bad`."""
    line = len(re.findall(rb"\r\n|\r|\n", data[:bad])) + 1
    high = [part for part in re.split(rb"[\r\n]", data) if _HIGH.search(part)]
    valid = sum(_valid(part) for part in high)
    if valid > len(high) - valid:
        raise InputError(f"{path} line {line}: is not UTF-8 and the rest of the file is; save it in one encoding")
    windows = _WINDOWS.search(data) and not _NO_WINDOWS.search(data)
    name = "cp1252" if windows else "latin-1"
    reason = "bytes 128 to 159 are signs in it" if windows else "each byte is a letter or sign in it"
    words = sorted({word.decode(name) for part in high[:200] for word in re.findall(rb"[A-Za-z\xc0-\xff]{4,20}", part)
                    if _HIGH.search(word)}, key=lambda word: (len(word), word))[:3]  # fmt: skip
    twice = sum(bool(_TWICE.search(part)) for part in high)
    broken = (
        f"; {twice:,} lines hold UTF-8 that was once read as {name} (Ã¼ for ü), which no reader mends" if twice else ""
    )
    shown = f"; is this well read? {', '.join(words)}" if words else ""
    return name, f"not UTF-8 (line {line}); {reason}{shown}{broken}"


def _valid(part: bytes) -> bool:
    try:
        part.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def line_ends(text: str) -> str:
    """The line end in words: LF, CR LF, CR, or a mixture."""
    pairs = text.count("\r\n")
    counts = {"CR LF": pairs, "LF": text.count("\n") - pairs, "CR": text.count("\r") - pairs}
    found = [name for name, count in counts.items() if count]
    return " and ".join(found) or "none"
