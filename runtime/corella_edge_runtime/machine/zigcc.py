"""zig as the C and C++ compiler of a build: `python zigcc.py ZIG TRIPLE cc|c++|ar|ranlib ARGUMENTS…`.

cmake starts it some 400 times a build, so it imports nothing of this project and replaces itself by zig.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Names of instruction sets: what GCC and clang call them, and what zig does.
_ZIG_NAMES = {"fp16": "fullfp16", "memtag": "mte", "rng": "rand"}


def arguments(tool: str, triple: str, given: Sequence[str]) -> list[str]:
    """zig's arguments for a call of `tool` with the arguments of GCC and clang."""
    if tool not in ("cc", "c++"):
        return [tool, *given]
    aarch64 = triple.startswith("aarch64")
    return [tool, "-target", triple, *(_cpu(each) if aarch64 else each for each in given)]


def _cpu(argument: str) -> str:
    """`-march=armv8.2-a+dotprod+nosve` as zig says it: `-mcpu=generic+v8_2a+dotprod-sve`; anything else as it is."""
    name, _, value = argument.partition("=")
    if name != "-march" or not value.startswith("armv"):
        return argument
    level, *tags = value.split("+")
    version = level.removeprefix("armv").removesuffix("-a").replace(".", "_")
    return "-mcpu=generic" + ("" if version == "8" else f"+v{version}a") + "".join(map(_feature, tags))


def _feature(tag: str) -> str:
    sign, name = ("-", tag[2:]) if tag.startswith("no") else ("+", tag)
    return sign + _ZIG_NAMES.get(name, name)


if __name__ == "__main__":
    _zig, _triple, _tool = sys.argv[1:4]
    os.execv(_zig, [_zig, *arguments(_tool, _triple, sys.argv[4:])])
