"""`POST /v1/rank`: answers, limits, errors, and what happens when many call at once."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge.request import Candidate, Request, User
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime.server.guard.limits import ARRIVED, Limits
from corella_edge_runtime.server.service import large

REQUEST = {
    "id": "r1",
    "user": {"id": "42", "features": {"gender": "F"}, "history": [{"item": "318", "rating": 5, "time": 1700000000}]},
    "candidates": [{"item": "661"}, {"item": "914", "features": {"title": "My Fair Lady", "genres": ["Musical"]}}],
}


def message(response: Any) -> str:
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message"]
    return body["error"]["message"]


def test_answer_is_what_the_library_answers(site):
    response = site.rank(REQUEST)
    request = parse_request(REQUEST)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == answer(request, site.ranker.rank(request), "fake@1")


def test_top_k_and_non_ascii_ids(site):
    items = [{"item": "Zoë 🎬"}, {"item": "b"}, {"item": "c"}]
    body = site.rank({"user": {}, "candidates": items, "top_k": 1, "id": "é"}).json()
    assert body["id"] == "é"
    assert [row["rank"] for row in body["candidates"]] == [1]


def test_without_candidates_the_catalogue_is_ranked(site):
    assert len(site.rank({"user": {}}).json()["candidates"]) == 3


def test_a_margin_routes_what_is_no_farther_from_one_half(site):
    items = [{"item": str(number)} for number in range(50)]
    rows = site.rank({"user": {}, "candidates": items, "threshold": "margin:0.2"}).json()["candidates"]
    near = [abs(row["crm"] - 0.5) <= 0.2 for row in rows]
    assert [row["reason"] for row in rows] == ["margin" if found else "" for found in near]
    assert 0 < sum(near) < len(near)


@pytest.mark.parametrize("threshold", ["margin:0.6", "margin:-0.1", "margin:", "far:0.1"])
def test_a_threshold_of_no_form_is_422(site, threshold):
    assert threshold.rpartition(":")[0] in message(site.rank({"user": {}, "threshold": threshold}))


def test_request_threshold_that_the_bundle_refuses_is_422(site):
    response = site.rank({"user": {}, "threshold": 0.9})
    assert response.status_code == 422
    assert "0.9 is not an entropy" in message(response)


def test_input_error_of_the_engine_is_422(make_site, fake_ranker):
    response = make_site(fake_ranker(error=InputError("user.features.age: expected a number"))).rank(REQUEST)
    assert response.status_code == 422
    assert message(response) == "user.features.age: expected a number"


def test_unforeseen_error_is_500_and_its_text_stays_out_of_answer_and_log(make_site, fake_ranker, caplog):
    site = make_site(fake_ranker(error=KeyError("the user's secret title")))
    with caplog.at_level(logging.DEBUG):
        response = site.rank(REQUEST)
    assert response.status_code == 500
    assert message(response) == "internal error; the server's log says where"
    assert "secret" not in caplog.text
    assert "KeyError" in caplog.text
    assert "in rank" in caplog.text
    assert 'status="500"' in site.metrics()


def test_body_limit_by_declared_and_by_real_size(make_site):
    site = make_site(limits=Limits(body_bytes=100))
    fits = b'{"user":{}}'.ljust(100)
    assert site.rank(fits).status_code == 200
    assert site.rank(fits + b" ").status_code == 413

    async def chunks():
        for _ in range(11):
            yield b" " * 10

    response = site.call("POST", "/v1/rank", content=chunks())
    assert response.status_code == 413
    assert message(response) == "the body is larger than 100 bytes"
    assert site.service.in_flight == 0


def test_all_bodies_together_are_bounded(make_site):
    site = make_site(limits=Limits(held_bytes=100))
    more = asyncio.Event()

    async def slow():
        yield b'{"user":{}}'.ljust(60)
        await more.wait()

    async def check() -> None:
        async with site.client() as client:
            first = asyncio.create_task(client.post("/v1/rank", content=slow()))
            while not site.app.state.intake.held:
                await asyncio.sleep(0.001)
            refused = await client.post("/v1/rank", content=b'{"user":{}}'.ljust(41))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert (await client.post("/v1/rank", content=b'{"user":{}}'.ljust(40))).status_code == 200
            more.set()
            assert (await first).status_code == 200

    asyncio.run(check())
    assert site.app.state.intake.held == 0


def test_slow_body_is_408(make_site):
    site = make_site(limits=Limits(body_seconds=0.05))

    async def slow():
        yield b'{"user"'
        await asyncio.sleep(5)

    assert site.call("POST", "/v1/rank", content=slow()).status_code == 408
    assert site.service.in_flight == 0


def test_client_that_leaves_in_mid_body_is_not_an_error_of_ours(site):
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": [], "query_string": b""}

    async def receive():
        return messages.pop(0)

    async def send(_):
        pass

    asyncio.run(site.app(scope, receive, send))
    assert 'corella_edge_requests_total{route="/v1/rank",status="499"} 1.0' in site.metrics()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_wrong_method_is_405_json(site, method):
    response = site.call(method, "/v1/rank")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    assert method in message(response)


@pytest.mark.parametrize("path", ["/nothing", "/v1/rank/", "/v1/rank/x", "/v2/health"])
def test_unknown_path_is_404_json(site, path):
    response = site.call("POST", path)
    assert response.status_code == 404
    assert "/openapi.json" in message(response)


def test_requests_that_wait_for_the_llm_hold_no_thread(make_site, fake_ranker):
    site = make_site(fake_ranker(), Limits(worker_threads=1, timeout_ms=None))
    site.ranker.blocked.clear()

    async def many() -> list[Any]:
        async with site.client() as client:
            bodies = [json.dumps({"id": str(i), "user": {}, "candidates": [{"item": f"i{i}"}]}) for i in range(40)]
            waiting = [asyncio.create_task(client.post("/v1/rank", content=body)) for body in bodies]
            while site.ranker.running < 40:
                await asyncio.sleep(0.001)
            site.ranker.blocked.set()
            return await asyncio.gather(*waiting)

    responses = asyncio.run(many())
    assert {response.status_code for response in responses} == {200}
    assert [(r.json()["id"], r.json()["candidates"][0]["item"]) for r in responses] == [
        (str(i), f"i{i}") for i in range(40)
    ]
    assert site.ranker.most_running == 40


def test_health_answers_while_the_llm_is_busy(make_site, fake_ranker):
    site = make_site(fake_ranker())
    site.ranker.blocked.clear()

    async def check() -> None:
        async with site.client() as client:
            busy = asyncio.create_task(client.post("/v1/rank", content=b'{"user":{}}'))
            while not site.ranker.running:
                await asyncio.sleep(0.001)
            assert (await client.get("/v2/health/ready")).status_code == 200
            assert "corella_edge_rank_in_flight 1.0" in (await client.get("/metrics")).text
            site.ranker.blocked.set()
            assert (await busy).status_code == 200

    asyncio.run(check())


def test_more_than_may_wait_is_503_with_retry_after(make_site, fake_ranker):
    site = make_site(fake_ranker(), Limits(requests=3))
    site.ranker.crm_blocked.clear()

    async def check() -> None:
        async with site.client() as client:
            taken = [asyncio.create_task(client.post("/v1/rank", content=b'{"user":{}}')) for _ in range(3)]
            while site.service.in_flight < 3:
                await asyncio.sleep(0.001)
            refused = await client.post("/v1/rank", content=b'{"user":{}}')
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert "3 requests are in flight" in message(refused)
            site.ranker.crm_blocked.set()
            assert {r.status_code for r in await asyncio.gather(*taken)} == {200}

    asyncio.run(check())


def test_not_ready_before_the_bundle_is_loaded(make_site):
    site = make_site(ready=False)
    assert site.call("GET", "/v2/health/live").json() == {"live": True}
    ready = site.call("GET", "/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    response = site.rank(REQUEST)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert message(response) == "the bundle is still loading"
    assert "corella_edge_ready 0.0" in site.metrics()
    site.service.serve(site.ranker)
    ready = site.call("GET", "/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})
    assert "corella_edge_ready 1.0" in site.metrics()


def test_draining_finishes_what_runs_and_refuses_what_comes(site):
    site.ranker.blocked.clear()

    async def check() -> None:
        async with site.client() as client:
            running = asyncio.create_task(client.post("/v1/rank", content=b'{"user":{}}'))
            while not site.service.in_flight:
                await asyncio.sleep(0.001)
            drained = asyncio.create_task(site.service.drained())
            await asyncio.sleep(0)
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 503
            refused = await client.post("/v1/rank", content=b'{"user":{}}')
            assert (refused.status_code, message(refused)) == (503, "the server is stopping")
            assert not drained.done()
            site.ranker.blocked.set()
            assert (await running).status_code == 200
            await drained

    asyncio.run(check())


def test_index_names_bundle_and_warnings(site):
    body = site.call("GET", "/").json()
    assert body["bundle"] == "fake@1"
    assert body["warnings"] == ["no LLM: this is a fake"]
    assert all(site.call("GET", path).status_code in {200, 405} for path in body["paths"])


def test_waiting_for_a_worker_uses_up_a_requests_time(make_site):
    site = make_site(limits=Limits(worker_threads=1, timeout_ms=None))
    site.ranker.crm_blocked.clear()
    threading.Timer(0.3, site.ranker.crm_blocked.set).start()

    async def together():
        async with site.client() as client:
            bodies = [{"user": {}}, {"user": {}, "timeout_ms": 10_000}, {"user": {}, "timeout_ms": 100}]
            return await asyncio.gather(*(client.post("/v1/rank", json=body) for body in bodies))

    assert [response.status_code for response in asyncio.run(together())] == [200, 200, 200]
    left = {"none" if ms is None else "much" if ms > 1000 else "little": ms for ms in site.ranker.times}
    assert left["none"] is None
    assert 5_000 < left["much"] <= 10_000
    assert left["little"] <= 100


HARD = {"user": {}, "candidates": [{"item": "a"}, {"item": "b"}], "threshold": "ratio:1"}


def reasons(response: Any) -> set[str]:
    return {row["reason"] for row in response.json()["candidates"]}


@pytest.mark.parametrize("own", [True, False])
def test_a_late_llm_leaves_the_crms_scores_in_time(make_site, own):
    site = make_site(limits=Limits(timeout_ms=15_000.0 if own else 30.0))
    site.ranker.blocked.clear()
    started = time.monotonic()
    response = site.rank(HARD | ({"timeout_ms": 30} if own else {}))
    assert time.monotonic() - started < 14
    assert response.status_code == 200
    assert reasons(response) == {"deadline"}
    assert [row["probability"] for row in response.json()["candidates"]] == [
        row["crm"] for row in response.json()["candidates"]
    ]


def test_a_strict_request_fails_where_the_llm_is_late(make_site):
    site = make_site()
    assert site.rank(HARD | {"strict": True}).status_code == 200
    site.ranker.blocked.clear()
    late = site.rank(HARD | {"strict": True, "timeout_ms": 10})
    assert late.status_code == 504
    assert message(late) == "the LLM did not answer in time, and the request is strict"


def test_so_many_waiting_requests_that_the_llm_is_left_alone(make_site):
    site = make_site(limits=Limits(requests=4, timeout_ms=None))
    site.ranker.blocked.clear()

    async def check() -> None:
        async with site.client() as client:
            waiting = [asyncio.create_task(client.post("/v1/rank", json=HARD)) for _ in range(2)]
            while site.service.in_flight < 2:
                await asyncio.sleep(0.001)
            assert reasons(await client.post("/v1/rank", json=HARD)) == {"queue_full"}
            strict = await client.post("/v1/rank", json=HARD | {"strict": True})
            assert (strict.status_code, strict.headers["retry-after"]) == (503, "1")
            site.ranker.blocked.set()
            assert [reasons(response) for response in await asyncio.gather(*waiting)] == [{"ratio"}] * 2

    asyncio.run(check())


def events(text: str) -> list[tuple[str, Any]]:
    parts = [part.split("\n") for part in text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def progressive(site: Any, body: object) -> Any:
    return site.call("POST", "/v1/rank?mode=progressive", content=json.dumps(body))


def test_progressive_answers_come_in_two_phases(site):
    response = progressive(site, HARD)
    assert response.headers["content-type"].startswith("text/event-stream")
    (first, by_crm), (second, final) = events(response.text)
    assert (first, second) == ("crm", "final")
    assert {row["reason"] for row in by_crm["candidates"]} == {"pending"}
    assert [row["probability"] for row in by_crm["candidates"]] == [row["crm"] for row in by_crm["candidates"]]
    assert final == site.rank(HARD).json()
    assert site.service.in_flight == 0


def test_the_first_phase_does_not_wait_for_the_llm(make_site):
    site = make_site()
    site.ranker.blocked.clear()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"event: crm" in sent[-1]:
            site.ranker.blocked.set()

    messages = [{"type": "http.request", "body": json.dumps(HARD).encode(), "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": [], "query_string": b"mode=progressive",
             "asgi": {"spec_version": "2.4"}}  # fmt: skip
    asyncio.run(site.app(scope, receive, send))
    assert [name for name, _ in events(b"".join(sent).decode())] == ["crm", "final"]


def test_progressive_errors(site):
    assert progressive(site, {}).status_code == 422
    assert site.call("POST", "/v1/rank?mode=other", content=b"{}").status_code == 422
    assert site.call("POST", "/v1/rank?k=1", content=b"{}").status_code == 422
    site.ranker.blocked.clear()
    (_, (name, error)) = events(progressive(site, HARD | {"strict": True, "timeout_ms": 10}).text)
    assert name == "error"
    assert "strict" in error["error"]["message"]
    assert site.service.in_flight == 0


def test_a_client_that_leaves_a_progressive_answer_frees_its_place(make_site):
    site = make_site(limits=Limits(timeout_ms=None))
    site.ranker.blocked.clear()
    messages = [{"type": "http.request", "body": json.dumps(HARD).encode()}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(_: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/rank", "headers": [], "query_string": b"mode=progressive"}
    asyncio.run(asyncio.wait_for(site.app(scope, receive, send), 10))
    assert site.service.in_flight == 0


def test_server_timing_names_every_step(site):
    header = site.rank(HARD).headers["server-timing"]
    names = [entry.partition(";")[0] for entry in header.split(", ")]
    assert names == ["parse", "encode", "crm", "serialise", "total"]
    assert all(re.fullmatch(r"\w+;dur=\d+\.\d{3}", entry) for entry in header.split(", "))


def test_time_runs_from_the_arrival_of_the_body_not_from_its_turn(make_site, fake_ranker):
    ranker = fake_ranker()
    site, messages = make_site(ranker, Limits(timeout_ms=None)), []

    body = json.dumps(HARD | {"timeout_ms": 1000}).encode()
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if not coming:
            await asyncio.sleep(60)
        return coming.pop()

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/rank", "headers": [], "query_string": b"",
        "state": {ARRIVED: time.monotonic() - 0.4},
    }  # fmt: skip
    asyncio.run(asyncio.wait_for(site.app(scope, receive, send), 10))
    assert messages[0]["status"] == 200
    assert ranker.times[-1] < 600
    timing = dict(messages[0]["headers"])[b"server-timing"].decode()
    assert float(re.search(r"turn;dur=([\d.]+)", timing)[1]) >= 400
    assert float(re.search(r"total;dur=([\d.]+)", timing)[1]) >= 400


def test_explain_says_what_decided(site):
    body = site.rank(HARD | {"explain": True}).json()
    assert body["explain"]["tokens"] == {"evaluated": 50, "reused": 20}
    assert body["explain"]["wanted"] == body["explain"]["routed"] == 2
    assert [row["crm_rank"] for row in body["candidates"]] == [
        1 + sum(other["crm"] > row["crm"] for other in body["candidates"]) for row in body["candidates"]
    ]


def test_the_wait_for_a_worker_is_spent_time(make_site):
    site = make_site(limits=Limits(worker_threads=1))
    site.ranker.crm_blocked.clear()

    async def two() -> list[Any]:
        async with site.client() as client:
            first = asyncio.create_task(client.post("/v1/rank", json={"user": {}}))
            while site.service.in_flight < 1:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(client.post("/v1/rank", json={"user": {}, "timeout_ms": 100}))
            while site.service.in_flight < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.2)
            site.ranker.crm_blocked.set()
            return await asyncio.gather(first, second)

    assert {response.status_code for response in asyncio.run(two())} == {200}
    assert site.ranker.times[1] <= 0.0


def test_what_candidates_bring_counts_as_work():
    def asked(features: Any, count: int = 10) -> Request:
        return Request(User(), tuple(Candidate(str(i), features) for i in range(count)))

    assert not large(asked(None, 500))
    assert large(asked(None, 501))
    assert large(Request(User()))
    assert not large(asked({"title": "A film", "genres": ["Drama", "Crime"]}))
    assert large(asked({"genres": ["Drama"] * 100}))
    assert large(asked({"title": "x" * 10_000}))
