"""The OpenAPI description of the admin routes."""

from __future__ import annotations

from corella_edge_runtime.server.answers import Deployment
from corella_edge_runtime.server.describing import Json, answer, components, ref


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    refusal = answer("One bundle is served, which does not change.", ref("Error"))
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
    return components(Deployment)


def _operation(name: str, summary: str, others: Json | None = None) -> Json:
    found = answer("What is served.", ref("Deployment"))
    return {"operationId": name, "summary": summary, "responses": {"200": found, **(others or {})}}
