"""What the server says of itself: health, metrics, the OpenAPI description."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge_runtime.server.answers import json_answer
from corella_edge_runtime.server.openapi import document
from corella_edge_runtime.server.service import Service


def routes(service: Service) -> list[Route]:
    told = _Health(service)
    return [
        Route("/v2/health/live", told.live),
        Route("/v2/health/ready", told.ready),
        Route("/metrics", told.metrics),
        Route("/openapi.json", told.openapi),
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

    async def openapi(self, _: Request) -> Response:
        return json_answer(document(self.service.limits.body_bytes))
