"""The routes of the Open Inference Protocol. Its errors are `{"error": "…"}`, and 400 where our own would be 422."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge import __version__
from corella_edge.errors import InputError
from corella_edge.formats.strict_json import decode
from corella_edge.request import Request as RankRequest
from corella_edge_runtime.server.answers import JSON
from corella_edge_runtime.server.bodies import arrived, read_body, read_bytes
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.guard.limits import INLINE_BYTES
from corella_edge_runtime.server.routes.oip import models
from corella_edge_runtime.server.routes.oip.models import ALWAYS, EXTENSIONS, INPUTS, MODELS, OfferedModel
from corella_edge_runtime.server.routes.oip.tensors import LENGTH_HEADER, Inference, a_flag, given, read, write
from corella_edge_runtime.server.routes.rank import CLIENT_GONE
from corella_edge_runtime.server.service import NotReadyError, Ranked, Service, large

Handler = Callable[[Request], Awaitable[Response]]
BINARY = "application/octet-stream"


def routes(service: Service) -> list[Route]:
    """All but the health checks, which are not this protocol's alone."""
    api = _Api(service)
    found = [
        Route("/v2", _protocol(api.server)),
        Route("/v2/repository/index", _protocol(api.index), methods=["POST"]),
    ]
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found += [
            Route(path, _protocol(api.metadata)),
            Route(f"{path}/ready", _protocol(api.ready)),
            Route(f"{path}/config", _protocol(api.config)),
            Route(f"{path}/infer", _protocol(api.infer), methods=["POST"]),
        ]
    return found


def _protocol(handler: Handler) -> Handler:
    """The handler, with the protocol's form of errors."""

    @wraps(handler)
    async def handled(request: Request) -> Response:
        try:
            return await handler(request)
        except InputError as error:
            return _answer({"error": str(error)}, 400)
        except NotReadyError as error:
            return _answer({"error": str(error)}, 503, {"Retry-After": "1"})
        except HTTPException as error:
            return _answer({"error": error.detail}, error.status_code, error.headers)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)

    return handled


class _Api:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def server(self, _: Request) -> Response:
        return _answer({"name": "corella-edge", "version": __version__, "extensions": list(EXTENSIONS)})

    async def index(self, http: Request) -> Response:
        """Triton's list of models; `{"ready": true}` leaves out those that are not."""
        body = await read_body(http, self.service.limits)
        wanted = given(decode(body), "body") if body.strip() else {}
        ready = a_flag(wanted.get("ready", False), "ready")
        found = [self._entry(model) for model in MODELS.values()]
        return _answer([entry for entry in found if entry["state"] == "READY" or not ready])

    async def metadata(self, http: Request) -> Response:
        return _answer(models.metadata(*self._asked(http)))

    async def config(self, http: Request) -> Response:
        return _answer(models.config(self._asked(http)[0]))

    async def ready(self, http: Request) -> Response:
        model = _model(http)
        why = self._unready(model)
        if why:
            return _answer({"name": model.name, "ready": False, "error": why}, 503, {"Retry-After": "1"})
        self._asked(http)
        return _answer({"name": model.name, "ready": True})

    async def infer(self, http: Request) -> Response:
        model, _ = self._asked(http)
        self.service.check_ready()
        body = await read_bytes(http, self.service.limits)
        with self.service.place():
            return await self._inferred(http, model, body)

    async def _inferred(self, http: Request, model: OfferedModel, body: bytes) -> Response:
        clock = Clock(arrived(http))
        header = http.headers.get(LENGTH_HEADER)
        heavy = len(body) > INLINE_BYTES
        inference, request = await self.service.work(heavy, clock, "parse", _parsed, model, body, header)
        ranked = await self.service.ranked(request, clock, http.receive)
        _check_version(http, _version(ranked.bundle))
        wanted = models.to_tensors(model, inference, ranked.scores)
        head = _head(model, inference, request, ranked)
        content, length = await self.service.work(large(request), clock, "serialise", write, head, wanted)
        headers = {"Server-Timing": clock.header(ranked.scores.trace)}
        if length is None:
            return Response(content, headers=headers, media_type=JSON)
        return Response(content, headers={**headers, LENGTH_HEADER: str(length)}, media_type=BINARY)

    def _entry(self, model: OfferedModel) -> dict[str, Any]:
        """One line of the index."""
        ranker, why = self.service.ranker, self._unready(model)
        version = _version(ranker.name) if ranker else ""
        return {"name": model.name, "version": version, "state": "UNAVAILABLE" if why else "READY", "reason": why}

    def _unready(self, model: OfferedModel) -> str:
        """Why a model is not ready; empty if it is."""
        ranker = self.service.ranker
        if ranker is None or not self.service.ready:
            return "the server is stopping" if self.service.draining else "the bundle is still loading"
        if model.threshold != ALWAYS:
            return ""
        llm = ranker.llm
        if llm is None:
            return "the server has no LLM"
        return "" if llm.answers else "the LLM does not answer now"

    def _asked(self, http: Request) -> tuple[OfferedModel, str]:
        """The model and version of a path.

        Raises:
            HTTPException: 404, no such model or version. NotReadyError: the versions are not known yet.
        """
        model, ranker = _model(http), self.service.ranker
        if ranker is None:
            raise NotReadyError("the bundle is still loading")
        version = _version(ranker.name)
        _check_version(http, version)
        return model, version


def _model(http: Request) -> OfferedModel:
    name = http.path_params["model"]
    if name not in MODELS:
        raise HTTPException(404, f"there is no model {name[:40]!r}; known: {', '.join(MODELS)}")
    return MODELS[name]


def _check_version(http: Request, served: str) -> None:
    wanted = http.path_params.get("version", served)
    if wanted != served:
        raise HTTPException(404, f"version {wanted[:40]!r} is not served here; this is version {served!r}")


def _version(label: str) -> str:
    """Of `name@version`."""
    return label.rpartition("@")[2]


def _parsed(model: OfferedModel, body: bytes, header_length: str | None) -> tuple[Inference, RankRequest]:
    inference = read(body, header_length, INPUTS)
    return inference, models.to_request(model, inference)


def _head(model: OfferedModel, inference: Inference, request: RankRequest, ranked: Ranked) -> dict[str, Any]:
    # One that the server gives for its log of decisions is told, too.
    head: dict[str, Any] = {"id": ranked.request.id} if ranked.request.id else {}
    notes = "; ".join((*request.notes, *ranked.scores.notes))  # a parameter is one text
    told = {"parameters": {"notes": notes}} if notes else {}
    return {**head, "model_name": model.name, "model_version": _version(ranked.bundle), **told}


def _answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII escapes: an error may quote text that UTF-8 cannot carry.
    return Response(json.dumps(value).encode(), status, dict(headers or {}), JSON)
