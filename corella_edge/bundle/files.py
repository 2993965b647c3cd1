"""A bundle's files one by one: their names, and bytes and JSON that are read within bounds, each problem one error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from corella_edge.errors import BundleError
from corella_edge.formats.strict_json import JsonError, unique

MAX_JSON_BYTES = 64 * 2**20
NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")


def read_bytes(path: Path, name: str = "", limit: int = MAX_JSON_BYTES) -> bytes:
    """A file's bytes, at most `limit`; `name` is what errors call it."""
    try:
        if path.stat().st_size > limit:
            raise BundleError(f"{name or path.name}: larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{name or path.name}: cannot be read ({error.strerror})") from None


def decode(raw: bytes, name: str) -> Any:
    """The JSON value of a bundle file; a name twice in one object is an error, as another reader may take the other."""
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except JsonError as error:
        raise BundleError(f"{name}: {error}") from None
    except RecursionError:
        raise BundleError(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise BundleError(f"{name}: not JSON ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a bundle file."""
    data = decode(read_bytes(path), path.name)
    if not isinstance(data, dict):
        raise BundleError(f"{path.name}: expected an object")
    return data


def shown(value: Any) -> str:
    """A value in an error, not too long."""
    return repr(value)[:80]
