"""The OpenAPI 3.1 description, as plain data.

`corella_edge.request.parse_request` is the one validator; a test generates documents from these schemas and
holds the two against each other, so that the description can not drift from the code.
"""

from __future__ import annotations

from typing import Any

from corella_edge import __version__
from corella_edge.history import MAX_TIME
from corella_edge.request import (
    MAX_CANDIDATES,
    MAX_FEATURES,
    MAX_HISTORY,
    MAX_ID_CHARS,
    MAX_TEXT_CHARS,
    MAX_TIMEOUT_MS,
    MAX_VALUES,
)
from corella_edge.router import LN2
from corella_edge_runtime.server import admin_openapi, page_openapi, score_openapi, users_openapi
from corella_edge_runtime.server.access import scope_of
from corella_edge_runtime.server.oip import openapi as oip_openapi

Json = dict[str, Any]
PARTS = (
    score_openapi,
    users_openapi,
    oip_openapi,
    admin_openapi,
    page_openapi,
)  # modules that describe the routes of one group


def document(body_bytes: int) -> Json:
    """The description of a server that accepts bodies up to `body_bytes`."""
    paths = {
        "/v1/rank": {"post": _rank(body_bytes)},
        "/v2/health/live": {"get": _health("live", "The process answers.", {})},
        "/v2/health/ready": {
            "get": _health("ready", "Send traffic here.", {"503": _not_ready()}),
        },
        "/metrics": {"get": _metrics()},
        "/openapi.json": {"get": _plain("openapi", "This description.")},
        **{path: operations for part in PARTS for path, operations in part.paths().items()},
    }
    schemas = SCHEMAS | {name: found for part in PARTS for name, found in part.schemas().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "corella-edge",
            "version": __version__,
            "description": "Scores candidates with a small CRM; asks a small LLM about the uncertain ones.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            path: {method: _guarded(operation, scope_of(path)) for method, operation in operations.items()}
            for path, operations in paths.items()
        },
        "components": {"schemas": schemas, "securitySchemes": _SCHEMES},
    }


def _guarded(operation: Json, scope: str | None) -> Json:
    """With who may ask for it, and with what the guard and the connection answer before the route is asked."""
    if scope is None:
        return operation
    # The empty one: a server without keys wants none.
    security = [{}, *({scheme: [scope]} for scheme in _SCHEMES)]
    return {**operation, "security": security, "responses": _refusals() | operation["responses"]}


def _refusals() -> Json:
    later = {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}
    return {
        "401": _failure("An API key is needed, or the one given is not valid.")
        | {"headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}},
        "403": _failure("The API key lacks the scope; or, without keys, this caller may not ask."),
        "429": _failure("The API key is at its limit: come back after `Retry-After` seconds.") | later,
        "431": _failure("The head of the request is too large."),
        "503": _failure("Too many connections are open.") | later,
    }


_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the server has keys."},
    "X-Api-Key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same, in this header."},
}


def _rank(body_bytes: int) -> Json:
    return {
        "operationId": "rank",
        "summary": "Score and rank candidates for one user.",
        "parameters": [_MODE],
        "requestBody": {"required": True, "content": _json_of("Request")},
        "responses": {
            "200": {
                "description": "Candidates in request order. Progressive: the events `crm` and `final` (or `error`), "
                "the data of each an answer.",
                "content": {**_json_of("Answer"), "text/event-stream": {"schema": {}}},
                "headers": {"Server-Timing": {"schema": {"type": "string"}}},
            },
            "400": _failure("The body is not strict JSON in UTF-8, or not the gzip that it says it is."),
            "408": _failure("The body did not arrive in time."),
            "413": _failure(f"The body is larger than {body_bytes} bytes, as it came or unpacked."),
            "415": _failure("The body is packed otherwise than by gzip."),
            "422": _failure("The body is JSON, but not a request that this bundle can answer."),
            "500": _failure("A fault of the server; its log says where."),
            "503": _failure("Loading, stopping, or full: come back after `Retry-After` seconds.")
            | {"headers": {"Retry-After": {"schema": {"type": "integer"}}}},
            "504": _failure("The request is strict, and the LLM did not answer in time."),
        },
    }


_MODE: Json = {
    "name": "mode",
    "in": "query",
    "description": "Progressive: server-sent events, first the CRM's ranking, then the refined one.",
    "schema": {"type": "string", "enum": ["plain", "progressive"], "default": "plain"},
}


def _json_of(schema: str) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _failure(description: str) -> Json:
    return {"description": description, "content": _json_of("Error")}


def _health(name: str, summary: str, others: Json) -> Json:
    schema = {"type": "object", "required": [name], "properties": {name: {"type": "boolean"}}}
    yes = {"description": "Yes.", "content": {"application/json": {"schema": schema}}}
    return {"operationId": name, "summary": summary, "responses": {"200": yes, **others}}


def _not_ready() -> Json:
    schema = {"type": "object", "required": ["ready"], "properties": {"ready": {"const": False}}}
    return {"description": "Loading or stopping.", "content": {"application/json": {"schema": schema}}}


def _metrics() -> Json:
    text = {"schema": {"type": "string"}}
    content = {"text/plain": text, "application/openmetrics-text": text}
    yes = {"description": "Prometheus text form, or OpenMetrics if accepted.", "content": content}
    return {"operationId": "metrics", "summary": "Counters for Prometheus.", "responses": {"200": yes}}


def _plain(name: str, summary: str) -> Json:
    yes = {"description": summary, "content": {"application/json": {"schema": {"type": "object"}}}}
    return {"operationId": name, "summary": summary, "responses": {"200": yes}}


def _object(properties: Json, required: list[str], description: str = "") -> Json:
    about = {"description": description} if description else {}
    return {
        "type": "object", **about, "properties": properties, "required": required,
        "additionalProperties": False,
    }  # fmt: skip


_ID: Json = {
    "description": "Text, or an integer (written without a fraction: 7, not 7.0), read as its decimal digits.",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
        {"type": "integer", "exclusiveMinimum": -(2**64), "exclusiveMaximum": 2**64},
    ],
}
_OPTIONAL_ID: Json = {"anyOf": [*_ID["anyOf"], {"type": "null"}]}
_SCALAR: Json = {"type": ["string", "number", "boolean", "null"], "maxLength": MAX_TEXT_CHARS}
_FEATURES: Json = {
    "description": "By field name; several values as a list. Fields the bundle does not know are ignored.",
    "type": ["object", "null"],
    "maxProperties": MAX_FEATURES,
    "additionalProperties": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "maxItems": MAX_VALUES}]},
}
_THRESHOLD: Json = {
    "description": "Ask the LLM from this entropy (nats) on, or about this share: `ratio:0.05`. "
    "Left out: the server's own.",
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": LN2},
        {"type": "string", "pattern": "^ratio:(0|1|0\\.[0-9]{1,9})$"},
        {"type": "null"},
    ],
}
_PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_OPTIONS: Json = {
    "id": _OPTIONAL_ID | {"description": "Repeated in the answer."},
    "candidates": {
        "description": "Left out: the whole catalogue.",
        "type": ["array", "null"],
        "minItems": 1,
        "maxItems": MAX_CANDIDATES,
        "items": _ref("Candidate"),
    },
    "threshold": _THRESHOLD,
    "top_k": {
        "description": "Answer with this many of the best only.",
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": 2**31,
    },
    "timeout_ms": {
        "description": "Time for the LLM, from the arrival of the whole body; candidates without an answer "
        "by then keep the CRM's score and have the reason `deadline`.",
        "type": ["number", "null"],
        "minimum": 0,
        "maximum": MAX_TIMEOUT_MS,
    },
    "explain": {
        "description": "Answer with more: threshold, the CRM's own rank, tokens, milliseconds.",
        "type": ["boolean", "null"],
    },
    "strict": {
        "description": "Fail where the LLM does not answer all it is asked in time (503, 504), and on features that no "
        "model reads or what would be told in `notes`, but for an order that is put right (422).",
        "type": ["boolean", "null"],
    },
}

SCHEMAS: Json = {
    "Request": {"anyOf": [_ref("UserRequest"), _ref("UserIdRequest")]},
    "UserRequest": _object({"user": _ref("User"), **_OPTIONS}, ["user"]),
    "UserIdRequest": _object(
        {"user_id": _ID, **_OPTIONS},
        ["user_id"],
        "The same as `user` with an id alone: a server with a store fills in profile and history.",
    ),
    "User": _object(
        {
            "id": _OPTIONAL_ID,
            "features": _FEATURES,
            "history": {
                "description": "Oldest first. Where all have a time, another order is put right, and told.",
                "type": ["array", "null"],
                "maxItems": MAX_HISTORY,
                "items": _ref("Event"),
            },
        },
        [],
        "Unknown users and items are scored too, and flagged in the answer.",
    ),
    "Event": _object(
        {
            "item": _ID,
            "rating": {"type": ["number", "null"], "minimum": -1e6, "maximum": 1e6},
            "time": {
                "description": "Unix time in seconds, before the year 2100; other units are refused.",
                "type": ["number", "null"],
                "minimum": -MAX_TIME,
                "maximum": MAX_TIME,
            },
        },
        ["item"],
    ),
    "Candidate": _object(
        {"item": _ID, "features": _FEATURES},
        ["item"],
        "Features (title, attributes) override the catalogue's; a new item needs them to be put to the LLM.",
    ),
    "Answer": _object(
        {
            "id": {"type": "string"},
            "bundle": {"description": "`name@version` of what answered.", "type": "string"},
            "candidates": {"type": "array", "items": _ref("Scored")},
            "notes": {
                "description": "What was odd about the numbers of the history, and put right if possible, a sentence "
                "each; absent if nothing was.",
                "type": "array",
                "items": {"type": "string"},
                "minItems": 1,
            },
            "explain": _ref("Explanation"),
        },
        ["bundle", "candidates"],
    ),
    "Scored": _object(
        {
            "item": {"type": "string"},
            "rank": {"description": "1 is best.", "type": "integer", "minimum": 1},
            "probability": _PROBABILITY
            | {"description": "By the bundle's fusion rule (without one the LLM's) where `routed`, else the CRM's."},
            "crm": _PROBABILITY,
            "llm": {**_PROBABILITY, "type": ["number", "null"]},
            "entropy": {"description": "Of `crm`, in nats.", "type": "number", "minimum": 0, "maximum": LN2},
            "routed": {"type": "boolean"},
            "reason": {
                "description": "Why it was routed (`entropy`, `ratio`) or why the LLM did not answer "
                "(`no_llm`, `no_text`, `too_long`, `queue_full`, `busy`, `deadline`, `llm_error`; `pending` in the "
                "first of two answers); empty for easy candidates.",
                "type": "string",
            },
            "unknown": {
                "description": "Fields whose value the CRM has never seen.",
                "type": "array",
                "items": {"type": "string"},
            },
            "crm_rank": {"description": "Rank by the CRM alone, if `explain`.", "type": "integer", "minimum": 1},
        },
        ["item", "rank", "probability", "crm", "llm", "entropy", "routed", "reason", "unknown"],
    ),
    "Explanation": _object(
        {
            "threshold": {"description": "Nats; null: never asked.", "type": ["number", "null"]},
            "wanted": {"description": "Candidates at or above it.", "type": "integer"},
            "routed": {"description": "Those in which the LLM's score counts.", "type": "integer"},
            "tokens": _object({"evaluated": {"type": "integer"}, "reused": {"type": "integer"}}, []),
            "milliseconds": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        ["threshold", "wanted", "routed", "tokens", "milliseconds"],
    ),
    "Error": _object(
        {"error": _object({"message": {"type": "string"}}, ["message"])},
        ["error"],
    ),
}
