"""What the runtime and its LLM child say to each other: frames of length, kind and payload. Pure; no sockets here.

    frame     u32 length of the payload, u8 kind, payload (little-endian throughout)
    ASK       u64 id, f64 deadline (inf = none), u32 prefixes, u32 prompts, u32 bytes of JSON of the adapters, the JSON
              (name → weight; nothing where there are none); columns: u32 tokens of each prefix; of each prompt u32
              place of its prefix, u32 tokens of its suffix, u8 whether its `mass` is wanted; then the ids, big-endian
              int32: the prefixes, the suffixes
    CANCEL    u64 id
    PING      nothing
    BYE       nothing: finish what was asked, then end
    READY     JSON: the counters; sent when the model is loaded, and in answer to each PING
    ANSWERS   u64 id, u32 bytes of JSON of the counters, the JSON, the answers' rows (`messages.Answers`)
    FAILED    u64 id, then JSON {"kind": name of the error's class}
    FATAL     JSON {"kind": …, "message": …}: the model cannot be loaded; the last frame
    FORGET    nothing: drop the kept prefixes

Prompts and answers travel as the columns they are; what a user's candidates share is sent once. Deadlines are times of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from corella_edge.adapters import ALONE
from corella_edge_runtime.llm.contract.messages import ID_BYTES, Answers, Prompts, pack_ids, unpack_ids

# Far above any request (a thousand prompts of 8192 tokens are 33 MB): beyond it the other side talks nonsense.
MAX_PAYLOAD = 256 * 2**20
_HEAD = struct.Struct("<IB")
_ASK = struct.Struct("<QdIII")
_ID = struct.Struct("<Q")
_ANSWERS = struct.Struct("<QI")


class WireError(RuntimeError):
    """A frame that the other side cannot have meant."""


@dataclass(frozen=True, slots=True)
class Ask:
    id: int
    deadline: float | None
    prompts: Prompts


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
class Answered:
    id: int
    answers: Answers
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


Message = Ask | Cancel | Ping | Bye | Ready | Answered | Failed | Fatal | Forget
_KINDS: tuple[type[Message], ...] = (Ask, Cancel, Ping, Bye, Ready, Answered, Failed, Fatal, Forget)
_EMPTY: dict[type[Message], Message] = {Ping: Ping(), Bye: Bye(), Forget: Forget()}


def encode(message: Message) -> bytes:
    """One frame.

    Raises:
        WireError: a message of more than MAX_PAYLOAD bytes.
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
                raise WireError(f"a frame of kind {kind} and {length} bytes is not one of this protocol")
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
        case Answered():
            return _answered(message)
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
    if kind is Answered:
        return _read_answered(payload)
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
    prompts, deadline = message.prompts, math.inf if message.deadline is None else message.deadline
    prefixes, number = list(map(pack_ids, prompts.prefixes)), len(prompts)
    columns = [*map(len, prompts.prefixes), *prompts.prefix, *prompts.lengths]
    adapters = _json(dict(prompts.adapters)) if prompts.adapters else b""
    head = _ASK.pack(message.id, deadline, len(prefixes), number, len(adapters)) + adapters
    return b"".join(
        [head, struct.pack(f"<{len(columns)}I{number}?", *columns, *prompts.whole), *prefixes, *prompts.suffixes]
    )


def _read_ask(payload: bytes) -> Ask:
    id, deadline, prefixes, number, said = _ASK.unpack_from(payload)
    if math.isnan(deadline):
        raise ValueError("no time")
    start = _ASK.size + said
    adapters = tuple(_numbers(_object(payload[_ASK.size : start]))) if said else ALONE
    form = struct.Struct(f"<{prefixes + 2 * number}I{number}?")
    columns = form.unpack_from(payload, start)
    prefix, lengths = columns[prefixes : prefixes + number], columns[prefixes + number : prefixes + 2 * number]
    ids = _cut(payload, start + form.size, [*columns[:prefixes], *lengths])
    if max(prefix, default=-1) >= prefixes:
        raise ValueError("no such prefix")
    whole = columns[prefixes + 2 * number :]
    found = Prompts(list(map(unpack_ids, ids[:prefixes])), prefix, ids[prefixes:], whole, adapters)
    return Ask(id, None if deadline == math.inf else deadline, found)


def _cut(payload: bytes, start: int, lengths: list[int]) -> list[bytes]:
    """What follows, in pieces of so many token ids; nothing may be left."""
    ends = list(accumulate((ID_BYTES * length for length in lengths), initial=start))
    if ends[-1] != len(payload):
        raise ValueError("the prompts do not add up")
    return [payload[begin:end] for begin, end in pairwise(ends)]


def _answered(message: Answered) -> bytes:
    head = _json(message.stats)
    return _ANSWERS.pack(message.id, len(head)) + head + message.answers.rows.tobytes()


def _read_answered(payload: bytes) -> Answered:
    id, length = _ANSWERS.unpack_from(payload)
    start = _ANSWERS.size + length
    head = _object(payload[_ANSWERS.size : start])
    return Answered(id, Answers.from_bytes(payload[start:]), _stats(head))


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
