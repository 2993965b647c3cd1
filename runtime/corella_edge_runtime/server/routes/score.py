"""`POST /v1/score` in SGLang's form, the LLM alone: the probabilities of the answers after a query and each item.

`GET /v1/models` says what such clients want to know before: how long a prompt may be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from corella_edge.adapters import asked_for
from corella_edge.errors import InputError
from corella_edge.routing.reasons import NoAnswer
from corella_edge_runtime.llm import texts
from corella_edge_runtime.llm.asking import Asking, Llm
from corella_edge_runtime.llm.contract import deadline as deadlines
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompts
from corella_edge_runtime.server.answers import ScoreAnswer, ScoreModel, ScoreModels, Usage, json_answer
from corella_edge_runtime.server.bodies import arrived, read_body
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.describing import NOT_JSON, Described, answer, body_of, later, operation, ref
from corella_edge_runtime.server.fleet import Held
from corella_edge_runtime.server.guard.leaving import unless_gone
from corella_edge_runtime.server.guard.limits import INLINE_BYTES, INLINE_TOKENS
from corella_edge_runtime.server.routes.question import (
    MAX_MS,
    ScoreRequest,
    milliseconds,
    parse_question,
)
from corella_edge_runtime.server.routes.rank import CLIENT_GONE
from corella_edge_runtime.server.service import Service, unanswered, until

LONGEST_MS = 30_000.0  # for a request that names no time


def routes(service: Service) -> list[Route]:
    api = _Score(service)
    return [Route("/v1/score", api.post, methods=["POST"]), Route("/v1/models", api.models)]


class _Score:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.started = int(time.time())

    async def models(self, _: Request) -> Response:
        """The form of SGLang's list, which is OpenAI's and `max_model_len`; empty without an LLM."""
        self.service.check_ready()
        with self.service.fleet.hold(None) as held:
            llm = held.ranker.llm
            found = [ScoreModel(id=held.label, created=self.started, max_model_len=llm.longest)] if llm else []
        return json_answer(ScoreModels(data=found))

    async def post(self, http: Request) -> Response:
        self.service.check_ready()
        try:
            return await self._answer(http)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)

    async def _answer(self, http: Request) -> Response:
        given = _query_time(http)
        body = await read_body(http, self.service.limits)
        clock = Clock(arrived(http))
        with self.service.place(), self.service.fleet.hold(None) as held:
            llm = held.ranker.llm
            if llm is None:
                raise HTTPException(501, "this server has no LLM; /v1/rank answers without one")
            large, work = len(body) > INLINE_BYTES, self.service.work
            question = await work(large, clock, "parse", parse_question, body, held=held)
            deadline = deadlines.of(_time(question, given), clock.arrived)
            large = _size(question) > INLINE_TOKENS
            prompts, asking = await work(large, clock, "begin", _begun, llm, question, deadline, held=held)
            answers = await _answers(http, asking, held)
            clock.skip()
            form = await work(large, clock, "finish", _form, llm, question, prompts, answers, held.label, held=held)
        return json_answer(form)


def _query_time(http: Request) -> float | None:
    if set(http.query_params) - {"timeout_ms"}:
        raise InputError("query: the only parameter is timeout_ms")
    text = http.query_params.get("timeout_ms")
    if text is None:
        return None
    try:
        return milliseconds(float(text), "query, timeout_ms")
    except ValueError:
        raise InputError("query, timeout_ms: expected a number of milliseconds") from None


def _time(question: ScoreRequest, given: float | None) -> float:
    """Milliseconds that a question has, from the arrival of its body."""
    if given is not None and question.timeout_ms is not None:
        raise InputError("timeout_ms: give it in the query or in the body, not in both")
    wanted = question.timeout_ms if given is None else given
    return LONGEST_MS if wanted is None else wanted


def _size(question: ScoreRequest) -> int:
    """Tokens, or characters, of all prompts written out: what there is to do before the LLM is asked."""
    return sum(map(len, question.items)) + len(question.items) * (1 + len(question.query))


def _begun(llm: Llm, question: ScoreRequest, deadline: float | None) -> tuple[Prompts, Asking]:
    """The question's prompts, on their way to the LLM; rankings that are due before are not kept waiting."""
    adapters = llm.adapters.weights(asked_for(question.adapter, question.adapters))
    prompts = _understood(llm, question)
    return prompts, llm.begin_prompts(prompts, deadline, yields=True, adapters=adapters)


def _understood(llm: Llm, question: ScoreRequest) -> Prompts:
    """The prompts that are meant, one an item. Raises InputError, before any is built, if they are too long."""
    _check_labels(question, llm)
    query, items = _ids(question, llm)
    for i, item in enumerate(items):
        length = len(query) + len(item)
        if not 0 < length <= llm.longest:
            raise InputError(f"items[{i}]: the prompt has {length} tokens, this LLM reads 1 to {llm.longest}")
    total = texts.cost(query, items, question.item_first)
    if total > llm.most:
        raise InputError(f"items: the prompts have {total} tokens, this LLM is asked {llm.most} at once; send fewer")
    return texts.prompts(query, items, question.item_first, whole=not question.apply_softmax)


def _check_labels(question: ScoreRequest, llm: Llm) -> None:
    """Raises InputError for other labels: only the bundle's two answers are read."""
    yes, no = llm.prompts.tokens.yes, llm.prompts.tokens.no
    labels = question.label_token_ids
    if labels is not None and (not labels or set(labels) - {yes, no} or len(set(labels)) != len(labels)):
        raise InputError(f"label_token_ids: this LLM has the answers {yes} (yes) and {no} (no): one of them or both")


def _ids(question: ScoreRequest, llm: Llm) -> tuple[list[int], list[list[int]]]:
    """Token ids of query and items; those of texts begin as the model wants it."""
    if not isinstance(question.query, str):
        given = cast(list[list[int]], question.items)
        _check_ids([question.query, *given], llm.vocabulary)
        return question.query, given
    begin = texts.begin(llm)
    query = texts.tokenize(llm, question.query)
    items = [texts.tokenize(llm, item) for item in cast(list[str], question.items)]
    if question.item_first:
        return query, [begin + item for item in items]
    return begin + query, items


def _check_ids(lists: Sequence[Sequence[int]], vocabulary: int) -> None:
    largest = max((max(ids) for ids in lists if ids), default=0)
    if largest >= vocabulary:
        raise InputError(f"token id {largest} is outside this LLM's vocabulary (0 to {vocabulary - 1})")


async def _answers(http: Request, asking: Asking, held: Held) -> Answers:
    """One a prompt, each with a probability.

    Raises:
        HTTPException: 422, 503 or 504: a prompt has no answer. ClientDisconnect: the client has left.
    """
    if asking.refusal:
        # What was let in goes on: it shows how quick the LLM is by now, and its prefix is there for a second try.
        if asking.future is not None:
            held.until(asking.future)
        raise _refused([asking.refusal])
    try:
        if asking.future is not None:
            await unless_gone(http.receive, until(asking.future, asking.deadline))
    finally:
        answers = asking.answers()
    reasons = [reason for reason in answers.reasons if reason]
    if reasons:
        raise _refused(reasons)
    return answers


def _refused(reasons: Collection[str]) -> HTTPException:
    return unanswered(NoAnswer.first(reasons) or NoAnswer.LLM_ERROR)


def _row(answer: LlmAnswer, question: ScoreRequest, llm: Llm) -> list[float]:
    """A label's share in the labels (1 if there is only one, as in SGLang), or in the whole vocabulary."""
    yes, no = llm.prompts.tokens.yes, llm.prompts.tokens.no
    of = {yes: answer.probability, no: 1.0 - answer.probability}
    labels = [yes, no] if question.label_token_ids is None else question.label_token_ids
    if question.apply_softmax:
        return [of[label] for label in labels] if len(labels) > 1 else [1.0]
    if math.isnan(answer.mass):
        raise HTTPException(501, "this server's LLM does not tell probabilities in the whole vocabulary: apply_softmax")
    return [of[label] * math.exp(answer.mass) for label in labels]


def _form(llm: Llm, question: ScoreRequest, prompts: Prompts, answers: Answers, bundle: str) -> ScoreAnswer:
    """SGLang's answer, and the bundle that gave it."""
    scores = [_row(answer, question, llm) for answer in answers]
    tokens = sum(len(prompts.prefixes[name]) for name in prompts.prefix) + sum(prompts.lengths)
    return ScoreAnswer(
        scores=scores, model=question.model, usage=Usage(prompt_tokens=tokens, total_tokens=tokens), bundle=bundle
    )


OPENAPI = Described(
    {
        "/v1/score": {
            "post": operation(
                "score",
                "The LLM alone: probabilities of its two answers after a query and each item (SGLang's form).",
                {
                    "200": answer("One row an item, one number a label.", ref("ScoreAnswer")),
                    "400": answer(NOT_JSON),
                    "422": answer("JSON, but not a question that this LLM can answer."),
                    "501": answer("The server has no LLM, or one that does not tell the whole vocabulary."),
                    "503": later("Loading, stopping, full, or the LLM does not answer."),
                    "504": answer("The LLM did not answer in time."),
                },
                parameters=[
                    {
                        "name": "timeout_ms",
                        "in": "query",
                        "schema": {"type": "number", "minimum": 0, "maximum": MAX_MS},
                        "description": "Here or in the body.",
                    }
                ],
                requestBody=body_of("ScoreRequest"),
            )
        },
        "/v1/models": {
            "get": operation(
                "models",
                "The LLM, and how many tokens a prompt may have; empty without one.",
                {"200": answer("OpenAI's form.", ref("ScoreModels")), "503": later("Loading or stopping.")},
            )
        },
    },
    (ScoreRequest, ScoreAnswer, ScoreModels),
)
