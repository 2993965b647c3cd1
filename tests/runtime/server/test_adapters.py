"""Adapters over HTTP: `/v1/rank`, `/v1/score`, the description of both, and errors that name what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundles import make_bundle
from corella_edge.request_message import parse_request
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Service

Post = Callable[..., httpx.Response]
USER = {"id": "u1", "history": [{"item": "i3", "rating": 5}, {"item": "i4", "rating": 2}]}
RANK: dict[str, Any] = {"user": USER, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": "ratio:1"}
SCORE: dict[str, Any] = {"query": "Film 1 and ", "items": ["Film 2", "Film 3"], "apply_softmax": True}
CHOICES: list[dict[str, Any]] = [
    {}, {"adapter": "b"}, {"adapters": {"b": 1.0}}, {"adapters": {}}, {"adapters": {"a": 0.5, "b": 0.5}},
]  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    bundle: Path = make_bundle(tmp_path_factory.mktemp("adapters") / "bundle", adapters=("a", "b"))
    with Engine.open(bundle, llm_threads=1, tuned=False, require_llm=True) as opened:
        yield opened


@pytest.fixture
def post(engine: Engine) -> Iterator[Post]:
    """post(path, body) → the server's answer; without a body, a GET."""
    service = Service()
    service.serve(engine)
    app = build_app(service)

    async def once(path: str, body: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await (client.get(path) if body is None else client.post(path, json=body))

    yield lambda path, body=None: asyncio.run(once(path, body))
    service.close()


def llm(response: httpx.Response) -> list[float]:
    assert response.status_code == 200, response.text
    return [candidate["llm"] for candidate in response.json()["candidates"]]


def test_a_ranking_is_by_the_adapters_of_its_request(post: Post, engine: Engine) -> None:
    found = []
    for more in CHOICES:
        found.append(llm(post("/v1/rank", {**RANK, **more})))
        assert found[-1] == pytest.approx(engine.rank(parse_request({**RANK, **more})).llm.tolist(), abs=5e-3)
    assert found[1] == pytest.approx(found[2], abs=5e-3)
    assert max(abs(one - other) for one, other in zip(found[0], found[1], strict=True)) > 0.05


def test_a_question_to_the_llm_alone_is_by_its_adapters(post: Post) -> None:
    answers = [post("/v1/score", {**SCORE, **more}) for more in CHOICES]
    assert [answer.status_code for answer in answers] == [200] * len(CHOICES)
    found = [answer.json()["scores"][0][0] for answer in answers]
    assert found[1] == pytest.approx(found[2], abs=5e-3)
    assert abs(found[0] - found[1]) > 0.05
    usual = post("/v1/score", {**SCORE, "adapter": "a"}).json()["scores"][0][0]
    assert found[0] == pytest.approx(usual, abs=5e-3)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapter": "c"}, "adapters: 'c' is no adapter of this bundle, which has a, b"),
        ({"adapter": "a", "adapters": {}}, "adapter: give adapter or adapters, not both"),
        ({"adapters": {"a": 11}}, "adapters.a: expected a number of at most 10, got 11"),
        ({"adapters": {"a": None}}, "adapters.a: expected a number, got nothing"),
    ],
)
def test_what_cannot_be_meant_is_422(post: Post, more: dict[str, Any], said: str) -> None:
    for response in (post("/v1/rank", {**RANK, **more}), post("/v1/score", {**SCORE, **more})):
        assert response.status_code == 422
        assert said in response.json()["error"]["message"]


def test_the_description_has_both_fields_of_both_routes(post: Post) -> None:
    schemas = post("/openapi.json").json()["components"]["schemas"]
    for name in ("UserRequest", "UserIdRequest", "ScoreRequest"):
        assert {"adapter", "adapters"} <= schemas[name]["properties"].keys()
