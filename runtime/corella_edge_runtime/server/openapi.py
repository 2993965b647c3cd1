"""The OpenAPI 3.1 description: paths as plain data, messages from the types that read and write them.

A test generates documents from the schemas and holds them against the parser.
"""

from __future__ import annotations

from typing import Any

from corella_edge import __version__
from corella_edge.request_message import UserIdRequest, UserRequest
from corella_edge.scores import Answer
from corella_edge_runtime.server.answers import Error
from corella_edge_runtime.server.describing import components, ref
from corella_edge_runtime.server.guard.access import scope_of
from corella_edge_runtime.server.routes import admin_openapi, page_openapi, score_openapi, users_openapi
from corella_edge_runtime.server.routes.oip import openapi as oip_openapi

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


def _schemas() -> Json:
    """Of requests and their answers, from the types that read and write them."""
    either = {"anyOf": [ref("UserRequest"), ref("UserIdRequest")]}
    return {"Request": either, **components(UserRequest, UserIdRequest, Answer, Error)}


SCHEMAS = _schemas()
