"""The OpenAPI 3.1 description: the parts of all routes, and what is the same of several. It is served here, too.

Messages are described from the types that read and write them. A test generates documents from the schemas and holds
them against the parser.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge import __version__
from corella_edge_runtime.server.answers import Error, json_answer
from corella_edge_runtime.server.describing import TEXT, Described, Json, answer, components, later, operation
from corella_edge_runtime.server.guard.access import scope_of
from corella_edge_runtime.server.routes import admin, health, items, page_openapi, rank, score, users
from corella_edge_runtime.server.routes.oip import openapi as oip
from corella_edge_runtime.server.service import Service

_SUMMARY = "This description."
OPENAPI = Described(
    {"/openapi.json": {"get": operation("openapi", _SUMMARY, {"200": answer(_SUMMARY, {"type": "object"})})}},
    (Error,),
)
PARTS = (
    rank.OPENAPI, health.OPENAPI, OPENAPI, score.OPENAPI, users.OPENAPI, items.OPENAPI, oip.OPENAPI, admin.OPENAPI,
    page_openapi.OPENAPI,
)  # fmt: skip


def routes(service: Service) -> list[Route]:
    async def openapi(_: Request) -> Response:
        return json_answer(document(service.limits.body_bytes))

    return [Route("/openapi.json", openapi)]


def document(body_bytes: int) -> Json:
    """The description of a server that accepts bodies up to `body_bytes`."""
    paths = {path: operations for part in PARTS for path, operations in part.paths.items()}
    schemas = components(*(message for part in PARTS for message in part.messages))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "corella-edge",
            "version": __version__,
            "description": "Scores candidates with a small CRM; asks a small LLM about the uncertain ones.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            path: {
                method: _guarded(_reading(found, body_bytes), scope_of(path)) for method, found in operations.items()
            }
            for path, operations in paths.items()
        },
        "components": {
            "schemas": {name: found for part in PARTS for name, found in part.schemas.items()} | schemas,
            "securitySchemes": _SCHEMES,
        },
    }


def _reading(found: Json, body_bytes: int) -> Json:
    """With how a body is refused before it is understood: in the form of what is not understood."""
    if "requestBody" not in found:
        return found
    refusals = {
        "408": "The body did not arrive in time.",
        "413": f"The body is larger than {body_bytes} bytes, as it came or unpacked.",
        "415": "The body is packed otherwise than by gzip.",
    }
    form = found["responses"]["400"]["content"]
    responses = {status: {"description": why, "content": form} for status, why in refusals.items()}
    return {**found, "responses": responses | found["responses"]}


def _guarded(found: Json, scope: str | None) -> Json:
    """With who may ask for it, and with what the guard and the connection answer before the route is asked."""
    if scope is None:
        return found
    # The empty requirement stands for a server without keys.
    security = [{}, *({scheme: [scope]} for scheme in _SCHEMES)]
    return {**found, "security": security, "responses": _REFUSALS | found["responses"]}


_REFUSALS: Json = {
    "401": answer("An API key is needed, or the one given is not valid.") | {"headers": {"WWW-Authenticate": TEXT}},
    "403": answer("The API key lacks the scope; or, without keys, this caller may not ask."),
    "429": later("The API key is at its limit: come back after `Retry-After` seconds."),
    "431": answer("The head of the request is too large."),
    "500": answer("A fault of the server; its log says where."),
    "503": later("Too many connections are open."),
}
_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the server has keys."},
    "X-Api-Key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "The same, in this header."},
}
