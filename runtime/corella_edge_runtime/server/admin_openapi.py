"""The OpenAPI description of the admin routes."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    refusal = {"description": "One bundle is served, which does not change.", "content": _content(_ref("Error"))}
    return {
        "/admin/deployment": {
            "get": _operation("deployment", "Which versions are loaded, for what share of the users, and since when."),
        },
        "/admin/reload": {
            "post": _operation(
                "reload",
                "Read the site's deployment.json now and try again what was refused; answers when that is done.",
                {"409": refusal},
            ),
        },
    }


def schemas() -> Json:
    """What `paths` refers to, beside the `Error` of every route."""
    return {"Deployment": _DEPLOYMENT, "LoadedVersion": _VERSION}


def _operation(name: str, summary: str, others: Json | None = None) -> Json:
    found = {"description": "What is served.", "content": _content(_ref("Deployment"))}
    return {"operationId": name, "summary": summary, "responses": {"200": found, **(others or {})}}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_TEXT: Json = {"type": "string"}
_TIME: Json = {"type": "string", "format": "date-time"}
_SHARE: Json = {"description": "Share of the users who get it.", "type": "number", "minimum": 0, "maximum": 1}
_OPTIONAL: Json = {"anyOf": [_ref("LoadedVersion"), {"type": "null"}]}
_VERSION: Json = _object(
    {
        "version": {"description": "The site's id of it, or `name@version` of a bundle.", **_TEXT},
        "bundle": {"description": "`name@version`, as in answers.", **_TEXT},
        "since": _TIME,
        "share": _SHARE,
        "in_flight": {"type": "integer", "minimum": 0},
    }
)
_REFUSED: Json = _object(
    {
        "version": _TEXT,
        "serial": {"description": "Of the deployment that named it.", "type": "integer", "minimum": 0},
        "at": _TIME,
        "reason": _TEXT,
    }
)
_DEPLOYMENT: Json = _object(
    {
        "site": {"description": "Whether a site is followed.", "type": "boolean"},
        "serial": {"description": "Of the deployment dealt with last.", "type": ["integer", "null"], "minimum": 0},
        "loading": {"description": "Whether a version is being loaded.", "type": "boolean"},
        "live": _OPTIONAL,
        "canary": _OPTIONAL,
        "ending": {
            "description": "Versions that finish the requests they began.",
            "type": "array",
            "items": _ref("LoadedVersion"),
        },
        "refused": {
            "description": "What is asked for and could not be loaded.",
            "anyOf": [_REFUSED, {"type": "null"}],
        },
    }
)
