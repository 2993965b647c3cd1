"""Files of JSON values, one a line as a rule: read strictly, with file and line named in every error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from corella_edge.errors import BundleError, InputError
from corella_edge.formats.json_values import Piece, pieces
from corella_edge.formats.strict_json import decode
from corella_edge.formats.text_files import TextFile, UnreadableError
from corella_edge.request import Request
from corella_edge.request_message import parse_request

T = TypeVar("T")
Kind = type[BundleError] | type[InputError]


@dataclass(frozen=True, slots=True)
class Traffic:
    """A request, and the labels (0, 1, or None = unknown) of its candidates in order."""

    request: Request
    labels: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One candidate as the trained models scored it: probabilities, and the prompt's token ids.

    `adapters`: name → P(Yes) by an adapter that the bundle's own answers do without.
    """

    request: Request
    crm: float
    prompt: tuple[int, ...] | None
    llm: float | None
    adapters: Mapping[str, float] = field(default_factory=dict)


def read_lines(source: Path | TextFile, parse: Callable[[Any], T], kind: Kind = InputError) -> Iterator[T]:
    """`parse` of each value of a JSON-lines file, in order; empty lines are skipped.

    One JSON array, or objects that are spread over lines, are read as well, and whatever `TextFile` reads.

    Raises:
        InputError: (or `kind`) the file cannot be read, or a value is not what `parse` accepts.
    """
    file = TextFile.of(source)
    try:
        for piece in pieces(file.lines(), str(file)):
            yield _parsed(piece, parse, f"{file} {piece.where}", kind)
    except UnreadableError as error:
        raise kind(str(error)) from None


def _parsed(piece: Piece, parse: Callable[[Any], T], where: str, kind: Kind) -> T:
    try:
        return parse(decode(piece.raw, piece.first))
    except (InputError, BundleError) as error:
        raise kind(f"{where}: {error}") from None
    except RecursionError:
        raise kind(f"{where}: nested too deeply") from None


def parse_traffic(value: Any) -> Traffic:
    """`{"request": …, "label": 0 | 1}` (one candidate), or a request whose candidates may have a "label"."""
    if isinstance(value, dict) and "request" in value:
        if value.keys() - {"request", "label"}:
            raise InputError("known fields beside 'request': label")
        request = parse_request(value["request"])
        return Traffic(request, _single(request, _label(value.get("label"), "label")))
    candidates = value.get("candidates") if isinstance(value, dict) else None
    if not isinstance(candidates, list):
        return Traffic(parse_request(value), ())
    labels = [_label(c.get("label"), f"candidates[{i}].label") if isinstance(c, dict) else None
              for i, c in enumerate(candidates)]  # fmt: skip
    plain = [{k: v for k, v in c.items() if k != "label"} if isinstance(c, dict) else c for c in candidates]
    return Traffic(parse_request({**value, "candidates": plain}), tuple(labels))


def _single(request: Request, label: int | None) -> tuple[int | None]:
    if request.candidates is None or len(request.candidates) != 1:
        raise InputError("request.candidates: exactly one is expected here")
    return (label,)


def _label(value: Any, path: str) -> int | None:
    if value is None or (type(value) is int and value in (0, 1)):
        return value
    raise InputError(f"{path}: expected 0 or 1")


def parse_reference(value: Any) -> Reference:
    """`{"request", "crm", "prompt", "llm"}` of one candidate, and "adapters" where there are further ones."""
    if not isinstance(value, dict) or value.keys() - {"adapters"} != {"request", "crm", "prompt", "llm"}:
        raise InputError("expected an object with the fields request, crm, prompt, llm")
    request = parse_request(value["request"])
    _single(request, None)
    prompt, llm = value["prompt"], value["llm"]
    if prompt is not None and not (isinstance(prompt, list) and all(type(token) is int for token in prompt)):
        raise InputError("prompt: expected a list of token ids, or null")
    scores = value.get("adapters", {})
    if not isinstance(scores, dict):
        raise InputError("adapters: expected an object")
    adapters = {name: _probability(found, f"adapters.{name:.80}") for name, found in scores.items()}
    return Reference(request, _probability(value["crm"], "crm"), None if prompt is None else tuple(prompt),
                     None if llm is None else _probability(llm, "llm"), adapters)  # fmt: skip


def _probability(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise InputError(f"{path}: expected a probability")
    return float(value)
