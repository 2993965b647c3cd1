"""Bodies nobody should send: each gives one clear 400 or 422, never a 500, and leaves the server well."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import struct
import time
import zlib
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.formats.strict_json import decode as decode_json
from corella_edge.request import Request
from corella_edge_runtime.server.bodies import gunzip, parse_body
from corella_edge_runtime.server.guard.limits import INLINE_BYTES, Limits
from corella_edge_runtime.store.users import UserStore

NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "cut off": b'{"user": {',
    "trailing comma": b'{"user": {},}',
    "trailing text": b'{"user": {}} x',
    "two documents": b'{"user": {}}{"user": {}}',
    "single quotes": b"{'user': {}}",
    "comment": b'{"user": {}} // x',
    "bare word": b"user",
    "form": b"user=1&candidates=2",
    "NaN": b'{"user": {"features": {"x": NaN}}}',
    "Infinity": b'{"user": {"features": {"x": Infinity}}}',
    "minus Infinity": b'{"user": {}, "timeout_ms": -Infinity}',
    "name twice": b'{"user": {}, "user": {"id": "1"}}',
    "name twice, deep": b'{"user": {"features": {"a": 1, "\\u0061": 2}}}',
    "invalid UTF-8": b'{"user": {"id": "\xff"}}',
    "overlong UTF-8": b'{"user": {"id": "\xc0\xaf"}}',
    "UTF-8 surrogate": b'{"user": {"id": "\xed\xa0\x80"}}',
    "latin-1": '{"user": {"id": "Zoë"}}'.encode("latin-1"),
    "UTF-16": '{"user": {}}'.encode("utf-16"),
    "UTF-16 without a mark": '{"user": {}}'.encode("utf-16-le"),
    "UTF-16, the other way round": '{"user": {}}'.encode("utf-16-be"),
    "UTF-32": '{"user": {}}'.encode("utf-32"),
    "two byte order marks": b"\xef\xbb\xbf" * 2 + b'{"user": {}}',
    "a byte order mark alone": b"\xef\xbb\xbf",
    "lone high surrogate": b'{"user": {"id": "\\ud800"}}',
    "lone low surrogate": b'{"user": {"id": "x\\uDC00y"}}',
    "surrogate in a name": b'{"user": {"features": {"\\ud83d": 1}}}',
    "surrogate in a name, twice": b'{"\\ud800": 1, "\\ud800": 2}',
    "control character": b'{"user": {"id": "a\x00b"}}',
    "half an escape": b'{"user": {"id": "\\u12"}}',
    "leading zero": b'{"user": {}, "top_k": 01}',
    "hexadecimal": b'{"user": {}, "top_k": 0x10}',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"user":' * 100_000,
    "deep and closed": b"[" * 5_000 + b"]" * 5_000,
    "endless digits": b'{"user": {}, "top_k": ' + b"9" * 5_000 + b"}",
    "gzip": gzip.compress(b'{"user": {}}'),
}
NOT_A_REQUEST = {
    "null": b"null",
    "number": b"1",
    "text": b'"user"',
    "list": b"[]",
    "no user": b"{}",
    "user null": b'{"user": null}',
    "user text": b'{"user": "42"}',
    "unknown field": b'{"user": {}, "usr": {}}',
    "no candidate": b'{"user": {}, "candidates": []}',
    "candidate text": b'{"user": {}, "candidates": ["661"]}',
    "candidate without item": b'{"user": {}, "candidates": [{}]}',
    "empty id": b'{"user": {"id": ""}}',
    "long id": b'{"user": {"id": "' + b"x" * 257 + b'"}}',
    "id a float": b'{"user": {"id": 1.5}}',
    "id a boolean": b'{"user": {"id": true}}',
    "overflowing float": b'{"user": {}, "timeout_ms": 1e999}',
    "overflowing feature": b'{"user": {"features": {"x": 1e999}}}',
    "huge integer": b'{"user": {"features": {"x": 1' + b"0" * 400 + b"}}}",
    "huge integer in a list": b'{"user": {"features": {"x": [1' + b"0" * 400 + b"]}}}",
    "huge rating": b'{"user": {"history": [{"item": "1", "rating": 1' + b"0" * 400 + b"}]}}",
    "huge time": b'{"user": {"history": [{"item": "1", "rating": 1, "time": 9007199254740993}]}}',
    "negative top_k": b'{"user": {}, "top_k": -1}',
    "top_k a nest": b'{"user": {}, "top_k": ' + b"[" * 900 + b"]" * 900 + b"}",
    "feature a nest": b'{"user": {"features": {"x": ' + b"[" * 900 + b"]" * 900 + b"}}}",
    "too many candidates": b'{"user":{},"candidates":[' + b'{"item":"1"},' * 10_000 + b'{"item":"1"}]}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_not_json_is_400(site, body):
    response = site.rank(body)
    assert response.status_code == 400
    text = response.json()["error"]["message"]
    assert text.startswith("body: ")
    assert "\n" not in text
    assert len(text) < 240
    assert site.rank({"user": {}}).status_code == 200


@pytest.mark.parametrize("body", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
def test_not_a_request_is_422(site, body):
    response = site.rank(body)
    assert response.status_code == 422
    text = response.json()["error"]["message"]
    assert "\n" not in text
    assert len(text) < 240
    assert site.rank({"user": {}}).status_code == 200


@pytest.mark.parametrize(
    ("name", "told"),
    [("UTF-16", "body: UTF-16 or UTF-32; JSON is sent in UTF-8"), ("latin-1", "body: byte 19 is not valid UTF-8"),
     ("gzip", "body: packed by gzip, which the header Content-Encoding: gzip must say")],
)  # fmt: skip
def test_what_the_bytes_are_instead_is_said(site, name, told):
    assert site.rank(NOT_JSON[name]).json()["error"]["message"] == told


# A good body of each route that reads one.
ROUTES = {
    "/v1/rank": {"user": {"id": "Zoë"}},
    "/v1/score": {"query": "a", "items": ["b"]},
    "/v1/events": {"user_id": "Zoë", "events": []},
    "/v2/models/crm/infer": {"inputs": [{"name": "candidates", "datatype": "BYTES", "shape": [1], "data": ["a"]}]},
    "/v2/repository/index": {"ready": True},
}


def ask(site: Any, path: str, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.call("POST", path, content=body, headers=named)


@pytest.fixture
def stored(site, tmp_path):
    """With a store of users, so that every route has what it needs; the fake's LLM answers no questions (501)."""
    with UserStore.open(tmp_path / "users.db") as opened:
        site.service.store = opened
        yield site


def plain(path: str) -> bytes:
    return json.dumps(ROUTES[path], ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("path", ROUTES)
def test_a_packed_or_marked_body_is_the_body(stored, path):
    def told(response: httpx.Response) -> tuple[int, Any]:
        return response.status_code, response.json()

    expected = told(ask(stored, path, plain(path)))
    assert expected[0] == (501 if path == "/v1/score" else 200)
    packed = gzip.compress(plain(path))
    for encoding in ("gzip", "GZIP", "x-gzip", "identity, gzip", " gzip "):
        assert told(ask(stored, path, packed, Content_Encoding=encoding)) == expected
    half = len(plain(path)) // 2
    parts = gzip.compress(plain(path)[:half]) + gzip.compress(plain(path)[half:])
    assert told(ask(stored, path, parts, Content_Encoding="gzip")) == expected
    for encoding in ("", "identity"):
        assert told(ask(stored, path, b"\xef\xbb\xbf" + plain(path), Content_Encoding=encoding)) == expected
    assert told(ask(stored, path, gzip.compress(b"\xef\xbb\xbf" + plain(path)), Content_Encoding="gzip")) == expected


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip;q=1", "aws-chunked", "x" * 500])
@pytest.mark.parametrize("path", ROUTES)
def test_another_packing_is_415_and_the_answer_names_ours(stored, path, encoding):
    response = ask(stored, path, b"x", Content_Encoding=encoding)
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip")
    assert encoding[:40] in response.text
    assert len(response.text) < 200


PACKED = gzip.compress(plain("/v1/rank"))
BOMB = gzip.compress(bytes(2**27))
DAMAGED = {
    "not packed": plain("/v1/rank"),
    "nothing": b"",
    "cut off": PACKED[:-9],
    "without its sum": PACKED[:-8],
    "another sum": PACKED[:-8] + b"\0" * 8,
    "a flipped bit": PACKED[:15] + bytes([PACKED[15] ^ 255]) + PACKED[16:],
    "zlib": zlib.compress(plain("/v1/rank")),
    "more behind it": PACKED + b"x",
    "more behind zeros": PACKED + bytes(100) + b"x",
    "zeros alone": bytes(100),
    "zeros before it": bytes(100) + PACKED,
    "many parts": gzip.compress(b"") * 1000 + PACKED,
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("path", ["/v1/rank", "/v2/models/crm/infer"])
def test_a_damaged_packing_is_400(stored, path, name):
    response = ask(stored, path, DAMAGED[name], Content_Encoding="gzip")
    assert response.status_code == 400, response.text
    assert "gzip" in response.text
    assert "\\n" not in response.text


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_that_unpacks_to_more_than_the_limit_is_413(make_site, tmp_path, path):
    site = make_site(limits=Limits(body_bytes=200_000))
    with UserStore.open(tmp_path / "users.db") as site.service.store:
        assert len(BOMB) < 200_000
        for body in (BOMB, gzip.compress(b" " * 200_001)):
            response = ask(site, path, body, Content_Encoding="gzip")
            assert response.status_code == 413
            assert "larger than 200000 bytes" in response.text
        fits = plain(path).ljust(200_000)
        assert ask(site, path, gzip.compress(fits), Content_Encoding="gzip").status_code in (200, 501)
    assert site.app.state.intake.held == 0


def test_a_bomb_neither_fills_the_memory_nor_holds_others_up(site):
    async def course() -> float:
        async with site.client() as client:
            asked = [client.post("/v1/rank", content=BOMB, headers={"Content-Encoding": "gzip"}) for _ in range(4)]
            bombs = asyncio.gather(*asked)
            longest = 0.0
            while not bombs.done():
                before = time.monotonic()
                await asyncio.sleep(0.001)
                assert (await client.get("/v2/health/live")).status_code == 200
                longest = max(longest, time.monotonic() - before)
            assert [response.status_code for response in bombs.result()] == [413] * 4
            return longest

    # Inflated where it arrives, 8 MiB would take tens of milliseconds; a busy machine may do so to anything.
    assert asyncio.run(course()) < 10.0


def test_what_a_body_unpacks_to_counts_among_what_is_held(make_site):
    site = make_site(limits=Limits(held_bytes=300_000))
    site.ranker.crm_blocked.clear()
    body = {**ROUTES["/v1/rank"], "candidates": [{"item": str(i)} for i in range(501)]}
    packed = gzip.compress(json.dumps(body).encode().ljust(290_000))

    async def course() -> list[int]:
        async with site.client() as client:

            async def post() -> int:
                return (await client.post("/v1/rank", content=packed, headers={"Content-Encoding": "gzip"})).status_code

            # The second has no room while the first is worked on, in a thread.
            loop = asyncio.get_running_loop()
            first = loop.create_task(post())
            while site.app.state.intake.held < 290_000:
                await asyncio.sleep(0.001)
            second = await post()
            site.ranker.crm_blocked.set()
            return [await first, second]

    assert asyncio.run(course()) == [200, 503]
    assert site.app.state.intake.held == 0


@given(st.binary(max_size=300), st.integers(0, 400), st.integers(1, 4), st.integers(0, 600))
def test_a_stream_is_unpacked_to_what_was_packed_or_is_too_large(data: bytes, most: int, parts: int, zeros: int):
    """As Python's own reader does, which passes over zeros behind a part."""
    size = -(-len(data) // parts) or 1
    packed = b"".join(gzip.compress(data[i : i + size]) + bytes(zeros) for i in range(0, max(1, len(data)), size))
    assert gzip.decompress(packed) == data
    assert gunzip(packed, most) == (data if len(data) <= most else None)


def test_a_binary_message_may_be_packed_and_marked(site):
    about = {"name": "candidates", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}}
    head = b"\xef\xbb\xbf" + json.dumps({"inputs": [about]}).encode()
    body = head + struct.pack("<I", 2) + b"ab"
    length = {"Inference_Header_Content_Length": str(len(head))}
    assert ask(site, "/v2/models/crm/infer", body, **length).status_code == 200
    packed = gzip.compress(body)
    assert ask(site, "/v2/models/crm/infer", packed, Content_Encoding="gzip", **length).status_code == 200
    assert len(packed) < INLINE_BYTES


def test_a_surrogate_pair_is_one_character():
    assert decode_json(b'"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"


def test_the_largest_accepted_request_is_answered(site):
    body = {"user": {}, "candidates": [{"item": f"i{i}"} for i in range(10_000)]}
    assert len(site.rank(body).json()["candidates"]) == 10_000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_parse_or_give_an_input_error(body):
    _parse(body)


WHOLE = json.dumps(
    {"id": "é", "user": {"id": 1, "features": {"a": [1, "x"]}, "history": [{"item": "1", "rating": 1.5, "time": 3}]},
     "candidates": [{"item": "\U0001f600", "features": {"title": "t"}}], "threshold": "ratio:1", "top_k": 1}
).encode()  # fmt: skip


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_damaged_requests_parse_or_give_an_input_error(rng: random.Random, edits: int):
    body = bytearray(WHOLE)
    for _ in range(edits):
        start = rng.randrange(len(body))
        piece = rng.choice([b"", b"{", b"]", b'"', b"-1", b"1e999", b"null", b"\\ud800", b"\xff", b"[[]]", b",", b":"])
        body[start : start + rng.randrange(4)] = piece
    _parse(bytes(body))


def _parse(body: bytes) -> None:
    with contextlib.suppress(InputError):
        assert isinstance(parse_body(body), Request)
