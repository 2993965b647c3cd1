"""The part of JSON Schema that the OpenAPI description uses: whether a value fits, and values that do."""

from __future__ import annotations

import math
import re
from functools import reduce
from operator import getitem
from typing import Any

from hypothesis import strategies as st

from corella_edge_runtime.server.openapi import document

SCHEMAS = document(0)["components"]["schemas"]
Schema = dict[str, Any]
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def resolve(schema: Schema) -> Schema:
    return reduce(getitem, schema["$ref"].split("/")[3:], SCHEMAS) if "$ref" in schema else schema


def types_of(schema: Schema) -> list[str]:
    kinds = schema["type"]
    return kinds if isinstance(kinds, list) else [kinds]


def valid(schema: Schema, value: object) -> bool:
    """The part of JSON Schema that the description uses; an unused keyword would be a KeyError elsewhere."""
    schema = resolve(schema)
    if not schema:
        return True
    if "anyOf" in schema:
        return any(valid(option, value) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        options = schema.get("enum", [schema.get("const")])
        return any(type(option) is type(value) and option == value for option in options)
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
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    return st.one_of([documents_of(kind, schema) for kind in types_of(schema)])


def documents_of(kind: str, schema: Schema) -> st.SearchStrategy[Any]:
    if kind == "object":
        return objects(schema)
    if kind == "array":
        least = schema.get("minItems", 0)
        most = min(least + 2, schema.get("maxItems", least + 2))
        return st.lists(documents(schema["items"]), min_size=least, max_size=most)
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
