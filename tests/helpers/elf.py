"""Machine code of a library's functions, found by its table of dynamic symbols and overwritten."""

from __future__ import annotations

import platform
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

# Nothing that a processor of the kind can execute.
ILLEGAL = {"x86_64": b"\x0f\x0b", "aarch64": b"\x00\x00\x00\x00"}
_DYNSYM, _FUNCTION = 11, 2


def functions(path: Path) -> dict[str, tuple[int, int]]:
    """Name → place in the file and length, of the functions that a library exports."""
    raw = path.read_bytes()
    sections = list(_sections(raw))
    found = {}
    for kind, start, size, link, _ in sections:
        if kind != _DYNSYM:
            continue
        names = sections[link][1]
        for name, info, _, _, value, length in struct.iter_unpack("<IBBHQQ", raw[start : start + size]):
            if info & 15 == _FUNCTION and value and length:
                text = raw[names + name : raw.index(b"\0", names + name)].decode()
                found[text] = (_place(raw, value), length)
    return found


def _sections(raw: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Type, place, size, link and address of each."""
    (table,), (width, count) = struct.unpack_from("<Q", raw, 40), struct.unpack_from("<HH", raw, 58)
    for number in range(count):
        _, kind, _, address, place, size, link = struct.unpack_from("<IIQQQQI", raw, table + number * width)
        yield kind, place, size, link, address


def _place(raw: bytes, address: int) -> int:
    """Where in the file the byte is that is loaded at an address."""
    (table,), (width, count) = struct.unpack_from("<Q", raw, 32), struct.unpack_from("<HH", raw, 54)
    for number in range(count):
        kind, _, place, start, _, size = struct.unpack_from("<IIQQQQ", raw, table + number * width)
        if kind == 1 and start <= address < start + size:
            return int(place + address - start)
    raise ValueError(f"no segment holds {address:#x}")


def break_functions(path: Path, names: list[str]) -> None:
    """Make functions of a library end the process by an illegal instruction; the old file is never changed."""
    raw, known = bytearray(path.read_bytes()), functions(path)
    code = ILLEGAL[platform.machine()]
    for name in names:
        place, length = known[name]
        raw[place : place + length] = (code * length)[:length]
    path.unlink()
    path.write_bytes(raw)


def copy_libraries(source: Path, target: Path) -> Path:
    """The folder of llama.cpp's libraries, to be changed."""
    return Path(shutil.copytree(source, target, symlinks=True))
