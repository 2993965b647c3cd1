from __future__ import annotations

import math
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.llm.backends.process import wire
from corella_edge_runtime.llm.backends.process.link import Link
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import MOST_QUEUED

IDS = st.integers(0, 2**64 - 1)
TOKENS = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6).map(tuple)
# Few prefixes, so that prompts share them.
ROWS = st.lists(
    st.builds(Prompt, st.sampled_from([(), (1,), (1, 2, 3), (-7, 2**31 - 1)]), TOKENS, st.booleans()), max_size=8
)
WEIGHTS = st.dictionaries(st.text("ab.-_9", min_size=1, max_size=64), st.floats(-10, 10), max_size=3)
PROMPTS = st.builds(lambda rows, by: Prompts.of(rows).by(tuple(sorted(by.items()))), ROWS, WEIGHTS | st.just({}))
STATS = st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=4)
ANSWERS = st.lists(
    st.builds(
        LlmAnswer, st.floats(0, 1), st.sampled_from(["", "deadline", "too_long", "llm_error"]),
        st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.floats(0, 1e9), st.floats(-1e9, 0) | st.just(math.nan),
    ), max_size=9,
).map(Answers.of)  # fmt: skip
MESSAGES = st.one_of(
    st.builds(wire.Ask, IDS, st.none() | st.floats(-1e9, 1e9), PROMPTS),
    st.builds(wire.Cancel, IDS),
    st.builds(wire.Ping),
    st.builds(wire.Bye),
    st.builds(wire.Ready, STATS),
    st.builds(wire.Answered, IDS, ANSWERS, STATS),
    st.builds(wire.Failed, IDS, st.text()),
    st.builds(wire.Fatal, st.text(), st.text()),
    st.builds(wire.Forget),
)


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 40))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[wire.Message], size: int) -> None:
    data = b"".join(wire.encode(message) for message in messages)
    frames = wire.Frames()
    found = [m for start in range(0, len(data), size) for m in frames.feed(data[start : start + size])]
    assert found == messages
    # What equality of answers leaves out.
    assert list(map(repr, found)) == list(map(repr, messages))


def test_a_shared_prefix_travels_once() -> None:
    prefix = tuple(range(1000))
    one = len(wire.encode(wire.Ask(1, None, Prompts.of([Prompt(prefix, (5,))]))))
    many = len(wire.encode(wire.Ask(1, None, Prompts.of([Prompt(prefix, (i,)) for i in range(50)]))))
    assert many < one + 50 * 16


def test_an_answer_that_is_no_number_stays_none() -> None:
    (found,) = wire.Frames().feed(wire.encode(wire.Answered(1, Answers.none(1, "deadline"), {})))
    assert isinstance(found, wire.Answered)
    assert math.isnan(found.answers[0].probability)
    assert found.answers[0].reason == "deadline"


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_one_clear_error(data: bytes) -> None:
    with suppress(wire.WireError):
        wire.Frames().feed(data)


@given(MESSAGES, st.data())
def test_a_damaged_frame_is_a_message_or_one_clear_error(message: wire.Message, data: Any) -> None:
    frame = bytearray(wire.encode(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with suppress(wire.WireError):
        wire.Frames().feed(bytes(frame))


@pytest.mark.parametrize("kind", range(9))
def test_a_payload_that_does_not_fit_its_kind_is_named(kind: int) -> None:
    with pytest.raises(wire.WireError, match=r"a damaged \w+ frame of 3 bytes"):
        wire.Frames().feed(b"\x03\x00\x00\x00" + bytes([kind]) + b"\xff\xff\xff")


def test_a_frame_of_no_kind_or_of_impossible_length_is_an_error() -> None:
    with pytest.raises(wire.WireError, match="kind 9"):
        wire.Frames().feed(b"\x00\x00\x00\x00\x09")
    with pytest.raises(wire.WireError, match="4294967295 bytes"):
        wire.Frames().feed(b"\xff\xff\xff\xff\x00")


def test_a_prefix_that_is_not_there_is_an_error() -> None:
    frame = bytearray(wire.encode(wire.Ask(1, None, Prompts.of([Prompt((), (3,)), Prompt((), (4,))]))))
    first = 5 + 24 + 4
    assert frame[first] == 0
    frame[first] = 1
    with pytest.raises(wire.WireError, match="damaged Ask"):
        wire.Frames().feed(bytes(frame))


def test_a_token_beyond_32_bits_is_an_error() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        Prompts.of([Prompt((), (2**31,))])


def test_a_reason_that_is_not_known_is_an_error() -> None:
    frame = bytearray(wire.encode(wire.Answered(1, Answers.none(1, "deadline"), {})))
    frame[-1] = 200
    with pytest.raises(wire.WireError, match="damaged Answered"):
        wire.Frames().feed(bytes(frame))


@pytest.fixture
def ends() -> Any:
    a, b = (Link(end) for end in socket.socketpair())
    yield a, b
    a.close()
    b.close()


def test_a_link_takes_any_amount_without_waiting_for_the_other_side(ends: Any) -> None:
    one, other = ends
    big = wire.Ask(7, None, Prompts.of([Prompt(tuple(range(100_000)), (1,))]))
    for _ in range(30):
        one.send(big)
    assert one.pending
    found: list[wire.Message] = []
    while len(found) < 30:
        found += other.receive(5.0)
        one.receive(0.0)
    assert found == [big] * 30
    assert not one.pending


def test_a_link_wakes_and_tells_that_the_other_side_is_gone(ends: Any) -> None:
    one, other = ends
    threading.Timer(0.05, one.wake).start()
    assert one.receive(20.0) == []
    other.close()
    one.send(wire.Ping())
    assert one.receive(20.0) is None
    one.close()
    one.send(wire.Ping())
    one.wake()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("suffix", [(7,), (7,) * 50])
def test_whatever_a_queue_holds_fits_a_frame(alike: bool, suffix: tuple[int, ...]) -> None:
    rows = Prompts.of([Prompt((7 if alike else i,), suffix) for i in range(1000)])
    size = len(wire.encode(wire.Ask(1, None, rows)))
    assert size / rows.tokens * MOST_QUEUED < wire.MAX_PAYLOAD
