"""Logs, read: decisions as `serve --log` writes them, clicks as a shop has them, and labels of what was decided."""

from __future__ import annotations

import csv
import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.history import MAX_TIME, not_seconds
from corella_edge.json_lines import read_lines
from corella_edge.messages import Id, an_id, check
from corella_edge.routing.gate import NEW_ITEM, new_items
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit
from corella_edge.routing.replay import LoggedRows

Probability = Annotated[float, Meta(ge=0, le=1)]
Rank = Annotated[int, Meta(ge=1)]
Entry = TypeVar("Entry", bound=Struct)


class Shown(Struct):
    """An item of a decision. `propensity`: the probability that it was shown at this rank, where something draws it."""

    item: Id
    rank: Rank
    propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0


class LoggedDecision(Struct):
    """A line of the log of decisions, or of the answers of `score`; what else it holds is not looked at."""

    candidates: list[Shown]
    id: Id | None = None
    time: float | None = None
    user: Id | None = None
    bundle: str = ""


class Weighed(Shown):
    """An item of a decision with all that routing knew of it.

    Attributes:
        ask_propensity: the chance with which the LLM was asked; 1 where nothing was left to chance.
        shadow: its answer where that was asked for beside the request, and did not count.
        inputs: what a gate reads, by name, as far as it is of the item.
    """

    probability: Probability | None = None
    crm: Probability | None = None
    llm: Probability | None = None
    routed: bool = False
    reason: str = ""
    unknown: tuple[str, ...] = ()
    ask_propensity: Annotated[float, Meta(gt=0, le=1)] = 1.0
    shadow: Probability | None = None
    inputs: dict[str, float] = {}


class WeighedDecision(Struct):
    """The same with all that routing knew. `inputs`: what a gate reads, by name, as far as it is of the request."""

    candidates: list[Weighed]
    id: Id | None = None
    time: float | None = None
    user: Id | None = None
    inputs: dict[str, float] = {}


class Click(Struct, forbid_unknown_fields=True):
    """What somebody did with an item that a decision showed."""

    request: Id
    item: Id
    time: Annotated[float, Meta(description="Unix time in seconds.")]
    event: Annotated[str, Meta(min_length=1, max_length=256)] = "click"
    quantity: Annotated[float, Meta(gt=0)] = 1.0


class LabelLine(Struct):
    """What became of an item that a decision showed."""

    request: Id
    item: Id
    label: Annotated[int, Meta(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class Torn:
    """The last line of a file whose writer was ended in the middle of it."""


Decision = TypeVar("Decision", LoggedDecision, WeighedDecision)


def decision_files(place: Path, option: str = "--decisions") -> list[Path]:
    """The files of a log of decisions, in the order in which they were written; `place` itself where it is a file.

    Raises:
        InputError: there are none; it names the option.
    """
    if place.is_file():
        return [place]
    found = sorted(place.glob("*.jsonl")) if place.is_dir() else []
    if not found:
        raise InputError(f"{option} {place}: no such file, and no folder with *.jsonl in it")
    return found


def read_decisions(path: Path) -> Iterator[LoggedDecision | Torn]:
    """The decisions of one file.

    Raises:
        InputError: a line that is not a decision, by its number; the last line may be cut off.
    """
    return _decisions(path, msgspec.json.Decoder(LoggedDecision))


def _decisions(path: Path, decoder: msgspec.json.Decoder[Decision]) -> Iterator[Decision | Torn]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    yield _last(line, decoder)
                elif line.strip():
                    yield _decision(line, f"{path} line {number}", decoder)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _last(line: bytes, decoder: msgspec.json.Decoder[Decision]) -> Decision | Torn:
    """What stands behind the last line feed: a whole decision of a file that lacks one, or the beginning of one."""
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Torn()


def _decision(line: bytes, where: str, decoder: msgspec.json.Decoder[Decision]) -> Decision:
    try:
        found = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: not a decision ({error})") from None
    if found.time is not None:
        _check_time(found.time, where)
    return found


def read_logged(files: Iterable[Path]) -> LoggedRows:
    """The rows of a log of decisions, each once: of requests that share an id, the first. Labels are unknown.

    A score that was asked for in the shadow stands where there is no other. A decision that names no request is one
    for itself, and one that names no user is of a user for itself; where a fallback ranked, nothing was routed.

    Raises:
        InputError: a line that is not a decision; there is none.
    """
    decoder = msgspec.json.Decoder(WeighedDecision)
    rows: list[tuple[Any, ...]] = []
    inputs: list[dict[str, float]] = []
    seen = set[str]()
    for number, decision in enumerate(found for path in files for found in _decisions(path, decoder)):
        if isinstance(decision, Torn) or any(candidate.crm is None for candidate in decision.candidates):
            continue
        request = f"decision {number}" if decision.id is None else an_id(decision.id, "id")
        if request not in seen:
            seen.add(request)
            user = f"of {request}" if decision.user is None else an_id(decision.user, "user")
            rows += [(request, user, *_row(candidate), decision.time or 0.0) for candidate in decision.candidates]
            inputs += _inputs(decision)
    if not rows:
        raise InputError("the log holds no decision that was scored")
    return _as_columns(rows, inputs)


def _row(candidate: Weighed) -> tuple[Any, ...]:
    llm = candidate.shadow if candidate.llm is None else candidate.llm
    return (an_id(candidate.item, "item"), candidate.crm, math.nan if llm is None else llm, candidate.routed,
            candidate.reason, candidate.ask_propensity,
            math.nan if candidate.probability is None else candidate.probability)  # fmt: skip


def _inputs(decision: WeighedDecision) -> list[dict[str, float]]:
    """Of each candidate: those that the log has, and those that follow from what it has."""
    logits = logit(np.array([candidate.crm for candidate in decision.candidates], np.float64))
    shared = {"dispersion": float(logits.std()) if len(logits) else 0.0, **decision.inputs}
    new = new_items([candidate.unknown for candidate in decision.candidates])
    return [
        {**shared, "crm_logit": value, "unknown": float(len(candidate.unknown)), NEW_ITEM: own, **candidate.inputs}
        for candidate, value, own in zip(decision.candidates, logits.tolist(), new.tolist(), strict=True)
    ]


def _as_columns(rows: list[tuple[Any, ...]], inputs: list[dict[str, float]]) -> LoggedRows:
    request, user, item, crm, llm, routed, reason, propensity, final, time = zip(*rows, strict=True)
    names = sorted({name for one in inputs for name in one})
    found = LabelledRows(
        request=_texts_of(request), user=_texts_of(user), item=_texts_of(item), time=_numbers(time),
        label=np.full(len(rows), math.nan), crm=_numbers(crm), llm=_numbers(llm), propensity=_numbers(propensity),
        inputs={name: _numbers([one.get(name, math.nan) for one in inputs]) for name in names},
    )  # fmt: skip
    return LoggedRows(found, np.array(routed, bool), _texts_of(reason), _numbers(final))


def _texts_of(column: Sequence[str]) -> npt.NDArray[np.object_]:
    return np.array(column, np.object_)


def _numbers(column: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.array(column, np.float64)


def read_clicks(path: Path) -> Iterator[Click]:
    """Of a CSV file with the header `request,item,time` (and `event`, `quantity`), or of JSON lines.

    Raises:
        InputError: a line that is not a click; names it.
    """
    for where, click in _entries(path, Click, "click"):
        _check_time(click.time, where)
        yield click


Outcome = Callable[[str, str, float], float]


def read_outcomes(path: Path, window: float) -> Outcome:
    """Request, item and Unix time of a decision → what became of it: 0, 1, or nan where the file does not say.

    Of labels (a CSV file with the header `request,item,label`, or JSON lines), or of clicks, with which an item is 1
    if it was clicked at most `window` seconds after its decision, and else 0.

    Raises:
        InputError: a line that is neither; names it. The same item has two labels.
    """
    if "label" in _names(path):
        labels: dict[tuple[str, str], float] = {}
        for where, label in _entries(path, LabelLine, "label"):
            place = key(label.request, label.item)
            if labels.setdefault(place, float(label.label)) != label.label:
                raise InputError(f"{where}: label: item {place[1]!r} of request {place[0]!r} has two labels")
        return lambda request, item, time: labels.get((request, item), math.nan)
    times: dict[tuple[str, str], list[float]] = {}
    for click in read_clicks(path):
        times.setdefault(key(click.request, click.item), []).append(click.time)
    return lambda request, item, time: float(any(0 <= at - time <= window for at in times.get((request, item), ())))


def with_outcomes(logged: LoggedRows, outcome: Outcome) -> LoggedRows:
    """The rows whose outcome is known, with it as their label."""
    rows = logged.rows
    columns = (rows.request.tolist(), rows.item.tolist(), rows.time.tolist())
    label = np.array([outcome(*row) for row in zip(*columns, strict=True)], np.float64)
    return replace(logged, rows=replace(rows, label=label)).take(~np.isnan(label))


def _names(path: Path) -> list[str]:
    """The columns of a CSV file, or the fields of the first of its JSON objects."""
    _, first = next(TextFile(path).lines(), (0, b""))
    text = first.removeprefix(BOM_UTF8).decode("utf-8", "replace").strip().lstrip("[")
    if not text.startswith("{"):
        return [name.strip() for name in next(csv.reader([text]), [])]
    return list(next(iter(read_lines(TextFile(path), lambda value: value if isinstance(value, dict) else {})), {}))


def _entries(path: Path, kind: type[Entry], name: str) -> Iterator[tuple[str, Entry]]:
    """(where, entry) of a file of JSON lines or CSV; `name` is what an entry is called."""
    source = TextFile(path)
    _, first = next(source.lines(), (0, b""))
    if first.removeprefix(BOM_UTF8).lstrip().startswith((b"{", b"[")):
        for place, found in enumerate(read_lines(source, lambda value: check(value, kind, name)), 1):
            yield f"{path} {name} {place}", found
    elif first.strip():
        yield from _csv_entries(path, source, kind, name)


def _csv_entries(path: Path, source: TextFile, kind: type[Entry], what: str) -> Iterator[tuple[str, Entry]]:
    rows = csv.reader(_texts(path, source), strict=True)
    header = [name.strip() for name in next(rows, [])]
    fields = msgspec.structs.fields(kind)
    needed = [field.name for field in fields if field.required]
    missing = [name for name in needed if name not in header]
    if missing:
        others = ",".join(field.name for field in fields if not field.required)
        more = f"[,{others}]" if others else ""
        raise InputError(f"{path} line 1: no column {missing[0]!r}; the header is {','.join(needed)}{more}")
    known = [(place, name) for place, name in enumerate(header) if name in kind.__struct_fields__]
    try:
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise InputError(f"{where}: {len(row)} fields, the header has {len(header)}")
            yield where, _csv_entry({name: row[place] for place, name in known if row[place] != ""}, where, kind, what)
    except csv.Error as error:
        raise InputError(f"{path} line {rows.line_num}: {error}") from None


def _texts(path: Path, source: TextFile) -> Iterator[str]:
    for number, line in source.lines():
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path} line {number}: not UTF-8") from None


def _csv_entry(values: dict[str, Any], where: str, kind: type[Entry], what: str) -> Entry:
    for name in ("time", "quantity", "label"):
        if name in values:
            number = _number(values[name], f"{where}: {name}")
            values[name] = int(number) if name == "label" and number.is_integer() else number
    try:
        return check(values, kind, what)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {text[:40]!r} is not a number")
    return number


def _check_time(value: float, where: str) -> None:
    if abs(value) > MAX_TIME:
        raise InputError(f"{where}: time: {not_seconds(value)}")


def key(request: Id, item: Id) -> tuple[str, str]:
    """What a click and the item that it is on have in common."""
    return an_id(request, "request"), an_id(item, "item")
