"""A request's `ms:` on a server: what asking the LLM costs is known of every version, from its first request on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from bundles import make_bundle
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.following import open_source, open_version
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.site import layout as sites

BODY = {"user": {"id": "u1"}, "candidates": [{"item": f"i{k}"} for k in range(12)], "threshold": "ms:60000"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, the first is live."""
    folder = tmp_path_factory.mktemp("ms")
    root = folder / "site"
    sites.create(root, make_bundle(folder / "b1"))
    sites.add(root, make_bundle(folder / "b2", version="2"))
    return root


def load(path: Path) -> Engine:
    return Engine.open(path, llm="thread", llm_threads=1, tuned=False, require_llm=True)


def post(engine: Engine) -> httpx.Response:
    async def once() -> httpx.Response:
        service = Service()
        service.serve(engine)
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = await client.post("/v1/rank", json=BODY)
        service.close()
        return found

    return asyncio.run(once())


def check_asked(response: httpx.Response) -> None:
    assert response.status_code == 200, response.text
    assert "ms" in {candidate["reason"] for candidate in response.json()["candidates"]}


@pytest.mark.slow
def test_a_version_that_is_swapped_in_knows_what_asking_costs_as_the_first_does(site: Path) -> None:
    source = open_source(site, load)
    first, _ = source.first()
    source.close()
    for engine in (first, open_version(site, sites.versions(site)[1], load)):
        with engine:
            assert any("asking the LLM costs" in sentence for sentence in engine.told())
            check_asked(post(engine))


def test_a_request_has_the_cost_measured_where_nobody_has_and_not_by_the_event_loop(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(sites.folder(site, sites.versions(site)[0])) as engine:
        engine.warm_up()
        threads, measured = list[threading.Thread](), engine.know_cost

        def know_cost(wanted: bool = False) -> None:
            threads.append(threading.current_thread())
            measured(wanted)

        monkeypatch.setattr(engine, "know_cost", know_cost)
        for _ in range(2):
            check_asked(post(engine))
        assert len(threads) == 1  # once
        assert threads[0] is not threading.main_thread()
