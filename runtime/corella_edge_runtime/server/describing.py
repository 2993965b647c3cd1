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


def fields(properties: Json, required: list[str], description: str = "") -> Json:
    """An object with these fields and no others."""
    about = {"description": description} if description else {}
    return {
        "type": "object", **about, "properties": properties, "required": required, "additionalProperties": False,
    }  # fmt: skip
