"""Pieces of an OpenAPI description that several groups of routes use."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def ref(name: str) -> Json:
    """A schema of the document, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Json) -> Json:
    """A body in JSON."""
    return {"application/json": {"schema": schema}}


def answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": json_of(schema)}


def later(description: str, schema: Json) -> Json:
    """An answer that says when to come back."""
    return answer(description, schema) | {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}


def hints(properties: Json, required: list[str], description: str = "") -> Json:
    """An object with these fields, any of which may be null unless it is required, and others that are passed over."""
    optional = {name: entry if name in required else or_null(entry) for name, entry in properties.items()}
    return fields(optional, required, description) | {"additionalProperties": {}}


def or_null(schema: Json) -> Json:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def fields(properties: Json, required: list[str], description: str = "") -> Json:
    """An object with these fields and no others."""
    about = {"description": description} if description else {}
    return {
        "type": "object", **about, "properties": properties, "required": required, "additionalProperties": False,
    }  # fmt: skip
