from __future__ import annotations

import importlib
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corella_edge.errors import InputError, MissingExtraError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends import table
from corella_edge_runtime.llm.backends.remote import client
from corella_edge_runtime.llm.backends.remote.client import ClientLimits, RemoteBackend
from corella_edge_runtime.llm.backends.remote.flavours import KEY_VARIABLE, parse_address
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.opening import open_backend
from fake_llm import FakeServer, serving

TOKENS = Tokens(7, 9, None)
FLAVOURS = ["llama-server", "sglang", "vllm"]
CONTEXT = 100
QUICK = ClientLimits(close=0.5)
# Two users, their candidates mixed.
ROWS = [Prompt((1, 2, 3), (4,)), Prompt((5, 6), (7, 8)), Prompt((1, 2, 3), (5, 6)), Prompt((1, 2, 3), (6,))]


def score(ids: Sequence[int]) -> float:
    return sum(ids) % 97 / 97


def right(rows: Sequence[Prompt]) -> list[float]:
    return [score([*row.prefix, *row.suffix]) for row in rows]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(score, CONTEXT) as made:
        yield made


@pytest.fixture
def connect(server: FakeServer) -> Iterator[Callable[..., RemoteBackend]]:
    """connect(flavour, limits, settings) → a backend of the fake server."""
    made: list[RemoteBackend] = []

    def make(flavour: str, limits: ClientLimits = QUICK, queue_tokens: int = 65536) -> RemoteBackend:
        settings = LlmSettings(queue_tokens=queue_tokens)
        made.append(RemoteBackend(parse_address(f"{flavour}+{server.base}"), TOKENS, settings, limits))
        return made[-1]

    yield make
    server.go.set()
    for backend in made:
        backend.close()


def reasons(future: Future[Answers]) -> list[str]:
    return [answer.reason for answer in future.result(20)]


def values(future: Future[Answers]) -> list[float]:
    return [answer.probability for answer in future.result(20)]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_answers_in_order(connect: Any, flavour: str) -> None:
    backend = connect(flavour)
    assert values(backend.submit(ROWS)) == pytest.approx(right(ROWS))
    assert backend.stats()["prompts"] == 4.0
    assert backend.stats()["waiting_tokens"] == 0.0


@pytest.mark.parametrize(("p", "top"), [(0.0, [9]), (1.0, [7])])
def test_llama_server_leaves_out_what_is_impossible(connect: Any, server: Any, p: float, top: list[int]) -> None:
    server.score = lambda ids: p
    assert values(connect("llama-server").submit(ROWS[:1])) == [p]


def test_llama_server_is_asked_one_prompt_at_a_time_of_a_user(connect: Any, server: Any) -> None:
    connect("llama-server").submit(ROWS).result(20)
    path, _, body = server.asked[0]
    assert path == "/completion"
    asked = [body["prompt"] for _, _, body in server.asked]
    assert [ids for ids in asked if ids[:3] == [1, 2, 3]] == [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3, 6]]
    wanted = {"n_predict": 1, "cache_prompt": True, "n_probs": 2, "top_k": 2, "post_sampling_probs": True}
    assert wanted.items() <= body.items()
    assert [token for token, _ in body["logit_bias"]] == [7, 9]


@pytest.mark.parametrize(("flavour", "path"), [("sglang", "/v1/score"), ("vllm", "/generative_scoring")])
def test_a_users_prompts_are_one_request(connect: Any, server: Any, flavour: str, path: str) -> None:
    connect(flavour).submit(ROWS).result(20)
    assert [asked[0] for asked in server.asked] == [path, path]
    (body,) = [body for _, _, body in server.asked if body["query"] == [1, 2, 3]]
    assert body["items"] == [[4], [5, 6], [6]]
    assert (body["label_token_ids"], body["apply_softmax"]) == ([7, 9], True)


def test_many_candidates_are_several_requests(connect: Any, server: Any) -> None:
    rows = [Prompt((1,), (i,)) for i in range(150)]
    assert values(connect("sglang").submit(rows)) == pytest.approx(right(rows))
    assert [len(body["items"]) for _, _, body in server.asked] == [64, 64, 22]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_more_connections_than_allowed(connect: Any, server: Any, flavour: str) -> None:
    backend = connect(flavour, ClientLimits(connections=3, close=5.0))
    server.go.clear()
    futures = [backend.submit([Prompt((user,), (1,))]) for user in range(10)]
    until(lambda: server.now == 3)
    server.go.set()
    assert [values(future)[0] for future in futures] == [score([user, 1]) for user in range(10)]
    assert server.most == 3


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_context_is_the_servers_less_the_answer(connect: Any, server: Any, flavour: str) -> None:
    fits, too_long = Prompt((1,) * 90, (2,) * 9), Prompt((1,) * 90, (2,) * 10)
    assert reasons(connect(flavour).submit([too_long, fits, Prompt((), ())])) == ["too_long", "", "too_long"]
    assert all(len(body.get("prompt", [])) < CONTEXT for _, _, body in server.asked)


def test_a_context_that_shrank_is_the_servers_word(connect: Any, server: Any) -> None:
    backend = connect("llama-server")
    assert reasons(backend.submit(ROWS[:1])) == [""]
    server.status, server.spoil = 400, lambda _: {"error": {"code": 400, "type": "exceed_context_size_error"}}
    assert reasons(backend.submit(ROWS[:1])) == ["too_long"]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_slow_server_is_left_at_the_deadline(connect: Any, server: Any, flavour: str) -> None:
    backend = connect(flavour)
    server.go.clear()
    started = time.monotonic()
    assert reasons(backend.submit(ROWS, started + 0.2)) == ["deadline"] * 4
    assert 0.15 < time.monotonic() - started < 15.0  # it would answer after 20
    server.go.set()
    assert values(backend.submit(ROWS)) == pytest.approx(right(ROWS))


def test_what_was_answered_in_time_stays(connect: Any, server: Any) -> None:
    backend = connect("llama-server")
    asked = iter(range(100))

    def second_hangs(ids: Sequence[int]) -> float:
        if next(asked) == 1:
            server.go.clear()
            server.go.wait(20)
        return score(ids)

    server.score = second_hangs
    rows = [ROWS[0], ROWS[2], ROWS[3]]
    found = backend.submit(rows, time.monotonic() + 2.0).result(20)
    assert [answer.reason for answer in found] == ["", "deadline", "deadline"]
    assert found[0].probability == pytest.approx(right(rows)[0])


def test_a_cancelled_question_frees_its_connection(connect: Any, server: Any) -> None:
    backend = connect("sglang", ClientLimits(connections=1, close=1.0))
    server.go.clear()
    first, second = backend.submit(ROWS[:1]), backend.submit(ROWS[1:2])
    until(lambda: server.now == 1)
    assert first.cancel()
    until(lambda: server.now == 2)
    server.go.set()
    assert values(second) == pytest.approx(right(ROWS[1:2]))
    assert first.cancelled()


SPOILED: list[Any] = [
    [], {}, 7, "text", None, {"scores": [[0.5], [0.5], [0.5]]}, {"scores": None}, {"data": [{"index": 0}]},
    {"scores": [[2.0]]},
    {"completion_probabilities": []}, {"completion_probabilities": [{"top_probs": []}]},
    {"completion_probabilities": [{"top_probs": [{"id": 1, "prob": 0.5}]}]},
    {"scores": [["x"]]}, {"scores": [[math.nan]]}, {"data": [{"index": 0, "score": -1}]},
]  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_another_form_is_an_error_of_the_server(connect: Any, server: Any, flavour: str) -> None:
    backend = connect(flavour)
    for spoiled in SPOILED:
        server.spoil = lambda _, spoiled=spoiled: spoiled
        assert reasons(backend.submit(ROWS[:2])) == ["llm_error"] * 2, spoiled
    server.spoil = lambda answer: answer
    assert values(backend.submit(ROWS)) == pytest.approx(right(ROWS))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_failing_server_is_logged_once_and_without_what_it_said(
    connect: Any, server: Any, flavour: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend = connect(flavour)
    assert reasons(backend.submit(ROWS)) == [""] * 4
    server.status, server.spoil = 500, lambda _: {"error": {"message": "secret history"}}
    with caplog.at_level(logging.DEBUG):
        for _ in range(5):
            assert reasons(backend.submit(ROWS)) == ["llm_error"] * 4
    ours = [record.getMessage() for record in caplog.records if record.name == "corella_edge.llm"]
    assert len(ours) == 1
    assert "status 500" in ours[0]
    assert "secret" not in caplog.text
    server.status, server.spoil = 200, lambda answer: answer
    assert reasons(backend.submit(ROWS)) == [""] * 4


def test_a_server_that_does_not_tell_its_context_is_asked_again(connect: Any, server: Any) -> None:
    backend = connect("vllm")
    server.status = 503
    assert reasons(backend.submit(ROWS)) == ["llm_error"] * 4
    server.status = 200
    assert reasons(backend.submit(ROWS)) == [""] * 4


def test_a_server_out_of_reach_is_left_alone_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        address = parse_address(f"sglang+http://127.0.0.1:{held.getsockname()[1]}")
        backend = RemoteBackend(address, TOKENS, LlmSettings(), ClientLimits(pause=0.2))
        assert reasons(backend.submit(ROWS)) == ["llm_error"] * 4
        sent = backend.stats()["requests"]
        assert reasons(backend.submit(ROWS)) == ["llm_error"] * 4
        assert backend.stats()["requests"] == sent
        now[0] += 0.25
        assert reasons(backend.submit(ROWS)) == ["llm_error"] * 4
        assert backend.stats()["requests"] > sent
        backend.close()


def test_questions_beyond_the_queue_are_refused_at_once(connect: Any, server: Any) -> None:
    backend = connect("sglang", ClientLimits(close=5.0), queue_tokens=10)
    server.go.clear()
    assert reasons(backend.submit([Prompt((1,) * 30, (2,))])) == ["queue_full"]  # though it is empty
    big = [Prompt((1,) * 9, (2,))]
    taken = backend.submit(big)
    assert reasons(backend.submit(ROWS)) == ["queue_full"] * 4
    server.go.set()
    assert values(taken) == pytest.approx(right(big))
    assert reasons(backend.submit(ROWS[:2])) == ["", ""]


def test_closing_does_not_wait_for_a_server_that_hangs(connect: Any, server: Any) -> None:
    backend = connect("llama-server", ClientLimits(close=0.2))
    server.go.clear()
    future = backend.submit(ROWS)
    until(lambda: server.now > 0)
    started = time.monotonic()
    backend.close()
    assert time.monotonic() - started < 15.0  # it would answer after 20
    assert reasons(future) == ["llm_error"] * 4
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(ROWS)


def test_the_key_is_sent_and_never_logged(
    connect: Any, server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    with caplog.at_level(logging.DEBUG):
        connect("vllm").submit(ROWS).result(20)
        server.status = 401
        connect("vllm").submit(ROWS).result(20)
    assert {headers["Authorization"] for _, headers, _ in server.asked} == {"Bearer s3cret"}
    assert "s3cret" not in caplog.text
    monkeypatch.setenv(KEY_VARIABLE, "schlüssel")
    with pytest.raises(InputError, match=KEY_VARIABLE) as told:
        connect("vllm")
    assert "schlüssel" not in str(told.value)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_address_names_its_server(flavour: str) -> None:
    found = parse_address(f"{flavour}+https://cluster.example:8443/llm/")
    assert (found.flavour.name, found.base) == (flavour, "https://cluster.example:8443/llm")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://box:8080", "sglang[+]http://HOST:PORT"),
        ("triton+http://box", "llama-server[+]http://HOST:PORT"),
        ("vllm+ftp://box", "known"),
        ("vllm+http://", "no address"),
        ("vllm+http://:80", "no address"),
        ("vllm+http://box:99999", "no address"),
        ("vllm+http://box:0", "no address"),
        ("vllm+http://[::1", "no address"),
        ("vllm+http://box?key=1", "no address"),
        ("vllm+http://me:hunter2@box", KEY_VARIABLE),
    ],
)
def test_what_is_no_address_is_told(url: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        parse_address(url)
    assert "hunter2" not in str(error.value)
    with pytest.raises(InputError, match=told):
        table.find(url)


def test_a_kind_that_there_is_not_names_those_there_are(tmp_path: Any) -> None:
    for kind in ("threads", "", "llama-server"):
        with pytest.raises(InputError, match=r"thread, process, llama-server\+http"):
            open_backend(kind, ModelSpec(tmp_path / "llm.gguf", TOKENS, LlmSettings()))
        with pytest.raises(InputError, match="known"):
            table.find(kind)
    for kind in ("thread", "process", "vllm+http://box:8000"):
        table.find(kind)


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, llama: Any) -> None:
    name = "corella_edge_runtime.llm.backends.remote.client"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtraError, match=r"\[remote\]"):
        importlib.import_module(name)
    with pytest.raises(MissingExtraError, match=r"\[remote\]"):
        open_backend("vllm+http://box:8000", ModelSpec(llama.path, llama.tokens, LlmSettings()))


LOADED = [{"id": 0, "path": "/models/b.gguf", "scale": 1.0}, {"id": 1, "path": "a.gguf", "scale": 1.0}]


def with_adapters(server: FakeServer, flavour: str, required: bool = False) -> Any:
    spec = ModelSpec(Path("llm.gguf"), TOKENS, LlmSettings(), adapters={"a": Path("a.gguf"), "b": Path("b.gguf")})
    return table.find(f"{flavour}+{server.base}").load().open_backend(f"{flavour}+{server.base}", spec, required, None)


def test_llama_server_is_told_the_weight_of_every_adapter_with_each_prompt(server: FakeServer) -> None:
    server.adapters = LOADED
    backend = with_adapters(server, "llama-server")
    for by, scales in (((), {0: 0.0, 1: 0.0}), ((("a", 1.0),), {0: 0.0, 1: 1.0}),
                       ((("a", 0.5), ("b", -0.25)), {0: -0.25, 1: 0.5})):  # fmt: skip
        server.asked.clear()
        assert reasons(backend.submit(Prompts.of(ROWS[:1]).by(by))) == [""]
        assert {entry["id"]: entry["scale"] for entry in server.asked[0][2]["lora"]} == scales
        assert server.asked[0][2]["cache_prompt"] is False
    backend.close()


def test_a_server_without_the_adapters_answers_nothing_and_is_told_so_where_it_is_required(
    server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.adapters = LOADED[:1]
    backend = with_adapters(server, "llama-server")
    assert reasons(backend.submit(ROWS[:1])) == ["llm_error"]
    assert "the adapter a is not there, start it with --lora a.gguf" in caplog.text
    assert not server.asked
    server.adapters = LOADED  # it is started again
    assert reasons(backend.submit(ROWS[:1])) == [""]
    backend.close()
    server.adapters = []
    with pytest.raises(InputError, match=r"does not answer \(/lora-adapters: the adapter a is not there"):
        with_adapters(server, "llama-server", required=True)


@pytest.mark.parametrize("flavour", ["sglang", "vllm"])
def test_a_server_that_lets_no_request_choose_is_refused_at_the_start(server: FakeServer, flavour: str) -> None:
    with pytest.raises(InputError, match=rf"has adapters \(a, b\), and {flavour} lets no request choose"):
        with_adapters(server, flavour)


def test_without_adapters_nothing_is_said_of_them(connect: Any, server: Any) -> None:
    assert reasons(connect("llama-server").submit(ROWS[:1])) == [""]
    assert "lora" not in server.asked[0][2]
