"""The Open Inference Protocol over the application: what each model answers, and every error in the protocol's form."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient

from corella_edge.errors import InputError
from corella_edge.request import Event, User
from corella_edge.request_message import MAX_HISTORY
from corella_edge_runtime.server.guard.limits import Limits
from corella_edge_runtime.server.routes.oip.models import INPUTS, MODELS
from corella_edge_runtime.server.routes.oip.tensors import read
from json_schema import SCHEMAS, documents, valid

ITEMS = ["661", "914", "mute-1", "new-1", "Zoë 🎬"]
NAMES = ["probability", "crm", "llm", "entropy", "routed"]


def tensor(name: str, data: list[Any], datatype: str = "BYTES") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


CANDIDATES = tensor("candidates", ITEMS)


def infer(site: Any, model: str, *inputs: Any, path: str = "", **fields: Any) -> httpx.Response:
    body = {"inputs": [CANDIDATES, *inputs], **fields}
    return site.call("POST", f"/v2/models/{model}{path}/infer", content=json.dumps(body).encode())


def outputs(response: httpx.Response) -> dict[str, list[Any]]:
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


def told(response: httpx.Response) -> str:
    """The message of an error, in the protocol's form."""
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert "\n" not in body["error"]
    return body["error"]


def asked(site: Any) -> Any:
    """The request that the ranker got last."""
    return site.ranker.requests[-1]


@pytest.fixture
def site(make_site: Any, fake_ranker: Any) -> Any:
    class Listening(fake_ranker):
        """Remembers what it was asked."""

        def __init__(self) -> None:
            super().__init__()
            self.requests: list[Any] = []

        def begin(self, request: Any, *more: Any) -> Any:
            self.requests.append(request)
            return super().begin(request, *more)

    return make_site(Listening())


def test_the_server_describes_itself(site):
    about = site.call("GET", "/v2").json()
    assert about["name"] == "corella-edge"
    assert "binary_tensor_data" in about["extensions"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_describes_itself(site, model, version):
    about = site.call("GET", f"/v2/models/{model}{version}").json()
    assert (about["name"], about["versions"]) == (model, ["1"])
    assert [(i["name"], i["datatype"], i["shape"]) for i in about["inputs"]] == [
        ("user_id", "BYTES", [1]), ("history_items", "BYTES", [-1]), ("history_ratings", "FP32", [-1]),
        ("candidates", "BYTES", [-1]),
    ]  # fmt: skip
    assert [o["name"] for o in about["outputs"]] == (NAMES if model == "rank" else ["probability"])
    config = site.call("GET", f"/v2/models/{model}{version}/config").json()
    assert (config["name"], config["max_batch_size"]) == (model, 0)
    assert {i["name"] for i in config["input"] if not i["optional"]} == {"candidates"}
    assert [o["name"] for o in config["output"]] == [o["name"] for o in about["outputs"]]
    assert infer(site, model, path=version).status_code == 200


def test_rank_answers_as_the_servers_own_route_does(site):
    user = {"id": "42", "history": [{"item": "318", "rating": 4}, {"item": "7"}]}
    own = site.rank({"user": user, "candidates": [{"item": item} for item in ITEMS], "threshold": 0.4}).json()
    response = infer(
        site, "rank", tensor("user_id", ["42"]), tensor("history_items", ["318", "7"]),
        tensor("history_ratings", [4, None], "FP32"), id="r1", parameters={"threshold": 0.4},
    )  # fmt: skip
    found = outputs(response)
    assert list(found) == NAMES
    for name in NAMES:
        expected = [row[name] for row in own["candidates"]]
        np.testing.assert_array_equal(np.array(found[name], np.float32), np.array(expected, np.float32))
    assert (response.json()["id"], response.json()["model_name"], response.json()["model_version"]) == (
        "r1",
        "rank",
        "1",
    )
    first, second = (replace(request, id=None, timeout_ms=None) for request in site.ranker.requests)
    assert first == second
    assert "total;dur=" in response.headers["server-timing"]


def test_what_is_odd_about_a_history_is_told_in_parameters(make_site, fake_ranker):
    class Odd(fake_ranker):
        def _scores(self, *asked: Any, **how: Any) -> Any:
            return replace(super()._scores(*asked, **how), notes=("one thing", "another"))

    response = infer(make_site(Odd()), "rank", parameters={"binary_data_output": True})
    assert told_of(response) == {"notes": "one thing; another"}
    assert told_of(infer(make_site(fake_ranker()), "rank", parameters={"binary_data_output": True})) is None


def told_of(response: httpx.Response) -> Any:
    """The parameters of an answer in binary form, as tritonclient reads it."""
    length = int(response.headers["Inference-Header-Content-Length"])
    found = InferenceServerClient.parse_response_body(response.content, header_length=length)
    return found.get_response().get("parameters")


def test_crm_never_asks_the_llm_and_llm_always_does(site):
    by_all = outputs(infer(site, "rank", parameters={"threshold": "ratio:1"}))
    assert None in by_all["llm"]
    assert any(by_all["llm"])
    assert outputs(infer(site, "crm")) == {"probability": by_all["crm"]}
    assert outputs(infer(site, "llm")) == {"probability": by_all["llm"]}
    assert [request.threshold for request in site.ranker.requests] == ["ratio:1", "ratio:0", "ratio:1"]


def test_every_form_of_a_threshold_is_the_requests_own(site):
    for threshold in (0.4, "ratio:1", "margin:0.3"):
        own = site.rank({"user": {}, "candidates": [{"item": item} for item in ITEMS], "threshold": threshold}).json()
        found = outputs(infer(site, "rank", parameters={"threshold": threshold}))
        assert found["routed"] == [row["routed"] for row in own["candidates"]]


def test_tensors_become_the_user(site):
    infer(site, "rank")
    assert asked(site).user == User()
    infer(site, "rank", tensor("user_id", ["é"]))
    assert asked(site).user == User("é")
    infer(site, "rank", tensor("history_items", ["1", "2"]))
    assert asked(site).user == User(None, {}, (Event("1"), Event("2")))
    infer(site, "rank", tensor("history_items", []), tensor("history_ratings", [], "FP32"), tensor("user_id", ["7"]))
    assert asked(site).user == User("7")


def test_parameters_become_the_options_of_the_request(site):
    infer(site, "rank", parameters={"threshold": 0.25, "timeout": 1_500, "priority": 3})
    assert (asked(site).threshold, asked(site).timeout_ms) == (0.25, 1.5)
    assert site.ranker.times[-1] <= 1.5
    for parameters in ({}, {"timeout": 0, "priority": 0}):
        infer(site, "rank", parameters=parameters, id="")
        assert (asked(site).threshold, asked(site).id) == (None, None)
        assert asked(site).timeout_ms is None
        assert site.ranker.times[-1] == pytest.approx(Limits().timeout_ms, rel=0.9)


def test_outputs_come_in_the_order_and_form_asked_for(site):
    wanted = [{"name": "routed", "parameters": {"binary_data": True}}, {"name": "crm"}]
    response = infer(site, "rank", outputs=wanted)
    found = InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    assert [output["name"] for output in found.get_response()["outputs"]] == ["routed", "crm"]
    assert response.headers["content-type"] == "application/octet-stream"
    whole = outputs(infer(site, "rank"))
    np.testing.assert_array_equal(found.as_numpy("routed"), whole["routed"])
    np.testing.assert_array_equal(found.as_numpy("crm"), np.array(whole["crm"], np.float32))


def test_all_outputs_in_binary_form_if_the_request_says_so(site):
    response = infer(site, "rank", parameters={"binary_data_output": True})
    found = InferenceServerClient.parse_response_body(
        response.content, header_length=int(response.headers["Inference-Header-Content-Length"])
    )
    for name, values in outputs(infer(site, "rank")).items():
        np.testing.assert_array_equal(found.as_numpy(name), np.array(values, found.as_numpy(name).dtype))


REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "an output of another model": ("crm", (), {"outputs": [{"name": "llm"}]}, "'llm' is not an output; known: prob"),
    "a sequence": ("rank", (), {"parameters": {"sequence_id": 1}}, "'sequence_id' is not offered by rank"),
    "a selection": ("rank", (), {"parameters": {"exclude_seen": True}}, "'exclude_seen' is not offered by rank"),
    "a cut": ("rank", (), {"parameters": {"top_k": 3}}, "'top_k' is not offered by rank"),
    "a threshold where there is one": ("crm", (), {"parameters": {"threshold": 0}}, "'threshold' is not offered by"),
    "no threshold": ("rank", (), {"parameters": {"threshold": "many"}}, "threshold: 'many' is not an entropy"),
    "a threshold out of range": ("rank", (), {"parameters": {"threshold": 0.9}}, "0.9 is not an entropy"),
    "a threshold of another type": ("rank", (), {"parameters": {"threshold": [1]}}, "threshold: expected a number"),
    "a fraction of a microsecond": ("rank", (), {"parameters": {"timeout": 1.5}}, "timeout: expected a whole number"),
    "a time that is text": ("rank", (), {"parameters": {"timeout": "5"}}, "timeout: expected a whole number"),
    "a negative time": ("rank", (), {"parameters": {"timeout": -1}}, "timeout: expected a whole number from 0"),
    "a time without end": ("rank", (), {"parameters": {"timeout": 2**64}}, "timeout: expected a whole number from 0"),
    "a priority that is none": ("rank", (), {"parameters": {"priority": True}}, "priority: expected a whole number"),
    "an empty id": ("rank", (tensor("user_id", [""]),), {}, "user.id: expected text of at least 1 character"),
    "a long id": ("rank", (tensor("history_items", ["x" * 257]),), {}, r"history[0].item: expected text of at most"),
    "a long id of the request": ("rank", (), {"id": "x" * 257}, "id: expected text of at most 256"),
    "ratings of nothing": ("rank", (tensor("history_ratings", [1.0], "FP32"),), {}, "1 ratings of 0 history_items"),
    "a rating out of range": ("rank", (tensor("history_items", ["1"]), tensor("history_ratings", [1e7], "FP32")), {},
                              "rating: expected a number of at most 1000000, got 10000000.0"),
    "a history too long": ("rank", (tensor("history_items", ["1"] * (MAX_HISTORY + 1)),), {}, "0 to 100000 values"),
}  # fmt: skip


@pytest.mark.parametrize(("model", "inputs", "fields", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_model_does_not_take_is_400(site, model, inputs, fields, said):
    response = infer(site, model, *inputs, **fields)
    assert response.status_code == 400
    assert said in told(response)
    assert infer(site, model).status_code == 200


def test_bytes_that_are_no_text_are_400(site):
    about = tensor("candidates", []) | {"shape": [1], "parameters": {"binary_data_size": 5}}
    del about["data"]
    head = json.dumps({"inputs": [about]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body = head + b"\1\0\0\0\xff"
    response = site.call("POST", "/v2/models/rank/infer", content=body, headers=headers)
    assert (response.status_code, told(response)) == (400, "candidates[0]: not UTF-8")


def test_a_message_that_is_none_is_400(site):
    response = site.call("POST", "/v2/models/rank/infer", content=b"{")
    assert response.status_code == 400
    assert told(response).startswith("request: not JSON")


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/infer"])
def test_what_is_not_served_is_404(site, path):
    method = "POST" if path == "/infer" else "GET"
    for model, known in (("ranks", "rank, crm, llm"), ("rank/versions/2", "this is version '1'")):
        response = site.call(method, f"/v2/models/{model}{path}", content=b"")
        assert response.status_code == 404
        assert known in told(response)


def test_a_version_that_did_not_answer_is_not_passed_off_as_another(site, monkeypatch):
    ranked = site.service.ranked

    async def by_another(*args: Any) -> Any:
        return replace(await ranked(*args), bundle="fake@2")

    monkeypatch.setattr(site.service, "ranked", by_another)
    assert infer(site, "rank").json()["model_version"] == "2"
    response = infer(site, "rank", path="/versions/1")
    assert response.status_code == 404
    assert "version '1' is not served here; this is version '2'" in told(response)


def test_before_the_bundle_is_there(make_site):
    site = make_site(ready=False)
    assert site.call("GET", "/v2").status_code == 200
    for method, path in (("GET", ""), ("GET", "/config"), ("POST", "/infer")):
        response = site.call(method, f"/v2/models/rank{path}", content=b"")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert told(response) == "the bundle is still loading"
    assert site.call("GET", "/v2/models/rank/ready").status_code == 503
    index = site.call("POST", "/v2/repository/index").json()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        (name, "", "UNAVAILABLE") for name in MODELS
    ]
    assert site.call("POST", "/v2/repository/index", content=b'{"ready": true}').json() == []


def test_readiness_of_each_model(site):
    assert site.call("GET", "/v2/models/crm/ready").json() == {"name": "crm", "ready": True}
    # The fake has no LLM.
    assert site.call("GET", "/v2/models/llm/ready").status_code == 503
    site.ranker.llm = SimpleNamespace(answers=False)
    found = site.call("GET", "/v2/models/llm/ready")
    assert (found.status_code, found.json()["error"]) == (503, "the LLM does not answer now")
    site.ranker.llm.answers = True
    assert site.call("GET", "/v2/models/llm/versions/1/ready").status_code == 200
    site.service.draining = True
    assert site.call("GET", "/v2/models/crm/ready").status_code == 503
    assert told(infer(site, "crm")) == "the server is stopping"


def test_the_index_lists_what_is_ready(site):
    index = site.call("POST", "/v2/repository/index", content=b"").json()
    assert [entry["name"] for entry in index] == list(MODELS)
    assert {entry["name"]: entry["reason"] for entry in index}["llm"] == "the server has no LLM"
    ready = site.call("POST", "/v2/repository/index", content=b'{"ready": true}').json()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in ready] == [
        ("rank", "1", "READY"), ("crm", "1", "READY"),
    ]  # fmt: skip
    assert len(site.call("POST", "/v2/repository/index", content=b'{"ready": null, "all": true}').json()) == len(MODELS)
    for body in (b"[]", b'{"ready": 1}', b"{"):
        response = site.call("POST", "/v2/repository/index", content=body)
        assert response.status_code == 400
        told(response)


def test_answers_are_as_described(site):
    described = {
        "OipServer": site.call("GET", "/v2"), "OipModel": site.call("GET", "/v2/models/rank"),
        "OipConfig": site.call("GET", "/v2/models/rank/config"), "OipReady": site.call("GET", "/v2/models/llm/ready"),
        "OipInferred": infer(site, "rank", id="1"), "OipError": site.call("GET", "/v2/models/ranks"),
    }  # fmt: skip
    for name, response in described.items():
        assert valid(SCHEMAS[name], response.json()), name
    binary = infer(site, "rank", parameters={"binary_data_output": True})
    head = json.loads(binary.content[: int(binary.headers["Inference-Header-Content-Length"])])
    assert valid(SCHEMAS["OipInferred"], head)
    for entry in site.call("POST", "/v2/repository/index").json():
        assert valid(SCHEMAS["OipState"], entry)


def fitted(doc: dict[str, Any]) -> dict[str, Any]:
    """What the schema cannot say: shapes that fit the data, no input or output twice, candidates among the inputs."""
    inputs = {tensor["name"]: tensor for tensor in (*doc["inputs"], CANDIDATES)}
    for tensor in inputs.values():
        value = "1" if tensor["datatype"] == "BYTES" else 1.0
        rows = tensor.get("data") or [value]
        # Rows are for shapes of two dimensions.
        tensor["data"] = [(row or [value])[0] if isinstance(row, list) else row for row in rows]
        tensor.pop("parameters", None)
    shaped = [tensor | {"shape": [len(tensor["data"])]} for tensor in inputs.values()]
    outputs = {output["name"]: output for output in doc.get("outputs") or []}
    return doc | {"inputs": shaped, "outputs": list(outputs.values())}


@given(documents(SCHEMAS["OipInference"]))
def test_whatever_the_schema_allows_is_read(doc):
    assert valid(SCHEMAS["OipInference"], doc)
    read(json.dumps(fitted(doc)).encode(), None, INPUTS)


def without_nulls(value: Any, inside: bool = True) -> Any:
    """The same without fields that are null; values of tensors stay."""
    if isinstance(value, dict):
        return {name: without_nulls(field, name != "data") for name, field in value.items() if field is not None}
    return [without_nulls(entry, inside) for entry in value] if isinstance(value, list) and inside else value


@given(documents(SCHEMAS["OipInference"]))
def test_null_is_left_out(doc):
    doc = fitted(doc)
    found, expected = (read(json.dumps(form).encode(), None, INPUTS) for form in (doc, without_nulls(doc)))
    for name, values in expected.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], values)
    assert replace(found, inputs={}) == replace(expected, inputs={})


ODD: list[Any] = [None, True, -1, 0, 2**63, 0.5, "", "x", [], [1], {}, {"x": 1}]


@given(
    documents(SCHEMAS["OipInference"]), st.sampled_from(["inputs", "outputs", "id", "parameters", "more"]), st.data()
)
def test_what_is_read_is_what_the_schema_allows(doc, name, data):
    doc = fitted(doc) | {name: data.draw(st.sampled_from(ODD))}
    place = data.draw(st.sampled_from([*CANDIDATES, "parameters", "more"]))
    with contextlib.suppress(TypeError, LookupError):
        doc["inputs"][0] = doc["inputs"][0] | {place: data.draw(st.sampled_from(ODD))}
    with contextlib.suppress(InputError):
        read(json.dumps(doc).encode(), None, INPUTS)
        assert valid(SCHEMAS["OipInference"], doc)


def test_limits_of_bodies_are_told_in_the_protocols_form(make_site):
    site = make_site(limits=Limits(body_bytes=100))
    response = infer(site, "rank")
    assert response.status_code == 413
    assert "larger than 100 bytes" in told(response)


def test_an_error_of_the_engine_is_400(make_site, fake_ranker):
    response = infer(make_site(fake_ranker(error=InputError("threshold: no"))), "rank")
    assert (response.status_code, told(response)) == (400, "threshold: no")


def test_a_fault_of_the_server_is_500(make_site, fake_ranker):
    response = infer(make_site(fake_ranker(error=ZeroDivisionError("secret"))), "rank")
    assert response.status_code == 500
    assert "secret" not in response.text


def test_the_largest_request_is_answered(site):
    most = INPUTS["candidates"].most
    body = {"inputs": [tensor("candidates", [str(i) for i in range(most)])]}
    response = site.call("POST", "/v2/models/crm/infer", content=json.dumps(body).encode())
    assert len(outputs(response)["probability"]) == most


def test_requests_are_counted_by_the_pattern_of_their_path(site):
    infer(site, "rank")
    infer(site, "crm", path="/versions/1")
    assert 'requests_total{route="/v2/models/{model}/infer",status="200"} 1.0' in site.metrics()
    assert 'route="/v2/models/{model}/versions/{version}/infer"' in site.metrics()


def test_a_client_that_leaves_is_no_error(site):
    async def leave() -> list[Any]:
        sent: list[Any] = []
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v2/models/rank/infer", "headers": [], "query_string": b""}
        await site.app(scope, receive, send)
        return sent

    assert asyncio.run(leave())[0]["status"] == 499
