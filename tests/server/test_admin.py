"""The admin routes, and that their description fits what they answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from corella_edge_runtime.server.fleet import Fleet
from corella_edge_runtime.server.following import open_source
from corella_edge_runtime.server.routes import admin, admin_openapi
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import promoted, with_canary
from fake_versions import Shelf, Versioned, toy_bundle


def client(service: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Starlette(routes=admin.routes(service)))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """A JSON schema of the few words that the description uses."""
    if "$ref" in schema:
        return fits(value, admin_openapi.schemas()[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return any(fits(value, part) for part in schema["anyOf"])
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(value is None if name == "null" else isinstance(value, kinds[name]) for name in names):
        return False
    if isinstance(value, dict):
        wanted = schema["properties"]
        return value.keys() == wanted.keys() and all(fits(value[name], wanted[name]) for name in wanted)
    return all(fits(one, schema["items"]) for one in value) if isinstance(value, list) else True


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
            assert fits(found, admin_openapi.schemas()["Deployment"])
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
            assert fits(found, admin_openapi.schemas()["Deployment"])
            assert (await http.get("/admin/deployment")).json()["ending"] == []
        following.cancel()
        await asyncio.wait([following])
        await fleet.close()
        source.close()

    asyncio.run(whole())


def test_every_route_is_described() -> None:
    described = {path: {method.upper() for method in found} for path, found in admin_openapi.paths().items()}
    served = {route.path: (route.methods or set()) - {"HEAD"} for route in admin.routes(SimpleNamespace())}
    assert described == served


@pytest.mark.parametrize("name", list(admin_openapi.schemas()))
def test_the_schemas_refer_to_what_there_is(name: str) -> None:
    known = {f"#/components/schemas/{name}" for name in admin_openapi.schemas()}
    assert set(refs(admin_openapi.schemas()[name])) <= known


def refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [ref for part in value.values() for ref in refs(part)]
    return [ref for part in value for ref in refs(part)] if isinstance(value, list) else []
