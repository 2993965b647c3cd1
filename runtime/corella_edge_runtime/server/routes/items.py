"""Items without a user: `GET /v1/items/{id}/similar`, `GET /v1/popular`, and `/v1/availability`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated

import numpy as np
from msgspec import UNSET, Meta, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge.bundle.artefact import POPULAR
from corella_edge.errors import InputError, StoreError, StoreFullError
from corella_edge.messages import named
from corella_edge.selection import Stock
from corella_edge_runtime.server.answers import Label, Reply, error_answer, json_answer
from corella_edge_runtime.server.bodies import parsed, read_body
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.describing import NOT_JSON, Described, Json, answer, body_of, later, operation, ref
from corella_edge_runtime.server.guard.limits import INLINE_BYTES
from corella_edge_runtime.server.routes.ids import ANY_ID, PATH_ID, id_in_path
from corella_edge_runtime.server.routes.rank import CLIENT_GONE
from corella_edge_runtime.server.service import NotReadyError, Service
from corella_edge_runtime.slate.choose import Slates
from corella_edge_runtime.slate.popular import MOST_SIMILAR, Popular
from corella_edge_runtime.store.stock import StockChange, StockFile, StockMessage, parse_change, parse_stock

_LOG = logging.getLogger("corella_edge.serve")
_ITEMS, _SIMILAR = b"/v1/items/", b"/similar"
MOST_POPULAR = 1000


class SimilarItem(Reply, kw_only=True):
    item: str
    title: str | None
    similarity: Annotated[float, Meta(ge=0, le=1, description="1: chosen by the same users always.")]


class SimilarItems(Reply, kw_only=True):
    """The neighbours that the bundle knows, the most similar first; only what is available."""

    item: str
    bundle: Label
    similar: list[SimilarItem]


class PopularItem(Reply, kw_only=True):
    item: str
    title: str | None
    count: Annotated[int, Meta(ge=0, description="Training rows in which it was chosen.")]


class PopularItems(Reply, kw_only=True):
    """The items chosen most often in the training rows; only what is available."""

    bundle: Label
    popular: list[PopularItem]


class Availability(Reply, kw_only=True):
    """One of the two lists: the items that alone are available, or those that alone are not."""

    available: list[str] | UnsetType = UNSET
    unavailable: list[str] | UnsetType = UNSET
    unknown: Annotated[int, Meta(ge=0, description="Ids of the list that the live bundle's catalogue lacks.")] = 0


def routes(service: Service) -> list[Route]:
    items = _Items(service)
    return [
        Route(f"/v1/items/{ANY_ID}/similar", items.similar),
        Route("/v1/popular", items.popular),
        Route("/v1/availability", items.availability, methods=["GET", "PUT", "PATCH"]),
    ]


class _Items:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def similar(self, request: Request) -> Response:
        item, count = id_in_path(request, _ITEMS, _SIMILAR, of="item"), _count(request, 10, MOST_SIMILAR)
        return await self._shown(lambda slates, stock, name: _similar(slates, stock, name, item, count))

    async def popular(self, request: Request) -> Response:
        count = _count(request, 10, MOST_POPULAR)
        return await self._shown(lambda slates, stock, name: _popular(slates, stock, name, count))

    async def _shown(self, look: Callable[[Slates, Stock, str], Reply]) -> Response:
        live, stock = self.service.fleet.live, self.service.stock
        if live is None:
            raise NotReadyError("the bundle is still loading")
        given = live.ranker.slates, stock.now if stock else Stock(), live.ranker.name
        with self.service.fleet.kept(live):
            return json_answer(await asyncio.get_running_loop().run_in_executor(self.service.pool, look, *given))

    async def availability(self, request: Request) -> Response:
        stock = self._stock()
        if request.method == "GET":
            return self._told(stock.now)
        try:
            body = await read_body(request, self.service.limits)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        with self.service.place():
            return await self._kept(stock, request.method == "PUT", body)

    async def _kept(self, stock: StockFile, whole: bool, body: bytes) -> Response:
        """Answers when the file is on the disk."""
        parse = parse_stock if whole else parse_change
        found = await self.service.work(len(body) > INLINE_BYTES, Clock(), "parse", parsed, body, parse)
        keep = (lambda: stock.replace(found)) if whole else (lambda: stock.change(*found))
        try:
            now = await asyncio.get_running_loop().run_in_executor(self.service.pool, keep)
        except StoreError as error:
            _LOG.error("%s", error)
            status = 507 if isinstance(error, StoreFullError) else 503
            return error_answer(
                status, "the availability cannot be written now; the former one stays", {"Retry-After": "5"}
            )
        return self._told(now)

    def _stock(self) -> StockFile:
        if self.service.stock is None:
            raise HTTPException(501, "this server keeps no availability; it would with the option --availability FILE")
        self.service.check_ready()
        return self.service.stock

    def _told(self, stock: Stock) -> Response:
        ranker = self.service.ranker
        known = ranker.slates.catalog.row_of if ranker is not None else {}
        ids = sorted(stock.items)
        told = Availability(unknown=sum(item not in known for item in ids))
        if stock.only:
            told.available = ids
        else:
            told.unavailable = ids
        return json_answer(told)


def _similar(slates: Slates, stock: Stock, name: str, item: str, count: int) -> SimilarItems:
    popular, row = _known(slates), slates.catalog.row_of.get(item)
    if row is None:
        raise HTTPException(404, f"the catalogue has no item {named(item)!r}")
    pairs = [(r, s) for r, s in zip(*popular.neighbours(row), strict=True) if stock.has(slates.catalog.ids[r])]
    found = [SimilarItem(item=slates.catalog.ids[r], title=_title(slates, r), similarity=round(s, 6)) for r, s in pairs]
    return SimilarItems(item=item, bundle=name, similar=found[:count])


def _popular(slates: Slates, stock: Stock, name: str, count: int) -> PopularItems:
    counts, ids = _known(slates).counts, slates.catalog.ids
    order = np.argsort(-counts, kind="stable").tolist()
    rows = [row for row in order if counts[row] and stock.has(ids[row])][:count]
    found = [PopularItem(item=ids[row], title=_title(slates, row), count=int(counts[row])) for row in rows]
    return PopularItems(bundle=name, popular=found)


def _known(slates: Slates) -> Popular:
    if slates.popular is None:
        raise HTTPException(501, f"this bundle knows no popular or similar items: it has no {POPULAR}")
    return slates.popular


def _title(slates: Slates, row: int) -> str | None:
    title = slates.catalog.attributes[row].get("title")
    return title if isinstance(title, str) else None


def _count(request: Request, usual: int, most: int) -> int:
    unknown = set(request.query_params) - {"count"}
    text = request.query_params.get("count", str(usual))
    if unknown or not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise InputError(f"query: the only parameter is count, a whole number from 1 to {most}")
    return int(text)


def _count_parameter(most: int) -> Json:
    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": 10}
    return {"name": "count", "in": "query", "description": "At most so many.", "schema": schema}


_NO_FILE = answer(f"The bundle has no {POPULAR}.")
_KEPT: Json = {
    "200": answer("What is available now; on the disk.", ref("Availability")),
    "400": answer(NOT_JSON),
    "422": answer("JSON, but not such lists."),
    "501": answer("The server keeps no availability."),
    "503": later("Loading, stopping, full, or the file cannot be written now."),
    "507": answer("No room on the disk: nothing was changed."),
}
OPENAPI = Described(
    {
        "/v1/items/{id}/similar": {
            "get": operation(
                "similarItems",
                "Items chosen by the same users.",
                {
                    "200": answer("The most similar first.", ref("SimilarItems")),
                    "404": answer("The catalogue has no such item."),
                    "422": answer("A parameter is out of range."),
                    "501": _NO_FILE,
                    "503": later("Still loading."),
                },
                parameters=[PATH_ID, _count_parameter(MOST_SIMILAR)],
            )
        },
        "/v1/popular": {
            "get": operation(
                "popularItems",
                "Items chosen most often.",
                {
                    "200": answer("The most popular first.", ref("PopularItems")),
                    "422": answer("A parameter is out of range."),
                    "501": _NO_FILE,
                    "503": later("Still loading."),
                },
                parameters=[_count_parameter(MOST_POPULAR)],
            )
        },
        "/v1/availability": {
            "get": operation(
                "availability",
                "Which items are available.",
                {
                    "200": answer("What is available now.", ref("Availability")),
                    "501": _KEPT["501"],
                    "503": later("Loading or stopping."),
                },
            ),
            "put": operation(
                "replaceAvailability",
                "Say which items are available, or which are not.",
                _KEPT,
                requestBody=body_of("Stock"),
            ),
            "patch": operation(
                "changeAvailability",
                "Make some items available, and others not.",
                _KEPT,
                requestBody=body_of("StockChange"),
            ),
        },
    },
    (SimilarItems, PopularItems, Availability, StockMessage, StockChange),
)
