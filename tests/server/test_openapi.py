"""`/openapi.json` against `parse_request`: the description and the one validator say the same."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.request import parse_request
from corella_edge.router import Calibration, parse_threshold
from corella_edge_runtime.server.openapi import SCHEMAS, document

Schema = dict[str, Any]
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def resolve(schema: Schema) -> Schema:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def types_of(schema: Schema) -> list[str]:
    kinds = schema["type"]
    return kinds if isinstance(kinds, list) else [kinds]


def valid(schema: Schema, value: object) -> bool:
    """The part of JSON Schema that the description uses; an unused keyword would be a KeyError elsewhere."""
    schema = resolve(schema)
    if "anyOf" in schema:
        return any(valid(option, value) for option in schema["anyOf"])
    kinds = [kind for kind in types_of(schema) if isinstance(value, TYPES[kind])]
    if not kinds or (isinstance(value, bool) and "boolean" not in kinds):
        return False
    if isinstance(value, dict):
        return valid_object(schema, value)
    if isinstance(value, list):
        sized = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        return sized and all(valid(schema["items"], entry) for entry in value)
    if isinstance(value, str):
        sized = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
        return sized and re.search(schema.get("pattern", ""), value) is not None
    return valid_number(schema, value)


def valid_object(schema: Schema, value: dict[str, Any]) -> bool:
    known, rest = schema.get("properties", {}), schema["additionalProperties"]
    if not set(schema.get("required", [])) <= value.keys() or len(value) > schema.get("maxProperties", math.inf):
        return False
    if rest is False and not value.keys() <= known.keys():
        return False
    return all(valid(known.get(name, rest), entry) for name, entry in value.items())


def valid_number(schema: Schema, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return low <= value <= high and above < value < below


def documents(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that `schema` allows."""
    schema = resolve(schema)
    if "anyOf" in schema:
        return st.one_of([documents(option) for option in schema["anyOf"]])
    return st.one_of([documents_of(kind, schema) for kind in types_of(schema)])


def documents_of(kind: str, schema: Schema) -> st.SearchStrategy[Any]:
    if kind == "object":
        return objects(schema)
    if kind == "array":
        least = schema.get("minItems", 0)
        return st.lists(documents(schema["items"]), min_size=least, max_size=least + 2)
    if kind == "string" and "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    if kind == "string":
        characters = st.characters(exclude_categories=["Cs"])
        return st.text(characters, min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 30), 256))
    if kind == "null":
        return st.none()
    return numbers(kind, schema)


def numbers(kind: str, schema: Schema) -> st.SearchStrategy[Any]:
    if kind == "boolean":
        return st.booleans()
    low = schema.get("minimum", schema.get("exclusiveMinimum", -(2**63)) + ("exclusiveMinimum" in schema))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2**63) - ("exclusiveMaximum" in schema))
    if kind == "integer":
        return st.integers(low, high)
    return st.one_of(st.floats(low, high), st.integers(math.ceil(low), math.floor(high)))


def objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema:
        names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        return st.dictionaries(names, documents(schema["additionalProperties"]), max_size=2)
    fields = {name: documents(entry) for name, entry in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(required, optional=fields)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents(SCHEMAS["Request"]))
def test_whatever_the_schema_allows_is_accepted(doc):
    assert valid(SCHEMAS["Request"], doc)
    request = parse_request(doc)
    if request.threshold is not None:
        parse_threshold(request.threshold, Calibration([0.0, 0.5, 1.0], [0.7, 0.5, 0.0]))


ODD_SCALARS = [None, True, -1, 0, 1, 2**64, 2**70, 0.5, 1e7, 1e16, "", "x", "x" * 257]
LARGE = [["x"] * 1025, ["x"] * 1024, "x" * 16_385, "x" * 16_384, {str(i): 1 for i in range(257)}]
ODD = [*ODD_SCALARS, [], [1], [[1]], {}, {"item": "1"}, {"x": {}}, *LARGE]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents(SCHEMAS["Request"]), st.data())
def test_schema_and_parser_judge_damaged_documents_alike(doc, data):
    doc = copy.deepcopy(doc)
    doc.pop("threshold", None)  # judged by the bundle, which knows its calibration
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


def test_the_document_names_every_route_and_its_references_resolve(site):
    served = site.call("GET", "/openapi.json").json()
    assert served == document(site.service.limits.body_bytes)
    assert set(served["paths"]) == {route.path for route in site.app.routes}
    for route in site.app.routes:
        documented = {method.upper() for method in served["paths"][route.path]}
        assert documented == route.methods - {"HEAD"}
    references = set(re.findall(r"#/components/schemas/(\w+)", str(served)))
    assert references <= set(served["components"]["schemas"])
