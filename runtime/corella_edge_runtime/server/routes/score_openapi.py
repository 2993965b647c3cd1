"""The OpenAPI description of `/v1/score` and `/v1/models`; what `question.parse_question` accepts."""

from __future__ import annotations

from corella_edge_runtime.server.answers import ScoreAnswer, ScoreModels
from corella_edge_runtime.server.describing import Json, answer, components, json_of, later, ref
from corella_edge_runtime.server.routes.question import MAX_MS, ScoreRequest

_TIME: Json = {"type": "number", "minimum": 0, "maximum": MAX_MS}


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    return {
        "/v1/score": {"post": _score()},
        "/v1/models": {
            "get": {
                "operationId": "models",
                "summary": "The LLM, and how many tokens a prompt may have; empty without one.",
                "responses": {
                    "200": answer("OpenAI's form.", ref("ScoreModels")),
                    "503": later("Loading or stopping.", ref("Error")),
                },
            }
        },
    }


def schemas() -> Json:
    """What `paths` refers to, beside the `Error` of every route."""
    return components(ScoreRequest, ScoreAnswer, ScoreModels)


def _score() -> Json:
    error = ref("Error")
    return {
        "operationId": "score",
        "summary": "The LLM alone: probabilities of its two answers after a query and each item (SGLang's form).",
        "parameters": [
            {"name": "timeout_ms", "in": "query", "schema": _TIME, "description": "Here or in the body."},
        ],
        "requestBody": {"required": True, "content": json_of(ref("ScoreRequest"))},
        "responses": {
            "200": answer("One row an item, one number a label.", ref("ScoreAnswer")),
            "400": answer("The body is not strict JSON in UTF-8.", error),
            "408": answer("The body did not arrive in time.", error),
            "413": answer("The body is too large.", error),
            "415": answer("The body is packed otherwise than by gzip.", error),
            "422": answer("JSON, but not a question that this LLM can answer.", error),
            "500": answer("A fault of the server; its log says where.", error),
            "501": answer("The server has no LLM, or one that does not tell the whole vocabulary.", error),
            "503": later("Loading, stopping, full, or the LLM does not answer.", error),
            "504": answer("The LLM did not answer in time.", error),
        },
    }
