"""The admin routes, and that their description fits what they answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from starlette.applications import Starlette

from corella_edge_runtime.server.fleet import Fleet
from corella_edge_runtime.server.following import open_source
from corella_edge_runtime.server.routes import admin
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import promoted, with_canary
from fake_versions import Shelf, Versioned, toy_bundle
from json_schema import SCHEMAS, valid


def client(service: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Starlette(routes=admin.routes(service)))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def test_a_bundle_for_good_is_shown_and_can_not_be_reloaded() -> None:
    async def whole() -> None:
        fleet = Fleet()
        fleet.install(Versioned("toy@1"), "toy@1")
        async with client(SimpleNamespace(fleet=fleet, follower=None)) as http:
            with fleet.hold("u"):
                found = (await http.get("/admin/deployment")).json()
            assert found["live"] == {
                **found["live"],
                "version": "toy@1",
                "bundle": "toy@1",
                "share": 1.0,
                "in_flight": 1,
            }
            assert valid(SCHEMAS["ServedVersions"], found)
            assert not found["site"]
            refused = await http.post("/admin/reload")
            assert (refused.status_code, "serve SITE" in refused.text) == (409, True)
            assert (await http.get("/admin/reload")).status_code == 405
        await fleet.close()

    asyncio.run(whole())


def test_a_site_is_shown_with_its_canary_what_it_refused_and_what_ends(tmp_path: Path) -> None:
    site, shelf = tmp_path / "site", Shelf()
    ids = [sites.create(site, toy_bundle(tmp_path / "b0", "0"))]
    ids += [sites.add(site, toy_bundle(tmp_path / f"b{i}", str(i)))[0] for i in (1, 2)]
    shelf.spoil(ids[2], "llm.gguf: missing")

    async def whole() -> None:
        fleet, source = Fleet(), open_source(site, shelf.load)
        fleet.install(*source.first())
        follower = source.follower(fleet)
        assert follower
        following = asyncio.create_task(follower.run())
        async with client(SimpleNamespace(fleet=fleet, follower=follower)) as http:
            with fleet.hold("u"):
                sites.change(site, lambda now: with_canary(promoted(now, ids[1]), ids[0], 0.25))
                found = (await http.post("/admin/reload")).json()
                assert (found["live"]["version"], found["canary"]["version"]) == (ids[1], ids[0])
                assert (found["live"]["share"], found["canary"]["share"], found["serial"]) == (0.75, 0.25, 3)
                sites.change(site, lambda now: promoted(with_canary(now, ids[2], 0.5), ids[2]))
                found = (await http.post("/admin/reload")).json()
                assert [member["version"] for member in found["ending"]] == [ids[0]]
            assert found["refused"]["reason"] == "llm.gguf: missing"
            assert valid(SCHEMAS["ServedVersions"], found)
            assert (await http.get("/admin/deployment")).json()["ending"] == []
        following.cancel()
        await asyncio.wait([following])
        await fleet.close()
        source.close()

    asyncio.run(whole())


def test_every_route_is_described() -> None:
    described = {path: {method.upper() for method in found} for path, found in admin.OPENAPI.paths.items()}
    served = {route.path: (route.methods or set()) - {"HEAD"} for route in admin.routes(SimpleNamespace())}
    assert described == served
