"""Pieces of the OpenAPI description. Each group of routes has its own part of it, `OPENAPI`, beside its code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"
_READ = "Message"  # the end of the name of a type that a message is read as, where another has its name


def components(*messages: Any) -> Json:
    """Schemas of the types of messages, and of those in them, by name."""
    _, found = msgspec.json.schema_components(messages, ref_template=_REFERENCE)
    return {_named(name): _renamed(schema) for name, schema in found.items()}


def _named(name: str) -> str:
    return name.removesuffix(_READ) or name


def _renamed(schema: Any) -> Any:
    """With the names that clients see, in references too, and no titles, which would say them again."""
    if isinstance(schema, list):
        return [_renamed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {**schema, "$ref": ref(_named(schema["$ref"].rpartition("/")[2]))["$ref"]}
    return {name: _renamed(entry) for name, entry in schema.items() if name != "title" or isinstance(entry, dict)}


@dataclass(frozen=True, slots=True)
class Described:
    """A group's part of the description.

    Attributes:
        paths: path → method → operation.
        messages: types whose schemas the operations refer to.
        schemas: those that no type has, by name.
    """

    paths: Json
    messages: tuple[Any, ...] = ()
    schemas: Json = field(default_factory=dict)


def operation(name: str, summary: str, answers: Json, **others: Any) -> Json:
    """One operation: its answers by status, and what else is given of `parameters` and `requestBody`."""
    return {"operationId": name, "summary": summary, **others, "responses": answers}


def body_of(schema: str) -> Json:
    """A body in JSON that must be there."""
    return {"required": True, "content": json_of(ref(schema))}


def ref(name: str) -> Json:
    """A schema of the document, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


ERROR = ref("Error")
TEXT: Json = {"schema": {"type": "string"}}
NOT_JSON = "The body is not strict JSON in UTF-8, or not the gzip that it says it is."


def json_of(schema: Json) -> Json:
    """A body in JSON."""
    return {"application/json": {"schema": schema}}


def answer(description: str, schema: Json = ERROR) -> Json:
    return {"description": description, "content": json_of(schema)}


def later(description: str, schema: Json = ERROR) -> Json:
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
