"""`POST /v1/score`: SGLang's fields, its answer, and what happens when the LLM is late, full, broken or not there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge_runtime.llm import texts
from corella_edge_runtime.llm.asking import Asking, Llm
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt, Prompts
from corella_edge_runtime.llm.texts import MOST_AT_ONCE, prompts
from corella_edge_runtime.server.guard.connections import ConnectionLimits
from corella_edge_runtime.server.routes.question import NOT_HERE, ScoreRequest, parse_question
from fake_llm import FakeBackend
from json_schema import SCHEMAS, documents, valid
from sockets import serving, until

FIELDS = ScoreRequest.__struct_fields__
YES, NO, BOS, VOCABULARY, LONGEST = 7, 9, 3, 1000, 200


def probability(ids: Sequence[int]) -> float:
    """Differs with every token and its place."""
    return 1.0 / (1.0 + math.exp(-math.sin(sum((place + 1) * token for place, token in enumerate(ids)))))


class Stuck:
    """A backend that answers when it is told to."""

    def __init__(self) -> None:
        self.futures: list[Future[Answers]] = []

    def submit(self, asked: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        self.futures.append(Future())
        return self.futures[-1]

    def stats(self) -> dict[str, float]:
        return {}

    def forget(self) -> None:
        pass

    def close(self) -> None:
        pass


class Refusing(Stuck):
    """A backend that answers at once, with a reason or an error."""

    def __init__(self, outcome: str | Exception) -> None:
        super().__init__()
        self.outcome = outcome

    def submit(self, asked: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        future = super().submit(asked, deadline)
        if isinstance(self.outcome, str):
            future.set_result(Answers.of([LlmAnswer(0.5), *[LlmAnswer(math.nan, self.outcome)] * (len(asked) - 1)]))
        else:
            future.set_exception(self.outcome)
        return future


def make_llm(backend: Any, bos: int | None = BOS) -> Llm:
    """Each letter is a token."""
    encoder = PromptEncoder(
        Template(), Catalog([], []), lambda text: [ord(c) % VOCABULARY for c in text], Tokens(YES, NO, bos)
    )
    return Llm(encoder, backend, vocabulary=VOCABULARY, longest=LONGEST)


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    made = FakeBackend(probability, LONGEST)
    yield made
    made.close()


@pytest.fixture
def asking(make_site: Any, backend: FakeBackend) -> Any:
    """asking(…) → a site with an LLM."""

    def make(with_backend: Any = backend, **options: Any) -> Any:
        site = make_site(**options)
        site.ranker.llm = make_llm(with_backend)
        return site

    return make


def score(site: Any, asked: str = "", **fields: Any) -> httpx.Response:
    body = {"query": [1, 2], "items": [[4], [5, 6]], "apply_softmax": True, **fields}
    given = {name: value for name, value in body.items() if value is not ...}
    return site.call("POST", f"/v1/score{asked}", content=json.dumps(given).encode())


def scores(response: httpx.Response) -> list[list[float]]:
    assert response.status_code == 200, response.text
    return response.json()["scores"]


def told(response: httpx.Response) -> str:
    body = response.json()
    assert list(body) == ["error"]
    return body["error"]["message"]


def ids(text: str) -> list[int]:
    return [ord(c) for c in text]


def test_token_ids_are_asked_as_they_are(asking):
    response = score(asking())
    expected = [probability([1, 2, 4]), probability([1, 2, 5, 6])]
    assert scores(response) == [[pytest.approx(p), pytest.approx(1 - p)] for p in expected]
    assert response.json() == {
        "scores": scores(response), "model": "default", "object": "scoring", "bundle": "fake@1",
        "usage": {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0, "prompt_tokens_details": None,
                  "reasoning_tokens": 0},
    }  # fmt: skip


@pytest.mark.parametrize("item_first", [False, True])
def test_texts_begin_as_the_model_wants_it(asking, item_first):
    site = asking()
    found = scores(score(site, query="ab ", items=["cd", ""], item_first=item_first))
    orders = ([BOS, *ids("cdab ")], [BOS, *ids("ab ")]) if item_first else ([BOS, *ids("ab cd")], [BOS, *ids("ab ")])
    assert [row[0] for row in found] == [pytest.approx(probability(order)) for order in orders]
    query, items = (ids("ab "), [[BOS, *ids("cd")], [BOS]]) if item_first else ([BOS, *ids("ab ")], [ids("cd"), []])
    assert scores(score(site, query=query, items=items, item_first=item_first)) == found


def test_one_text_is_a_list_of_one(asking):
    site = asking()
    assert scores(score(site, query="a", items="bc")) == scores(score(site, query="a", items=["bc"]))
    assert scores(score(site, query="a", items=[])) == scores(score(site, query=[], items=[])) == []


def test_labels_come_in_the_order_asked_for(asking):
    site = asking()
    both = scores(score(site))
    assert scores(score(site, label_token_ids=[YES, NO])) == both
    assert scores(score(site, label_token_ids=[NO, YES])) == [row[::-1] for row in both]
    # The softmax of one number.
    assert scores(score(site, label_token_ids=[NO])) == [[1.0], [1.0]]


@pytest.mark.parametrize("labels", [[5], [YES, 5], [], [YES, YES], [YES, NO, YES]])
def test_other_labels_are_refused_and_the_answers_named(asking, labels):
    response = score(asking(), label_token_ids=labels)
    assert response.status_code == 422
    assert f"{YES} (yes) and {NO} (no)" in told(response)


@pytest.mark.parametrize("softmax", [False, ...])
def test_without_softmax_probabilities_are_those_in_the_whole_vocabulary(asking, softmax):
    class Telling(Stuck):
        def submit(self, asked: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
            future = super().submit(asked, deadline)
            future.set_result(Answers.of(LlmAnswer(0.25, mass=math.log(0.4)) for prompt in asked if prompt.whole))
            return future

    site = asking(Telling())
    assert scores(score(site, apply_softmax=softmax)) == [pytest.approx([0.1, 0.3])] * 2
    assert scores(score(site, apply_softmax=softmax, label_token_ids=[NO])) == [pytest.approx([0.3])] * 2


def test_an_llm_that_does_not_tell_the_whole_vocabulary_is_501(asking):
    response = score(asking(), apply_softmax=False)
    assert response.status_code == 501
    assert "apply_softmax" in told(response)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"query": ...}, "query: is missing"),
        ({"query": 5}, "query: expected text or a list, got 5"),
        ({"items": ...}, "items: is missing"),
        ({"items": "text"}, "items: expected a list of token ids, as the query is, got 'text'"),
        ({"items": ["text"]}, "items[0]: expected a list of token ids, as the query is, got 'text'"),
        ({"query": "text"}, "items[0]: expected text, as the query is, got a list"),
        ({"query": [], "items": [[]]}, "items[0]: the prompt has 0 tokens, this LLM reads 1 to 200"),
        ({"query": [1, -1]}, "query[1]: expected a whole number"),
        ({"query": [True]}, "query[0]: expected a whole number"),
        ({"query": [2**40]}, "query[0]: expected a whole number"),
        ({"items": [[1.0]]}, "items[0][0]: expected a whole number"),
        ({"items": [[1], [VOCABULARY]]}, "token id 1000 is outside this LLM's vocabulary (0 to 999)"),
        ({"items": [[1]] * 10_001}, "items: expected a list of at most 10000 entries, got 10001"),
        ({"label_token_ids": "7"}, "label_token_ids: expected a list"),
        ({"apply_softmax": 1}, "apply_softmax: expected true or false"),
        ({"item_first": None}, "item_first: expected true or false"),
        ({"model": None}, "model: expected text"),
        ({"timeout_ms": -1}, "timeout_ms: expected a number of at least 0, got -1"),
        ({"timeout_ms": 600_001}, "timeout_ms: expected a number of at most 600000, got 600001"),
        ({"timeout_ms": True}, "timeout_ms: expected a number, got true"),
        ({"timeout_ms": 10**400}, "timeout_ms: the number is too large"),
        ({"temperature": 0}, "unknown field 'temperature'; known fields: adapter, adapters, apply_softmax"),
        ({"return_pooled_hidden_states": True}, "return_pooled_hidden_states: not offered here"),
        ({"embed_override_token_id": 0}, "embed_override_token_id: not offered here"),
    ],
)
def test_what_is_no_question_is_422(asking, fields, said):
    response = score(asking(), **fields)
    assert response.status_code == 422
    assert said in told(response)


def test_fields_of_sglangs_that_ask_for_nothing_are_accepted(asking):
    nothing = dict.fromkeys(NOT_HERE, None) | {"return_pooled_hidden_states": False}
    response = score(asking(), **nothing, model="llama", item_first=False)
    assert response.json()["model"] == "llama"
    assert set(NOT_HERE) < set(FIELDS)


@pytest.mark.parametrize("body", [b"", b"{", b'{"query": NaN}', b"\xff", b"[" * 5000])
def test_no_json_is_400(asking, body):
    response = asking().call("POST", "/v1/score", content=body)
    assert response.status_code == 400
    assert told(response).startswith("body: ")


def test_a_prompt_too_long_is_422(asking):
    response = score(asking(), query=[1] * (LONGEST - 1))
    assert response.status_code == 422
    assert told(response) == "items[1]: the prompt has 201 tokens, this LLM reads 1 to 200"
    # Another server's context may be smaller than the model's.
    response = score(asking(Refusing("too_long")))
    assert (response.status_code, told(response)) == (422, "the prompt has more tokens than the LLM reads")


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"query": [1] * 190, "items": [[2, 3]] * 3000, "item_first": True}, 576_000),
        ({"query": [1] * 100, "items": [[2] * (MOST_AT_ONCE + 1)] * 200}, 33_000),
        ({"query": [1] * 100, "items": [[2] * 20] * 1700}, 34_100),
        ({"query": "a" * 190, "items": ["bc"] * 3000, "item_first": True}, 579_000),
    ],
)
def test_more_than_the_llm_is_asked_at_once_is_422_and_says_how_much_it_is(asking, fields, tokens):
    backend = Stuck()
    response = score(asking(backend), timeout_ms=600_000, **fields)
    assert response.status_code == 422
    assert told(response) == f"items: the prompts have {tokens} tokens, this LLM is asked 32768 at once; send fewer"
    assert not backend.futures


def test_a_query_that_the_items_share_counts_once(asking):
    response = score(asking(), query=[1] * 190, items=[[2], [3]] * 1000)
    assert len(scores(response)) == 2000


def test_what_is_much_to_build_is_not_built_in_the_event_loop(asking, monkeypatch):
    threads: list[str] = []
    whole = texts.prompts

    def noting(*args: Any, **options: Any) -> list[Prompt]:
        threads.append(threading.current_thread().name)
        return whole(*args, **options)

    monkeypatch.setattr(texts, "prompts", noting)
    site = asking()
    for fields in ({"query": [1] * 90, "items": [[2]] * 100}, {"query": "a" * 90, "items": ["b"] * 100}, {}):
        assert score(site, **fields).status_code == 200
    assert [name.startswith("rank") for name in threads] == [True, True, False]


def test_the_event_loop_goes_on_while_a_large_question_is_begun(asking, monkeypatch):
    going = threading.Event()

    def waiting(*args: Any, **options: Any) -> Prompts:
        assert going.wait(20)
        return Prompts.of([])

    monkeypatch.setattr(texts, "prompts", waiting)
    site = asking()

    async def both() -> tuple[int, int]:
        async with site.client() as client:
            body = {"query": [1] * 150, "items": [[2]] * 10_000, "apply_softmax": True}
            running = asyncio.create_task(client.post("/v1/score", json=body))
            while not site.service.in_flight:
                await asyncio.sleep(0.01)
            other = await client.get("/v1/models")
            going.set()
            return other.status_code, (await running).status_code

    assert asyncio.run(both()) == (200, 200)


def test_times(asking):
    site = asking()
    for query, fields in (("?timeout_ms=5000", {}), ("", {"timeout_ms": 5000.5}), ("", {"timeout_ms": None})):
        assert score(site, query, **fields).status_code == 200
    for query, fields in (
        ("?timeout_ms=-1", {}), ("?timeout_ms=soon", {}), ("?timeout_ms=nan", {}), ("?timeout_ms=1e400", {}),
        ("?timeout_ms=600001", {}),
        ("?mode=progressive", {}), ("?timeout_ms=5", {"timeout_ms": 5}),
    ):  # fmt: skip
        response = score(site, query, **fields)
        assert response.status_code == 422, query
        assert "timeout_ms" in told(response)


def test_a_late_llm_is_504_and_called_off(asking):
    backend = Stuck()
    started = time.monotonic()
    response = score(asking(backend), timeout_ms=150)
    assert (response.status_code, told(response)) == (504, "the LLM did not answer in time")
    assert 0.15 <= time.monotonic() - started < 20.0
    assert backend.futures[0].cancelled()


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        ("deadline", 504, "in time"),
        ("busy", 504, "in time"),
        ("queue_full", 503, "too much waits"),
        ("llm_error", 503, "does not answer"),
        ("something new", 503, "does not answer"),
        (RuntimeError("secret"), 503, "does not answer"),
    ],
)
def test_an_llm_that_does_not_answer(asking, outcome, status, said):
    response = score(asking(Refusing(outcome)))
    assert response.status_code == status
    assert said in told(response)
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)


def test_what_can_not_be_done_in_time_is_told_at_once(asking):
    backend = Stuck()
    site = asking(backend)
    assert score(site, timeout_ms=0).status_code == 504
    assert not backend.futures
    llm = site.ranker.llm
    given = Answers.of([LlmAnswer(math.nan, "deadline"), LlmAnswer(math.nan, "busy")])
    llm.begin_prompts = lambda asked, deadline, yields, adapters: Asking(
        given, [0], backend.submit(asked[:1], deadline), deadline
    )
    response = score(site, timeout_ms=60_000)
    assert (response.status_code, told(response)) == (504, "the LLM would not answer in time")
    # What was let in is not called off, and its version stays until it is done.
    assert not backend.futures[0].done()
    assert site.service.fleet.live.in_flight == 1
    backend.futures[0].set_result(Answers.of([LlmAnswer(0.5)]))


def test_without_an_llm_it_is_501_and_the_list_of_models_is_empty(site):
    assert score(site).status_code == 501
    assert "no LLM" in told(score(site))
    assert site.call("GET", "/v1/models").json()["data"] == []


def test_before_the_bundle_is_there_it_is_503(make_site):
    site = make_site(ready=False)
    assert score(site).status_code == site.call("GET", "/v1/models").status_code == 503


def test_the_list_of_models_says_how_long_a_prompt_may_be(asking):
    (model,) = asking().call("GET", "/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("fake@1", "model", LONGEST)


def test_a_client_that_leaves_takes_its_question_along(asking):
    backend = Stuck()
    site = asking(backend)

    async def leave() -> list[Any]:
        sent: list[Any] = []
        body = {"query": "a", "items": "b", "apply_softmax": True}
        messages = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

        async def receive() -> Any:
            while (message := next(messages, None)) is None:
                if backend.futures:
                    return {"type": "http.disconnect"}
                await asyncio.sleep(0.01)
            return message

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": [], "query_string": b""}
        await asyncio.wait_for(site.app(scope, receive, send), 20)
        return sent

    assert asyncio.run(leave())[0]["status"] == 499
    assert backend.futures[0].cancelled()
    assert site.service.in_flight == 0


def test_a_client_that_closes_its_connection_takes_its_question_along(asking):
    backend = Stuck()
    site = asking(backend)
    body = b'{"query": "a", "items": "b", "apply_softmax": true}'
    with serving(site.app, ConnectionLimits(half_closed_seconds=0.2)) as served:
        with served.connect() as client:
            client.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            until(lambda: backend.futures)
        until(lambda: site.service.in_flight == 0)
    assert backend.futures[0].cancelled()


def test_a_question_holds_a_place_while_it_is_asked(asking):
    backend = Stuck()
    site = asking(backend)

    async def both() -> tuple[int, httpx.Response]:
        async with site.client() as client:
            body = {"query": "a", "items": "b", "apply_softmax": True}
            running = asyncio.create_task(client.post("/v1/score", json=body))
            while not backend.futures:
                await asyncio.sleep(0.01)
            held = site.service.in_flight
            backend.futures[0].set_result(Answers.of([LlmAnswer(0.25)]))
            return held, await running

    held, response = asyncio.run(both())
    assert held == 1
    assert scores(response) == [[0.25, 0.75]]


IDS = st.lists(st.integers(0, 99), max_size=2 * MOST_AT_ONCE)


@given(IDS, st.lists(IDS, max_size=3), st.booleans())
def test_a_prompt_is_all_its_tokens_and_ends_in_a_part_that_fits_one_decode(query, items, item_first):
    for prompt, item in zip(prompts(query, items, item_first), items, strict=True):
        whole = [*item, *query] if item_first else [*query, *item]
        assert [*prompt.prefix, *prompt.suffix] == whole
        assert bool(whole) == bool(prompt.suffix)
        assert len(prompt.suffix) <= MOST_AT_ONCE


@given(IDS, st.lists(IDS, max_size=4), st.booleans())
def test_prompts_cost_no_more_than_was_said_before_they_were_built(query, items, item_first):
    made = prompts(query, items, item_first)
    most = texts.cost(query, items, item_first)
    assert made.tokens <= most
    # Exactly that much, unless some of them happen to begin alike.
    if len({prompt.prefix for prompt in made}) == len(made):
        assert made.tokens == most


def of_one_kind(doc: dict[str, Any]) -> bool:
    """Query and items both texts, or both token ids: what the schema does not say."""
    items = doc["items"]
    if isinstance(doc["query"], str):
        return isinstance(items, str) or all(isinstance(item, str) for item in items)
    return isinstance(items, list) and all(isinstance(item, list) for item in items)


@given(documents(SCHEMAS["ScoreRequest"]))
def test_whatever_the_schema_allows_is_a_question(doc):
    assert valid(SCHEMAS["ScoreRequest"], doc)
    assume(of_one_kind(doc))
    assert isinstance(parse_question(json.dumps(doc).encode()), ScoreRequest)


ODD: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    2**31,
    2**40,
    0.5,
    1e10,
    "",
    "x",
    [],
    [1],
    ["x"],
    [[1]],
    [[-1]],
    [2**31],
    {},
]


@given(
    documents(SCHEMAS["ScoreRequest"]),
    st.sampled_from([*FIELDS, "more"]),
    st.sampled_from([..., *ODD]),
)
def test_schema_and_parser_judge_damaged_questions_alike(doc, name, value):
    doc = {key: old for key, old in (doc | {name: value}).items() if old is not ...}
    fits = valid(SCHEMAS["ScoreRequest"], doc)
    assume(not fits or of_one_kind(doc))
    with contextlib.nullcontext() if fits else pytest.raises(InputError):
        parse_question(json.dumps(doc).encode())


def test_answers_are_as_described(asking, site):
    assert valid(SCHEMAS["ScoreAnswer"], score(asking()).json())
    for found in (asking(), site):
        assert valid(SCHEMAS["ScoreModels"], found.call("GET", "/v1/models").json())
    assert valid(SCHEMAS["Error"], score(site).json())


@given(st.binary(max_size=100) | st.dictionaries(st.sampled_from(FIELDS), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3), max_leaves=5,
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_the_body_it_is_a_question_or_refused(body):
    with contextlib.suppress(InputError):
        assert isinstance(parse_question(body), ScoreRequest)
