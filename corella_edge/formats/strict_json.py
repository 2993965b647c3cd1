"""JSON as RFC 8259 has it, in UTF-8: what two parsers could read differently is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from corella_edge.errors import InputError

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonError(InputError):
    """Not strict JSON; other input errors are JSON of the wrong meaning."""


def no_constant(name: str) -> Any:
    """Raises JsonError for NaN, Infinity or -Infinity."""
    raise JsonError(f"{name} is not JSON")


def decode(raw: bytes, first_line: int = 1, constant: Callable[[str], Any] = no_constant) -> Any:
    """The value of a JSON text: no NaN or Infinity, no name twice in an object, no half of a surrogate pair.

    Args:
        first_line: the number that errors give the first line of a text of several.
        constant: what NaN, Infinity and -Infinity are, of which JSON knows nothing.

    Raises:
        JsonError: says what is wrong and where.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
        # Escaped halves of surrogate pairs could not be written back.
        if _SURROGATE_ESCAPE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise JsonError("a text holds half of a surrogate pair (\\ud800 to \\udfff alone)") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"not JSON: {error.msg} ({_place(error, first_line)})") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except ValueError:
        # Python refuses to convert integers of more than 4300 digits: the time would be quadratic.
        raise JsonError("a number has too many digits") from None
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its names and values, for `json.loads`. Raises JsonError for a name that occurs twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonError(f"the name {name[:40]!r} occurs twice in one object")
            seen.add(name)
    return result


def _place(error: json.JSONDecodeError, first_line: int) -> str:
    """Where a text is wrong; of a single line the column alone, since that line may be one of many."""
    text = error.doc.rstrip()
    if "\n" not in text:
        return f"column {min(error.pos, len(text)) + 1}"
    return f"line {error.lineno + first_line - 1}, column {error.colno}"
