"""The page at `/` for people: its files, and the data they ask for. docs/serve.md shows it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge import __version__
from corella_edge.errors import InputError
from corella_edge_runtime.server.answers import json_answer
from corella_edge_runtime.server.routes.page_openapi import MOST_ITEMS, MOST_SEED, MOST_USERS, QUERY_CHARS
from corella_edge_runtime.server.service import NotReadyError, Service

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Own files and own requests only; and no text becomes markup or script, whatever a title holds.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
PATHS = ("/v1/rank", "/v1/score", "/v1/events", "/v2", "/v2/health/live", "/v2/health/ready", "/metrics",
         "/openapi.json")  # fmt: skip
LLM_NOW = ("queued_tokens", "tokens_per_second", "restarts", "breaker_open")


def routes(service: Service) -> list[Route]:
    """`/`, the page's data, and its files. The files are open; the data is for who may rank."""
    data, files = _Data(service), _Files()
    return [
        Route("/", _Index(service, files).answer),
        Route("/page/items", data.items),
        Route("/page/users", data.users),
        Route("/page/user", data.user),
        Route("/page/curve", data.curve),
        Route("/page/live", data.live),
        Route("/page/{file}", files.answer),
    ]


class _Files:
    """The page's files, by name."""

    def __init__(self) -> None:
        self.files = {path.name: File(path) for path in FOLDER.iterdir() if path.suffix in TYPES}

    async def answer(self, request: Request) -> Response:
        file = self.files.get(request.path_params["file"])
        if file is None:
            raise HTTPException(404)
        return file.answer(request)


class File:
    """A file of the page, held in memory; browsers ask again each time and are told "unchanged" by its hash."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'
        self.headers = {
            "Content-Type": f"{TYPES[path.suffix]}; charset=utf-8",
            "ETag": self.tag,
            "Cache-Control": "no-cache",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }

    def answer(self, request: Request) -> Response:
        if self.tag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, headers=self.headers)


def _tags(header: str) -> list[str]:
    """The tags of an If-None-Match header; a proxy that compresses marks them as weak."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


class _Index:
    """`/`: the page for browsers, what is served here for programs."""

    def __init__(self, service: Service, files: _Files) -> None:
        self.service, self.html = service, files.files["index.html"]

    async def answer(self, request: Request) -> Response:
        page = wants_html(request.headers.get("accept", ""))
        response = self.html.answer(request) if page else json_answer(self._index())
        response.headers["Vary"] = "Accept"
        return response

    def _index(self) -> dict[str, Any]:
        ranker = self.service.ranker
        return {"name": "corella-edge", "version": __version__, "bundle": ranker.name if ranker else None,
                "warnings": list(ranker.warnings) if ranker else [], "paths": PATHS}  # fmt: skip


def wants_html(accept: str) -> bool:
    """Whether an Accept header names text/html and does not prefer JSON to it. `*/*` alone means JSON."""
    weights = dict(_weight(part) for part in accept.split(","))
    html = weights.get("text/html", 0.0)
    return html > 0.0 and html >= weights.get("application/json", 0.0)


def _weight(part: str) -> tuple[str, float]:
    """A media type and its q; one that is no number counts as 0."""
    kind, *parameters = part.lower().split(";")
    found = [value for name, _, value in (p.strip().partition("=") for p in parameters) if name == "q"]
    try:
        return kind.strip(), float(found[0]) if found else 1.0
    except ValueError:
        return kind.strip(), 0.0


class _Data:
    """What the page shows of the live version, which stays loaded meanwhile; reading and searching hold no loop up."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def items(self, request: Request) -> Response:
        query, count = _query(request), _whole(request, "count", 24, 1, MOST_ITEMS)
        seed = _whole(request, "seed", 0, 0, MOST_SEED)
        return await self._shown(lambda ranker: ranker.showcase.items(query, count, seed))

    async def users(self, request: Request) -> Response:
        query, count = _query(request), _whole(request, "count", 50, 1, MOST_USERS)
        stored = {"stored": self.service.store is not None}
        return await self._shown(lambda ranker: {**ranker.showcase.users(query, count), **stored})

    async def user(self, request: Request) -> Response:
        name = request.query_params.get("id", "")
        return await self._shown(lambda ranker: _known(ranker, name))

    async def curve(self, _: Request) -> Response:
        return await self._shown(lambda ranker: {**ranker.showcase.curve(), "target": _target(ranker)})

    async def live(self, _: Request) -> Response:
        fleet = self.service.fleet
        versions = [(fleet.live, 1.0 - fleet.share), (fleet.canary, fleet.share)]
        shares = [{"bundle": member.label, "share": share} for member, share in versions if member]
        return await self._shown(lambda ranker: {
            "bundle": ranker.name, "versions": shares, "in_flight": self.service.in_flight,
            "llm": _llm(ranker.stats()), "target": _target(ranker), **self.service.recent.summary(),
        })  # fmt: skip

    async def _shown(self, look: Callable[[Engine], dict[str, Any]]) -> Response:
        live = self.service.fleet.live
        if live is None:
            raise NotReadyError("the bundle is still loading")
        with self.service.fleet.kept(live):
            loop = asyncio.get_running_loop()
            return json_answer(await loop.run_in_executor(self.service.pool, look, live.ranker))


def _known(ranker: Engine, name: str) -> dict[str, Any]:
    found = ranker.showcase.user(name)
    if found is None:
        raise InputError(f"id: {name[:80]!r} is no user of the bundle's sample")
    return found


def _llm(stats: Mapping[str, float]) -> dict[str, float] | None:
    """How the LLM fares; None where there is none."""
    return {name: stats[name] for name in LLM_NOW if name in stats} or None


def _target(ranker: Engine) -> dict[str, Any] | None:
    """What is held, and how well; None where nothing is."""
    return ranker.control.shown() if ranker.control else None


def _query(request: Request) -> str:
    text = request.query_params.get("q", "")
    if len(text) > QUERY_CHARS:
        raise InputError(f"q: {len(text)} characters, at most {QUERY_CHARS} are searched for")
    return text


def _whole(request: Request, name: str, usual: int, low: int, high: int) -> int:
    """A whole number of the query string."""
    text = request.query_params.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise InputError(f"{name}: {text[:20]!r} is not a whole number from {low} to {high}")
    return int(text)
