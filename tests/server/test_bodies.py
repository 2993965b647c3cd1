"""Bodies nobody should send: each gives one clear 400 or 422, never a 500, and leaves the server well."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.request import Request
from corella_edge.strict_json import decode as decode_json
from corella_edge_runtime.server.bodies import parse_body

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
    "UTF-16": '{"user": {}}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + b'{"user": {}}',
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
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
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
    assert len(text) < 200
    assert site.rank({"user": {}}).status_code == 200


@pytest.mark.parametrize("body", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
def test_not_a_request_is_422(site, body):
    response = site.rank(body)
    assert response.status_code == 422
    text = response.json()["error"]["message"]
    assert "\n" not in text
    assert len(text) < 200
    assert site.rank({"user": {}}).status_code == 200


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
