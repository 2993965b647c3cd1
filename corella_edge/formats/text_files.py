"""Text that a person gives: what a file is, is asked of its first bytes, not of its name.

Read are plain text and gzip, in UTF-8 with or without a mark (BOM), in UTF-16 and UTF-32 with one, with lines that end
in LF, CR LF or CR. Anything else is refused by name, with a way to mend it.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import re
import stat
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from corella_edge.errors import InputError

_HEAD = 512  # bytes that tell what a file is; a tar archive says so in byte 257
_GZIP = b"\x1f\x8b"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_OTHERS = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it first (zstd -d)"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it first (xz -d)"),
    (b"BZh", "is compressed with bzip2; unpack it first (bzip2 -d)"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4; unpack it first (lz4 -d)"),
    (b"PK\x03\x04", "is a zip archive or an Office file; unpack it, or save it as text"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it first"),
    (b"PAR1", "is a Parquet file; write its rows as text first"),
)
_TAR = slice(257, 262)
# Two to four bytes that are one letter in UTF-8; in latin-1 they would be a letter before a control or special sign.
_LETTER = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


class UnreadableError(InputError):
    """A file cannot be read as text; the message names it, and says what it is and how to mend it."""


class TextFile:
    """A file that a person named, or standard input (None), read from its beginning as often as wanted.

    What can be read only once, such as a pipe, is copied first: to a file without a name among the temporary ones.
    Its passes must follow each other; two at a time would share one place.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._copy: BinaryIO | None = None

    @classmethod
    def of(cls, source: Path | TextFile) -> TextFile:
        """`source` itself, or the file of that path."""
        return source if isinstance(source, TextFile) else cls(source)

    @property
    def name(self) -> str:
        """Without its folder."""
        return str(self) if self.path is None else self.path.name

    def __str__(self) -> str:
        return "standard input" if self.path is None else str(self.path)

    def open(self) -> io.BufferedReader:
        """Its bytes, seekable and at their beginning. Raises OSError, UnreadableError."""
        if self._copy is None:
            file = _standard_input() if self.path is None else self.path.open("rb")
            if self.path is not None and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            with file:
                self._copy = self._copied(file)
        self._copy.seek(0)
        return os.fdopen(os.dup(self._copy.fileno()), "rb")

    def _copied(self, file: BinaryIO) -> BinaryIO:
        if not _ends(file):
            raise UnreadableError(f"{self}: is a device; name a file or a pipe")
        copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        weakref.finalize(self, copy.close)
        while part := file.read(1 << 18):
            try:
                copy.write(part)
            except OSError as error:
                where = f"its copy in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names another folder"
                raise UnreadableError(f"{self}: cannot be kept: {where}") from None
        return copy

    def sha256(self) -> str:
        """Lower-case hexadecimal hash of its bytes, as they are. Raises UnreadableError."""
        with told(str(self)), self.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number from 1, line in UTF-8, ending in LF if it has an end), one after the other.

        What is UTF-8 already is passed on unchecked. Raises UnreadableError.
        """
        with told(str(self)), self.open() as file:
            plain, encoding = _unpacked(file, str(self))
            # In latin-1 a letter is a byte, so that only the line ends change.
            inner, outer = ("latin-1", "latin-1") if encoding == "utf-8" else (encoding, "utf-8")
            with io.TextIOWrapper(plain, inner, newline=None) as text:
                for number, line in enumerate(text, 1):
                    yield number, line.encode(outer).removeprefix(codecs.BOM_UTF8)

    def read(self) -> str:
        """The whole text, its lines ending in LF. Raises UnreadableError, which names a line that is no text."""
        with told(str(self)), self.open() as file:
            data = file.read()
        return decoded(data, str(self))


def _standard_input() -> io.BufferedReader:
    return os.fdopen(0, "rb", closefd=False)


def _ends(file: BinaryIO) -> bool:
    """Whether what is read from a file ends some day, as it may not of a device."""
    mode = os.fstat(file.fileno()).st_mode
    null = Path(os.devnull).stat().st_rdev
    return not stat.S_ISCHR(mode) or file.isatty() or os.fstat(file.fileno()).st_rdev == null


def decoded(data: bytes, name: str, legacy: str | None = None) -> str:
    """The text of a file's bytes, its lines ending in LF.

    Args:
        name: what errors call it.
        legacy: the encoding of what is not UTF-8, if there is one; the file must then be in one of the two.

    Raises:
        UnreadableError: names the file, and the line where one is to blame.
    """
    with told(name):
        plain, encoding = _unpacked(io.BytesIO(data), name)
        raw = plain.read()
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            if encoding != "utf-8":
                raise
            text = _otherwise(raw, error.start, name, legacy)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _otherwise(raw: bytes, bad: int, name: str, legacy: str | None) -> str:
    """Text whose byte `bad` is the first that is not UTF-8."""
    if legacy is None:
        raise UnreadableError(f"{name} line {_line(raw, bad)}: not UTF-8 text; save it as UTF-8 (iconv -t UTF-8)")
    if letter := _LETTER.search(raw):
        both = f"is UTF-8 and line {_line(raw, bad)} is not; save the file in one encoding"
        raise UnreadableError(f"{name} line {_line(raw, letter.start())}: {both}")
    return raw.decode(legacy)


def _line(raw: bytes, place: int) -> int:
    """The number of the line that a byte is in."""
    return len(re.findall(rb"\r\n|\r|\n", raw[:place])) + 1


def _unpacked(file: BinaryIO, name: str) -> tuple[BinaryIO, str]:
    """A seekable file without its compression and behind its mark, and its encoding."""
    if _head(file).startswith(_GZIP):
        file = cast(BinaryIO, gzip.GzipFile(fileobj=file))
    head = _head(file)
    mark, encoding = next((found for found in _MARKS if head.startswith(found[0])), (b"", "utf-8"))
    if not mark:
        _check(head, name)
    file.seek(len(mark))
    return file, encoding


def _head(file: BinaryIO) -> bytes:
    head = file.read(_HEAD)
    file.seek(0)
    return head


def _check(head: bytes, name: str) -> None:
    """Refuse by name what is no text."""
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise UnreadableError(f"{name}: {what}")
    if head[_TAR] == b"ustar":
        raise UnreadableError(f"{name}: is a tar archive; unpack it first (tar -xf)")
    for order, zeros in (("LE", head[1::2]), ("BE", head[::2])):
        if len(head) > 1 and not any(zeros):
            remedy = f"save it as UTF-8 (iconv -f UTF-16{order} -t UTF-8)"
            raise UnreadableError(f"{name}: is UTF-16 without a mark; {remedy}")
    if b"\0" in head:
        raise UnreadableError(f"{name} line {_line(head, head.index(0))}: holds a NUL byte, so it is no text")


@contextmanager
def told(name: str) -> Iterator[None]:
    """What goes wrong in reading the file `name` as an UnreadableError."""
    try:
        yield
    except EOFError:
        raise UnreadableError(f"{name}: is cut: its gzip data end too early; get it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UnreadableError(f"{name}: its gzip data are damaged ({error}); get it again") from None
    except UnicodeDecodeError as error:
        text = f"{error.encoding.upper()} text, as its first bytes say"
        raise UnreadableError(f"{name}: cut or damaged {text} ({error.reason}); save it again, as UTF-8") from None
    except FileNotFoundError:
        raise UnreadableError(f"{name}: no such file") from None
    except OSError as error:
        raise UnreadableError(f"{name}: cannot be read: {error.strerror or error}") from None
