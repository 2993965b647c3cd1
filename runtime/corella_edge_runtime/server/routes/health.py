"""What the server says of itself: health and metrics."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge_runtime.server.answers import json_answer
from corella_edge_runtime.server.describing import TEXT, Described, Json, answer, operation
from corella_edge_runtime.server.service import Service


def routes(service: Service) -> list[Route]:
    told = _Health(service)
    return [
        Route("/v2/health/live", told.live),
        Route("/v2/health/ready", told.ready),
        Route("/metrics", told.metrics),
    ]


class _Health:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def live(self, _: Request) -> Response:
        return json_answer({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self.service.ready
        return json_answer({"ready": ready}, status=200 if ready else 503)

    def metrics(self, request: Request) -> Response:
        # Not `async`: it asks the engine for its totals, which may wait for a lock.
        text, content_type = self.service.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})


def _flag(name: str, schema: Json) -> Json:
    return {"type": "object", "required": [name], "properties": {name: schema}}


_TOTALS: Json = {
    "description": "Prometheus text form, or OpenMetrics if accepted.",
    "content": {"text/plain": TEXT, "application/openmetrics-text": TEXT},
}
_YES = {"type": "boolean"}
OPENAPI = Described(
    {
        "/v2/health/live": {
            "get": operation("live", "The process answers.", {"200": answer("Yes.", _flag("live", _YES))})
        },
        "/v2/health/ready": {
            "get": operation(
                "ready",
                "Send traffic here.",
                {
                    "200": answer("Yes.", _flag("ready", _YES)),
                    "503": answer("Loading or stopping.", _flag("ready", {"const": False})),
                },
            )
        },
        "/metrics": {"get": operation("metrics", "Counters for Prometheus.", {"200": _TOTALS})},
    }
)
