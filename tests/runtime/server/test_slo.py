"""A server with a latency objective asks less while requests are late, and leaves requests that say what they want."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from bundles import make_bundle
from corella_edge.routing.objective import Objective
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Service

BODY = {"user": {"id": "u1"}, "candidates": [{"item": f"i{k}"} for k in range(12)]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("slo") / "bundle")


async def served(engine: Engine, objective: Objective, number: int) -> tuple[list[int], int, str]:
    """How many candidates were asked about in each request, in one with a threshold of its own, and the metrics."""
    service = Service(objective=objective)
    service.serve(engine)
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def asked(body: dict[str, object]) -> int:
            found = (await client.post("/v1/rank", json=body)).json()
            return sum(candidate["routed"] for candidate in found["candidates"])

        counts = [await asked(BODY) for _ in range(number)]
        own = await asked({**BODY, "threshold": "ratio:1"})
        text = (await client.get("/metrics")).text
    service.close()
    return counts, own, text


def test_it_asks_less_while_requests_are_late_and_nothing_in_the_end(bundle: Path) -> None:
    with Engine.open(bundle, llm="thread", llm_threads=1, tuned=False, threshold="ratio:0.8") as engine:
        engine.warm_up()
        counts, own, text = asyncio.run(served(engine, Objective(0.99, 1e-6), 50))
    assert counts[0] > 0
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    assert own == 12
    assert "\ncorella_edge_slo_factor 0.0\n" in text


def test_it_asks_what_it_would_while_none_is_late(bundle: Path) -> None:
    with Engine.open(bundle, llm="thread", llm_threads=1, tuned=False, threshold="ratio:0.8") as engine:
        engine.warm_up()
        counts, _, text = asyncio.run(served(engine, Objective(0.99, 600.0), 8))
    assert len(set(counts)) == 1
    assert "\ncorella_edge_slo_factor 1.0\n" in text
