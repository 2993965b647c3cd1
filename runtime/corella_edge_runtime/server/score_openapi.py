"""The OpenAPI description of `/v1/score` and `/v1/models`; what `question.parse_question` accepts."""

from __future__ import annotations

from corella_edge_runtime.server.describing import Json, answer, fields, json_of, later, ref
from corella_edge_runtime.server.question import MAX_IDS, MAX_ITEMS, MAX_MS, NOT_HERE

_TIME: Json = {"type": "number", "minimum": 0, "maximum": MAX_MS}
_IDS: Json = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": MAX_IDS}}
_PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1}
_COUNT: Json = {"type": "integer", "minimum": 0}


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
    return _SCHEMAS


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


_SCHEMAS: Json = {
    "ScoreRequest": fields(
        {
            "query": {"description": "Text, or token ids taken as they are.", "anyOf": [{"type": "string"}, _IDS]},
            "items": {
                "description": "Of the same kind as the query. A text alone is a list of one.",
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "maxItems": MAX_ITEMS, "items": {"type": "string"}},
                    {"type": "array", "maxItems": MAX_ITEMS, "items": _IDS},
                ],
            },
            "label_token_ids": {
                "description": "Of the bundle's two answers, one or both in any order. Left out: yes, no.",
                "anyOf": [_IDS, {"type": "null"}],
            },
            "apply_softmax": {
                "description": "Over the labels; false, as when it is left out: over the whole vocabulary.",
                "type": "boolean",
                "default": False,
            },
            "item_first": {"description": "The item before the query.", "type": "boolean", "default": False},
            "model": {"description": "Repeated in the answer.", "type": "string", "default": "default"},
            "timeout_ms": {**_TIME, "type": ["number", "null"]},
            **{name: {"description": "Not offered.", "enum": [None, False]} for name in NOT_HERE},
        },
        ["query", "items"],
    ),
    "ScoreAnswer": fields(
        {
            "scores": {"type": "array", "items": {"type": "array", "items": _PROBABILITY}},
            "model": {"type": "string"},
            "usage": fields(
                {
                    "prompt_tokens": _COUNT,
                    "total_tokens": _COUNT,
                    "completion_tokens": _COUNT,
                    "prompt_tokens_details": {"type": "null"},
                    "reasoning_tokens": _COUNT,
                },
                ["prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details", "reasoning_tokens"],
            ),
            "object": {"const": "scoring"},
            "bundle": {"description": "`name@version` of what answered.", "type": "string"},
        },
        ["scores", "model", "usage", "object", "bundle"],
    ),
    "ScoreModels": fields(
        {
            "object": {"const": "list"},
            "data": {
                "type": "array",
                "maxItems": 1,
                "items": fields(
                    {
                        "id": {"type": "string"},
                        "object": {"const": "model"},
                        "created": {"type": "integer"},
                        "owned_by": {"type": "string"},
                        "max_model_len": {"type": "integer", "minimum": 1},
                    },
                    ["id", "object", "created", "owned_by", "max_model_len"],
                ),
            },
        },
        ["object", "data"],
    ),
}
