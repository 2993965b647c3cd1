"""The OpenAPI description of the Open Inference Protocol's routes, from the models themselves."""

from __future__ import annotations

from corella_edge_runtime.server.describing import (
    TEXT,
    Described,
    Json,
    answer,
    body_of,
    fields,
    hints,
    json_of,
    later,
    operation,
    ref,
)
from corella_edge_runtime.server.routes.oip.models import INPUTS, MAX_TIMEOUT, MODELS, NOT_HERE, RANGE
from corella_edge_runtime.server.routes.oip.tensors import LENGTH_HEADER, Input
from corella_edge_runtime.server.routes.oip.tensors import NOT_HERE as NO_HINTS

_ERROR = ref("OipError")
_BINARY: Json = {"application/octet-stream": {"schema": {}}}
_FLAG: Json = {"type": "boolean"}
_SIZES: Json = {"type": "array", "items": {"type": "integer", "minimum": -1}, "minItems": 1, "maxItems": 1}
_MODEL: Json = {"name": "model", "in": "path", "required": True, "schema": {"enum": list(MODELS)}}
_VERSION: Json = {
    "name": "version", "in": "path", "required": True, "schema": {"type": "string"},
    "description": "Of the bundle that is served.",
}  # fmt: skip
_LENGTH: Json = {
    "name": LENGTH_HEADER, "in": "header", "schema": {"type": "integer", "minimum": 0},
    "description": "Of the JSON, where tensors follow it in binary form.",
}  # fmt: skip


def _paths() -> Json:
    found: Json = {
        "/v2": {"get": _get("oipServer", "What the server is and understands.", "OipServer", {})},
        "/v2/repository/index": {"post": _index()},
    }
    for path, given, suffix in (
        ("/v2/models/{model}", [_MODEL], ""),
        ("/v2/models/{model}/versions/{version}", [_MODEL, _VERSION], "OfVersion"),
    ):
        for end, described in _operations(suffix).items():
            method = "post" if end == "/infer" else "get"
            found[path + end] = {method: {**described, "parameters": given + described.get("parameters", [])}}
    return found


def _operations(suffix: str) -> dict[str, Json]:
    """By the end of the path."""
    missing = {"404": answer("No such model or version.", _ERROR), "503": later("Loading or stopping.", _ERROR)}
    unready = {**missing, "503": later("Not ready.", ref("OipReady"))}
    return {
        "": _get(f"oipModel{suffix}", "A model's inputs and outputs.", "OipModel", missing),
        "/ready": _get(f"oipReady{suffix}", "Whether a model answers.", "OipReady", unready),
        "/config": _get(f"oipConfig{suffix}", "A model as Triton describes it.", "OipConfig", missing),
        "/infer": _infer(suffix, missing),
    }


def _get(name: str, summary: str, schema: str, others: Json) -> Json:
    return operation(name, summary, {"200": answer("The answer.", ref(schema)), **others})


def _index() -> Json:
    states = {"type": "array", "items": ref("OipState")}
    return operation(
        "oipIndex",
        "The models and their states.",
        {"200": answer("Triton's form.", states), "400": answer("The body is not understood.", _ERROR)},
        requestBody={"required": False, "content": json_of(hints({"ready": _FLAG}, []))},
    )


def _infer(suffix: str, others: Json) -> Json:
    done, body = answer("The tensors asked for.", ref("OipInferred")), body_of("OipInference")
    headers = {"Server-Timing": TEXT, LENGTH_HEADER: {"schema": {"type": "integer"}}}
    return operation(
        f"oipInfer{suffix}",
        "Score candidates for one user.",
        {
            "200": {**done, "content": {**done["content"], **_BINARY}, "headers": headers},
            "400": answer("Not a request that this model takes.", _ERROR),
            **others,
        },
        parameters=[_LENGTH],
        requestBody={**body, "content": {**body["content"], **_BINARY}},
    )


_EITHER = "`data` has as many values as the shape says; or they follow the JSON, so many bytes as the parameter says."
_SHAPE = "[n]; or [n, 1] or [1, n], which are taken for it."
_NULL: Json = {"type": "null"}
_BYTES_BEHIND = fields({"binary_data_size": {"type": "integer", "minimum": 0}}, [])


def _many(schema: Json) -> Json:
    return {"type": "array", "items": schema}


def _tensor(spec: Input) -> Json:
    value: Json = {"type": "string"} if spec.datatype == "BYTES" else {"type": ["number", "null"]}
    size: Json = {"type": "integer", "minimum": spec.least, "maximum": spec.most}
    return hints(
        {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {"description": _SHAPE, "type": "array", "items": size, "minItems": 1, "maxItems": 2},
            "data": {"type": "array", "items": {"anyOf": [value, _many(value)]}, "maxItems": spec.most},
            "parameters": hints(
                {"binary_data_size": {"type": "integer", "minimum": 0}, **dict.fromkeys(NO_HINTS, _NULL)}, []
            ),
        },
        ["name", "datatype", "shape"],
        _EITHER,
    )


_WHOLE: Json = {"type": "integer", "minimum": 0, "exclusiveMaximum": RANGE}
_PARAMETERS: Json = {
    "threshold": {"description": "Of `rank` alone; see `Request`.", "type": ["number", "string", "null"]},
    "timeout": {
        "description": "Microseconds for the LLM; 0 = the server's own limit.",
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_TIMEOUT,
    },
    "priority": {**_WHOLE, "description": "Has no effect."},
    "binary_data_output": _FLAG,
    **dict.fromkeys(NOT_HERE, _NULL),
}
_ASKED = hints(
    {"name": {"type": "string"}, "parameters": hints({"binary_data": _FLAG, **dict.fromkeys(NO_HINTS, _NULL)}, [])},
    ["name"],
)
_GIVEN = fields(
    {
        "name": {"type": "string"},
        "datatype": {"enum": ["FP32", "BOOL"]},
        "shape": _SIZES,
        "data": {"type": "array", "items": {"type": ["number", "boolean", "null"]}},
        "parameters": _BYTES_BEHIND,
    },
    ["name", "datatype", "shape"],
    _EITHER,
)
_DESCRIBED = fields(
    {"name": {"type": "string"}, "datatype": {"enum": ["BYTES", "FP32", "BOOL"]}, "shape": _SIZES},
    ["name", "datatype", "shape"],
)
_CONFIGURED = fields(
    {"name": {"type": "string"}, "data_type": {"type": "string"}, "dims": _SIZES, "optional": _FLAG},
    ["name", "data_type", "dims"],
)
_NAME: Json = {"type": "string"}
_TOLD = fields({"notes": {**_NAME, "description": "What was odd about the history; absent if nothing was."}}, [])


_SCHEMAS: Json = {
    "OipError": fields({"error": _NAME}, ["error"]),
    "OipServer": fields(
        {"name": _NAME, "version": _NAME, "extensions": _many(_NAME)}, ["name", "version", "extensions"]
    ),
    "OipState": fields(
        {"name": _NAME, "version": _NAME, "state": {"enum": ["READY", "UNAVAILABLE"]}, "reason": _NAME},
        ["name", "version", "state", "reason"],
    ),
    "OipReady": fields({"name": _NAME, "ready": _FLAG, "error": _NAME}, ["name", "ready"]),
    "OipModel": fields(
        {"name": _NAME, "versions": _many(_NAME), "platform": _NAME, "inputs": _many(_DESCRIBED),
         "outputs": _many(_DESCRIBED)},
        ["name", "versions", "platform", "inputs", "outputs"],
    ),
    "OipConfig": fields(
        {"name": _NAME, "platform": _NAME, "backend": _NAME, "max_batch_size": {"const": 0},
         "input": _many(_CONFIGURED), "output": _many(_CONFIGURED)},
        ["name", "platform", "backend", "max_batch_size", "input", "output"],
    ),
    "OipInference": hints(
        {
            "id": {"description": "Repeated in the answer.", "type": "string", "maxLength": 256},
            "inputs": _many({"anyOf": [_tensor(spec) for spec in INPUTS.values()]}),
            "outputs": _many(_ASKED),
            "parameters": hints(_PARAMETERS, []),
        },
        ["inputs"],
        "Null is the same as left out. What is not named here is passed over.",
    ),
    "OipInferred": fields(
        {"id": _NAME, "model_name": {"enum": list(MODELS)}, "model_version": _NAME, "parameters": _TOLD,
         "outputs": _many(_GIVEN)},
        ["model_name", "model_version", "outputs"],
    ),
}  # fmt: skip
OPENAPI = Described(_paths(), (), _SCHEMAS)
