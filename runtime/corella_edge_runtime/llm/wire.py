"""What the runtime and its LLM child say to each other: frames of length, kind and payload. Pure; no sockets here.

    frame     u32 length of the payload, u8 kind, payload (little-endian throughout)
    ASK       u64 id, f64 deadline (inf = none), u32 groups; a group: u32 tokens of its prefix, u32 members, u8 whether
              their `mass` is wanted, for each (u32 position, u32 tokens of the suffix), then int32 ids: the prefix, the
              suffixes in the members' order
    CANCEL    u64 id
    PING      nothing
    BYE       nothing: finish what was asked, then end
    READY     JSON: the counters; sent when the model is loaded, and in answer to each PING
    ANSWERS   u64 id, u32 answers, u32 bytes of JSON {"reasons": […], "stats": {…}}, the JSON, for each answer
              (f64 probability, f64 mass, f64 seconds waited, u32 tokens computed, u32 reused, u8 index of the reason;
              0 = none)
    FAILED    u64 id, then JSON {"kind": name of the error's class}
    FATAL     JSON {"kind": …, "message": …}: the model can not be loaded; the last frame
    FORGET    nothing: drop the kept prefixes

Prompts travel grouped by prefix, so that what a user's candidates share is sent once. Deadlines are times of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corella_edge_runtime.llm.answer import Answer, Prompt

# Far above any request (a thousand prompts of 8192 tokens are 33 MB): beyond it the other side talks nonsense.
MAX_PAYLOAD = 256 * 2**20
_HEAD = struct.Struct("<IB")
_ASK = struct.Struct("<QdI")
_GROUP = struct.Struct("<II?")
_PAIR = struct.Struct("<II")
_ID = struct.Struct("<Q")
_ANSWERS = struct.Struct("<QII")
_ANSWER = struct.Struct("<dddIIB")


class WireError(RuntimeError):
    """A frame that the other side can not have meant."""


@dataclass(frozen=True, slots=True)
class Ask:
    id: int
    deadline: float | None
    prompts: Sequence[Prompt]


@dataclass(frozen=True, slots=True)
class Cancel:
    id: int


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Bye:
    pass


@dataclass(frozen=True, slots=True)
class Ready:
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    id: int
    answers: Sequence[Answer]
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    id: int
    kind: str


@dataclass(frozen=True, slots=True)
class Fatal:
    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Forget:
    pass


Message = Ask | Cancel | Ping | Bye | Ready | Answers | Failed | Fatal | Forget
_KINDS: tuple[type[Message], ...] = (Ask, Cancel, Ping, Bye, Ready, Answers, Failed, Fatal, Forget)
_EMPTY: dict[type[Message], Message] = {Ping: Ping(), Bye: Bye(), Forget: Forget()}


def encode(message: Message) -> bytes:
    """One frame.

    Raises:
        WireError: a token id beyond 32 bits, or a message of more than MAX_PAYLOAD bytes.
    """
    payload = _payload(message)
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"a message of {len(payload)} bytes is above {MAX_PAYLOAD}")
    return _HEAD.pack(len(payload), _KINDS.index(type(message))) + payload


class Frames:
    """Bytes as they arrive → messages, however they are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes.

        Raises:
            WireError: an unknown kind, an impossible length, or a payload that does not fit its kind.
        """
        self._rest += data
        found: list[Message] = []
        while len(self._rest) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._rest)
            if length > MAX_PAYLOAD or kind >= len(_KINDS):
                raise WireError(f"a frame of kind {kind} and {length} bytes is none of ours")
            end = _HEAD.size + length
            if len(self._rest) < end:
                break
            payload = bytes(self._rest[_HEAD.size : end])
            del self._rest[:end]
            found.append(_decoded(_KINDS[kind], payload))
        return found


def _payload(message: Message) -> bytes:
    match message:
        case Ask():
            return _ask(message)
        case Answers():
            return _answers(message)
        case Cancel(id):
            return _ID.pack(id)
        case Failed(id, kind):
            return _ID.pack(id) + _json({"kind": kind})
        case Ready(stats):
            return _json(stats)
        case Fatal(kind, text):
            return _json({"kind": kind, "message": text})
        case Ping() | Bye() | Forget():
            return b""


def _decoded(kind: type[Message], payload: bytes) -> Message:
    try:
        return _message(kind, payload)
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WireError(f"a damaged {kind.__name__} frame of {len(payload)} bytes ({type(error).__name__})") from None


def _message(kind: type[Message], payload: bytes) -> Message:
    if kind is Ask:
        return _read_ask(payload)
    if kind is Answers:
        return _read_answers(payload)
    if kind is Cancel:
        return Cancel(*_ID.unpack(payload))
    if kind is Failed:
        (id,) = _ID.unpack_from(payload)
        return Failed(id, _text(_object(payload[_ID.size :])["kind"]))
    if kind is Ready:
        return Ready(_stats(_object(payload)))
    if kind is Fatal:
        data = _object(payload)
        return Fatal(_text(data["kind"]), _text(data["message"]))
    if payload:
        raise ValueError("bytes too many")
    return _EMPTY[kind]


def _ask(message: Ask) -> bytes:
    groups = _groups(message.prompts)
    deadline = math.inf if message.deadline is None else message.deadline
    parts = [_ASK.pack(message.id, deadline, len(groups))]
    for (prefix, whole), members in groups.items():
        suffixes = [message.prompts[position].suffix for position in members]
        parts.append(_GROUP.pack(len(prefix), len(members), whole))
        parts += [_PAIR.pack(position, len(suffix)) for position, suffix in zip(members, suffixes, strict=True)]
        parts.append(_ids(prefix))
        parts += [_ids(suffix) for suffix in suffixes]
    return b"".join(parts)


def _groups(prompts: Sequence[Prompt]) -> dict[tuple[tuple[int, ...], bool], list[int]]:
    """Positions by prefix. One that is the same object as the last is not looked up again: that takes long."""
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    last: Prompt | None = None
    members: list[int] = []
    for position, prompt in enumerate(prompts):
        if last is None or prompt.prefix is not last.prefix or prompt.whole != last.whole:
            last, members = prompt, groups.setdefault((tuple(prompt.prefix), prompt.whole), [])
        members.append(position)
    return groups


def _read_ask(payload: bytes) -> Ask:
    id, deadline, groups = _ASK.unpack_from(payload)
    if math.isnan(deadline):
        raise ValueError("no time")
    offset = _ASK.size
    found: dict[int, Prompt] = {}
    members = 0
    for _ in range(groups):
        group, offset = _group(payload, offset)
        members += len(group)
        found.update(group)
    if offset != len(payload) or members != len(found) or sorted(found) != list(range(len(found))):
        raise ValueError("the prompts do not add up")
    return Ask(id, None if deadline == math.inf else deadline, [found[i] for i in range(len(found))])


def _group(payload: bytes, offset: int) -> tuple[list[tuple[int, Prompt]], int]:
    """(position, prompt) of one group, and where the next one begins."""
    prefix_length, count, whole = _GROUP.unpack_from(payload, offset)
    offset += _GROUP.size
    if offset + count * _PAIR.size > len(payload):
        raise ValueError("cut short")
    members = [_PAIR.unpack_from(payload, offset + i * _PAIR.size) for i in range(count)]
    prefix, offset = _read_ids(payload, offset + count * _PAIR.size, prefix_length)
    found = []
    for position, length in members:
        suffix, offset = _read_ids(payload, offset, length)
        found.append((position, Prompt(prefix, suffix, whole)))
    return found, offset


def _answers(message: Answers) -> bytes:
    reasons = ["", *sorted({answer.reason for answer in message.answers} - {""})]
    head = _json({"reasons": reasons, "stats": message.stats})
    codes = {reason: code for code, reason in enumerate(reasons)}
    rows = [
        _ANSWER.pack(a.probability, a.mass, a.waited, a.evaluated, a.reused, codes[a.reason]) for a in message.answers
    ]
    return _ANSWERS.pack(message.id, len(rows), len(head)) + head + b"".join(rows)


def _read_answers(payload: bytes) -> Answers:
    id, count, length = _ANSWERS.unpack_from(payload)
    start = _ANSWERS.size + length
    if len(payload) != start + _ANSWER.size * count:
        raise ValueError("the answers do not add up")
    head = _object(payload[_ANSWERS.size : start])
    reasons = [_text(reason) for reason in head["reasons"]]
    answers = [
        Answer(value, reasons[code], evaluated, reused, waited, mass)
        for value, mass, waited, evaluated, reused, code in _ANSWER.iter_unpack(payload[start:])
    ]
    return Answers(id, answers, _stats(head["stats"]))


def _ids(tokens: Sequence[int]) -> bytes:
    try:
        packed = array("i", tokens)
    except OverflowError:
        raise WireError("a token id does not fit 32 bits") from None
    return _little(packed).tobytes()


def _read_ids(payload: bytes, offset: int, count: int) -> tuple[tuple[int, ...], int]:
    end = offset + 4 * count
    if end > len(payload):
        raise ValueError("cut short")
    packed = array("i")
    packed.frombytes(payload[offset:end])
    return tuple(_little(packed)), end


def _little(packed: array[int]) -> array[int]:
    if sys.byteorder == "big":
        packed.byteswap()
    return packed


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(data), separators=(",", ":")).encode()


def _object(raw: bytes) -> dict[str, Any]:
    data = json.loads(raw)
    if not isinstance(data, dict):
        raise ValueError("no object")
    return data


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _stats(data: Any) -> dict[str, float]:
    return dict(_numbers(data))


def _numbers(data: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in data.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError("no number")
        yield name, float(value)
