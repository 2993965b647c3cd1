"""The replies the load generator understands, and those it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.load.http import HttpReply, ReplyError, post

BODIES = st.binary(max_size=300)
CUTS = st.lists(st.integers(1, 40), max_size=30)


def by_length(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def by_chunks(parts: list[bytes], trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def fed(data: bytes, cuts: list[int]) -> HttpReply:
    """Feed `data` in pieces; every piece but the last leaves the reply incomplete."""
    reply = HttpReply()
    for cut in cuts:
        piece, data = data[:cut], data[cut:]
        if not data:
            data = piece
            break
        assert not reply.feed(piece)
    assert reply.feed(data)
    return reply


@given(body=BODIES, cuts=CUTS)
def test_a_reply_by_length_is_the_same_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    reply = fed(by_length(body), cuts)
    assert (reply.status, reply.body, reply.reusable) == (200, body, True)


@given(parts=st.lists(BODIES, max_size=5), cuts=CUTS, trailer=st.sampled_from([b"", b"Digest: x\r\n"]))
def test_a_chunked_reply_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int], trailer: bytes) -> None:
    reply = fed(by_chunks(parts, trailer), cuts)
    assert (reply.status, reply.body, reply.reusable) == (200, b"".join(parts), True)


@given(body=BODIES, cuts=CUTS)
def test_a_reply_without_length_ends_with_the_connection_and_is_the_last_on_it(body: bytes, cuts: list[int]) -> None:
    reply, data = HttpReply(), b"HTTP/1.1 500 Oops\r\n\r\n" + body
    for cut in cuts:
        assert not reply.feed(data[:cut])
        data = data[cut:]
    assert not reply.feed(data)
    reply.ended()
    assert (reply.status, reply.body, reply.complete, reply.reusable) == (500, body, True, False)


@given(data=st.binary(max_size=200))
def test_whatever_comes_is_a_reply_or_an_error(data: bytes) -> None:
    reply = HttpReply()
    try:
        if not reply.feed(data):
            reply.ended()
    except ReplyError:
        return
    assert reply.complete


@given(body=BODIES, left=st.integers(1, 400))
def test_a_reply_that_ends_too_early_is_an_error(body: bytes, left: int) -> None:
    data = by_length(body)
    reply = HttpReply()
    short = data[: max(0, len(data) - left)]
    assert not reply.feed(short)
    with pytest.raises(ReplyError, match="closed"):
        reply.ended()


@pytest.mark.parametrize("data", [
    by_length(b"abc") + b"d", by_chunks([b"abc"]) + b"d", b"HTTP/1.0 200 OK\r\n\r\n", b"SSH-2.0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", b"x" * 70000,
])  # fmt: skip
def test_bytes_that_are_no_reply_are_refused(data: bytes) -> None:
    with pytest.raises(ReplyError):
        HttpReply().feed(data)


def test_nothing_may_follow_a_complete_reply() -> None:
    reply = HttpReply()
    assert reply.feed(by_length(b""))
    with pytest.raises(ReplyError, match="after the end"):
        reply.feed(b"x")


def test_an_interim_reply_is_passed_over() -> None:
    assert fed(b"HTTP/1.1 100 Continue\r\n\r\n" + by_length(b"x"), [5, 30]).body == b"x"


@pytest.mark.parametrize("status", [204, 304])
def test_a_reply_that_can_have_no_body_is_complete_with_its_head(status: int) -> None:
    assert HttpReply().feed(f"HTTP/1.1 {status} X\r\n\r\n".encode())


def test_a_server_that_wants_to_close_is_believed() -> None:
    reply = fed(by_length(b"x", "Connection: close\r\n"), [])
    assert reply.complete
    assert not reply.reusable


def test_the_servers_own_timing_is_kept() -> None:
    assert fed(by_length(b"x", "server-timing: parse;dur=0.1, crm;dur=2\r\n"), [7]).timing == "parse;dur=0.1, crm;dur=2"


def test_a_post_says_how_long_its_body_is() -> None:
    data = post("/v1/rank", b'{"a":1}', {"Authorization": "Bearer x"})
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/rank HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert b"\r\nContent-Length: 7\r\nAuthorization: Bearer x" in head
    assert body == b'{"a":1}'
