"""`/openapi.json` against `parse_request`: the description and the one validator say the same."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.request_message import parse_request
from corella_edge.routing.exploring import EXPLORE
from corella_edge.routing.forms import FORMS, parse_threshold
from corella_edge.routing.policy import AskCost, Calibration, Routing
from corella_edge.routing.reasons import KEPT, NoAnswer
from corella_edge_runtime.server.guard.access import scope_of
from corella_edge_runtime.server.openapi import document
from json_schema import SCHEMAS, documents, valid

ROUTING = Routing(calibration=Calibration([0.0, 0.5, 1.0], [0.7, 0.5, 0.0]), cost=AskCost(10.0, 1.0))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents(SCHEMAS["Request"]))
def test_whatever_the_schema_allows_is_accepted(doc):
    assert valid(SCHEMAS["Request"], doc)
    doc.pop("strict", None)  # what is odd about numbers is then refused, which no schema says
    if "adapters" in doc:
        doc.pop("adapter", None)  # one of both, which no schema says
    request = parse_request(doc)
    if request.threshold is not None:
        parse_threshold(request.threshold, ROUTING)


ODD_SCALARS = [None, True, -1, 0, 1, 2**64, 2**70, 0.5, 1e7, 1e16, "", "x", "x" * 257]
LARGE = [["x"] * 1025, ["x"] * 1024, "x" * 16_385, "x" * 16_384, {str(i): 1 for i in range(257)}]
ODD = [*ODD_SCALARS, [], [1], [[1]], {}, {"item": "1"}, {"x": {}}, *LARGE]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents(SCHEMAS["Request"]), st.data())
def test_schema_and_parser_judge_damaged_documents_alike(doc, data):
    doc = copy.deepcopy(doc)
    doc.pop("threshold", None)  # judged by the bundle, which knows its calibration
    doc.pop("strict", None)  # what is odd about numbers is then refused, which no schema says
    if "adapters" in doc:
        doc.pop("adapter", None)  # one of both, which no schema says
    holder, key = data.draw(st.sampled_from(list(places(doc))))
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder.pop(key, None)
    else:
        holder[key] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
    if oversized_feature(doc):
        return
    assert accepted(doc) == valid(SCHEMAS["Request"], doc), doc


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document, and one new field an object."""
    if isinstance(value, dict):
        yield value, "extra"
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def oversized_feature(doc: Any) -> bool:
    """Integers beyond 2**64 in features: refused, which "number" in a schema does not say."""
    values = [holder.get(key) if isinstance(holder, dict) else holder[key] for holder, key in places(doc)]
    return any(isinstance(value, int) and abs(value) > 2**64 for value in values)


def accepted(doc: Any) -> bool:
    try:
        parse_request(doc)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ("UserRequest", lambda extra: {"user": {}} | extra),
        ("User", lambda extra: {"user": extra}),
        ("Event", lambda extra: {"user": {"history": [{"item": "1"} | extra]}}),
        ("Candidate", lambda extra: {"user": {}, "candidates": [{"item": "1"} | extra]}),
    ],
)
def test_the_schema_lists_exactly_the_fields_the_parser_knows(schema, place):
    with pytest.raises(InputError, match="unknown field") as error:
        parse_request(place({"no such field": 1}))
    known = str(error.value).partition("known fields: ")[2].split(", ")
    assert sorted({*SCHEMAS[schema]["properties"], *(["user_id"] if schema == "UserRequest" else [])}) == known


def test_answers_and_errors_are_as_described(site):
    items = [{"item": i} for i in ("a", "b", "new-1", "mute-1")]
    for extra in ({"threshold": 0.3}, {"threshold": "ratio:1"}, {"id": 7}, {"top_k": 1}, {"explain": True}):
        answer = site.rank({"user": {}, "candidates": items} | extra).json()
        assert valid(SCHEMAS["Answer"], answer), answer
    for response in (site.rank(b"{"), site.rank({}), site.call("GET", "/x"), site.call("GET", "/v1/rank")):
        assert valid(SCHEMAS["Error"], response.json()), response.text


def test_every_reason_is_described():
    described = SCHEMAS["Scored"]["properties"]["reason"]["description"]
    assert set(re.findall(r"`(\w+)`", described)) == {form.reason for form in FORMS} | {EXPLORE, KEPT, *NoAnswer}
    assert all(reason.text in described for reason in NoAnswer)


def test_the_document_names_every_route_and_its_references_resolve(site):
    served = site.call("GET", "/openapi.json").json()
    assert served == document(site.service.limits.body_bytes)
    assert set(served["paths"]) == {route.path_format for route in site.app.routes}
    for route in site.app.routes:
        documented = {method.upper() for method in served["paths"][route.path_format] if method != "parameters"}
        assert documented == route.methods - {"HEAD"}
    for path, operations in served["paths"].items():
        for operation in operations.values():
            assert_guarded(path, operation)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(served)))
    assert references <= set(served["components"]["schemas"])


def assert_guarded(path: str, operation: dict[str, Any]) -> None:
    scope = scope_of(path)
    if scope is None:
        assert "security" not in operation
        return
    assert operation["security"] == [{}, {"bearer": [scope]}, {"X-Api-Key": [scope]}]
    assert operation["responses"].keys() >= {"200", "401", "403", "429", "431", "503"}


def test_an_operations_own_refusals_stay_as_they_are(site):
    paths = site.call("GET", "/openapi.json").json()["paths"]
    forms = {code: str(found) for code, found in paths["/v2/models/{model}/infer"]["post"]["responses"].items()}
    assert ("OipError" in forms["503"], "OipError" in forms["401"]) == (True, False)
    assert paths["/v1/rank"]["post"]["responses"]["503"]["description"].startswith("Loading")
