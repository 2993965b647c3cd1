"""Requests byte for byte as unmodified clients send them: kserve 0.21 and mlserver 1.7.1, recorded; `tritonclient` is
run itself elsewhere. And JSON as clients in Go, Java and with pydantic write it: null for what is left out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from corella_edge.request import Event

USER = ("u0001", (Event("i001", 5.0), Event("i002", 1.0)), ("i003", "i004"))
# `InferInput.set_data_from_numpy(…, binary_data=False)`, `InferRequest.to_rest()`.
KSERVE = (
    '{"id": "a420782f-8bf8-45b2-a52f-926823504138", "model_name": "rank", "inputs": [{"name": "user_id", "shape": %s, '
    '"datatype": "BYTES", "data": ["u0001"]}, {"name": "history_items", "shape": %s, "datatype": "BYTES", "data": '
    '["i001", "i002"]}, {"name": "history_ratings", "shape": %s, "datatype": "FP32", "data": [5.0, 1.0]}, {"name": '
    '"candidates", "shape": %s, "datatype": "BYTES", "data": ["i003", "i004"]}]%s}'
)
# The same with binary_data=True: JSON and what follows it.
KSERVE_BINARY = (
    b'{"id":"507e2f23-9a6b-4586-ae11-632a919f3b4a","model_name":"rank","inputs":[{"name":"user_id","shape":[1],'
    b'"datatype":"BYTES","parameters":{"binary_data_size":9}},{"name":"history_items","shape":[2],"datatype":"BYTES",'
    b'"parameters":{"binary_data_size":16}},{"name":"history_ratings","shape":[2],"datatype":"FP32","parameters":'
    b'{"binary_data_size":8}},{"name":"candidates","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":16}}]'
    b',"outputs":[{"name":"probability","parameters":{"binary_data":true}}]}',
    b"\x05\x00\x00\x00u0001\x04\x00\x00\x00i001\x04\x00\x00\x00i002\x00\x00\xa0@\x00\x00\x80?"
    b"\x04\x00\x00\x00i003\x04\x00\x00\x00i004",
)
# `StringCodec` and `NumpyCodec`, `InferenceRequest.model_dump_json()`.
MLSERVER = (
    '{"id":"x","parameters":{"content_type":"np","headers":{"X-Forwarded-For":"1"}},"inputs":[{"name":"user_id",'
    '"shape":[1,1],"datatype":"BYTES","parameters":{"content_type":"str"},"data":["u0001"]},{"name":"history_items",'
    '"shape":[2,1],"datatype":"BYTES","parameters":{"content_type":"str"},"data":["i001","i002"]},{"name":'
    '"history_ratings","shape":[2,1],"datatype":"FP32","parameters":{"content_type":"np"},"data":[5.0,1.0]},{"name":'
    '"candidates","shape":[2,1],"datatype":"BYTES","parameters":{"content_type":"str"},"data":["i003","i004"]}],'
    '"outputs":[{"name":"probability","parameters":{"content_type":"np"}}]}'
)
NULLS = (
    '{"id": null, "model_name": "rank", "model_version": null, "parameters": {"threshold": null, "timeout": null, '
    '"priority": null, "binary_data_output": null}, "outputs": null, "inputs": ['
    '{"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u0001"], "parameters": null}, '
    '{"name": "history_items", "datatype": "BYTES", "shape": [2], "data": ["i001", "i002"], "contents": null}, '
    '{"name": "history_ratings", "datatype": "FP32", "shape": [2], "data": [5, 1], '
    '"parameters": {"binary_data_size": null, "shared_memory_region": null}}, '
    '{"name": "candidates", "datatype": "BYTES", "shape": [2], "data": ["i003", "i004"]}]}'
)
HINTS = ', "parameters": {"content_type": "x", "headers": {"a": "b"}, "binary_data_output": false}'
REQUESTS = {
    "kserve": KSERVE % ("[1]", "[2]", "[2]", "[2]", ""),
    "kserve, shapes [1, n]": KSERVE % ("[1, 1]", "[1, 2]", "[1, 2]", "[1, 2]", ""),
    "kserve, parameters": KSERVE % ("[1]", "[2]", "[2]", "[2]", HINTS),
    "mlserver": MLSERVER,
    "nulls": NULLS,
}


@pytest.fixture
def asked(site: Any) -> list[Any]:
    """The requests that reach the ranker."""
    return site.watch()


def understood(request: Any) -> tuple[Any, ...]:
    return request.user.id, request.user.history, tuple(candidate.item for candidate in request.candidates)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_clients_request_is_understood(site: Any, asked: list[Any], name: str) -> None:
    body = REQUESTS[name].encode()
    response = site.call("POST", "/v2/models/rank/infer", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 200, response.text
    assert understood(asked[0]) == USER
    answer = response.json()
    assert answer.get("id") == json.loads(body)["id"]
    assert ("id" in answer) is (name != "nulls")
    # What such clients read of an answer, whatever shape they sent.
    for output in answer["outputs"]:
        assert (output["shape"], len(output["data"])) == ([2], 2)
    assert answer["outputs"][0]["name"] == "probability"


def test_a_clients_binary_request_is_understood(site: Any, asked: list[Any]) -> None:
    head, behind = KSERVE_BINARY
    headers = {"Content-Type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    response = site.call("POST", "/v2/models/rank/infer", content=head + behind, headers=headers)
    assert response.status_code == 200, response.text
    assert understood(asked[0]) == USER
    length = int(response.headers["inference-header-content-length"])
    plain = site.call("POST", "/v2/models/rank/infer", content=REQUESTS["kserve"].encode()).json()
    expected = np.array(plain["outputs"][0]["data"], np.float32)
    np.testing.assert_array_equal(np.frombuffer(response.content[length:], "<f4"), expected)
