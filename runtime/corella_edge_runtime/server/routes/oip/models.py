"""The models `rank`, `crm` and `llm` of the Open Inference Protocol: tensors → a request, scores → tensors. Pure.

One router stands behind all three: `crm` never routes, `llm` always does, `rank` follows the request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from corella_edge.errors import InputError
from corella_edge.request import Request
from corella_edge.request_message import MAX_CANDIDATES, MAX_HISTORY, MAX_TIMEOUT_MS, parse_request
from corella_edge.scores import Scores
from corella_edge.selection import Selection
from corella_edge_runtime.server.routes.oip.tensors import Array, Inference, Input, a_whole

NEVER, ALWAYS = "ratio:0", "ratio:1"
# What of Triton's extensions is here; shared memory, sequences, statistics and loading are not.
EXTENSIONS = ("binary_tensor_data", "model_configuration", "schedule_policy", "parameters")
PLATFORM = "corella_edge"
INPUTS: Mapping[str, Input] = {
    spec.name: spec
    for spec in (
        Input("user_id", "BYTES", 1, 1),
        Input("history_items", "BYTES", 0, MAX_HISTORY),
        Input("history_ratings", "FP32", 0, MAX_HISTORY),
        Input("candidates", "BYTES", 1, MAX_CANDIDATES, optional=False),
    )
}
# Parameters of a request that only another model could fulfil.
# (Outputs stand candidate by candidate, so that none can be left out or moved.)
NOT_HERE = ("sequence_id", "sequence_start", "sequence_end", "top_k", *Selection.__struct_fields__)
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "BOOL": "TYPE_BOOL"}
RANGE = 2**63
MAX_TIMEOUT = 1000 * MAX_TIMEOUT_MS  # microseconds


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a model gives, one value a candidate."""

    datatype: str
    values: Callable[[Scores], Array]


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """What is offered under a name; `threshold` None = the request's, or the server's."""

    name: str
    threshold: str | None
    outputs: Mapping[str, Output]


MODELS: Mapping[str, OfferedModel] = {
    model.name: model
    for model in (
        OfferedModel(
            "rank",
            None,
            {
                "probability": Output("FP32", lambda scores: scores.probability),
                "crm": Output("FP32", lambda scores: scores.crm),
                "llm": Output("FP32", lambda scores: scores.llm),
                "entropy": Output("FP32", lambda scores: scores.entropy),
                "routed": Output("BOOL", lambda scores: scores.routed),
            },
        ),
        OfferedModel("crm", NEVER, {"probability": Output("FP32", lambda scores: scores.crm)}),
        OfferedModel("llm", ALWAYS, {"probability": Output("FP32", lambda scores: scores.llm)}),
    )
}


def to_request(model: OfferedModel, inference: Inference) -> Request:
    """The request that `parse_request` makes of the tensors and parameters.

    Raises:
        InputError: an id, a rating or a parameter that is not one; an output that the model does not have.
    """
    unknown = [name for name in inference.outputs if name not in model.outputs]
    if unknown:
        raise InputError(f"outputs: {unknown[0][:40]!r} is not an output; known: {', '.join(model.outputs)}")
    return parse_request(
        {
            "id": inference.id or None,
            "user": {"id": _user_id(inference), "history": _history(inference)},
            "candidates": [{"item": item} for item in _texts(inference, "candidates")],
            **_options(model, inference.parameters),
        }
    )


def to_tensors(model: OfferedModel, inference: Inference, scores: Scores) -> list[tuple[str, Array, bool]]:
    """The outputs asked for, in that order, or all: name, values, whether in binary form."""
    wanted = inference.outputs or dict.fromkeys(model.outputs, inference.binary)
    return [(name, model.outputs[name].values(scores), binary) for name, binary in wanted.items()]


def metadata(model: OfferedModel, version: str) -> dict[str, Any]:
    """The protocol's description of a model."""
    inputs = [{"name": i.name, "datatype": i.datatype, "shape": _shape(i)} for i in INPUTS.values()]
    outputs = [{"name": name, "datatype": o.datatype, "shape": [-1]} for name, o in model.outputs.items()]
    return {"name": model.name, "versions": [version], "platform": PLATFORM, "inputs": inputs, "outputs": outputs}


def config(model: OfferedModel) -> dict[str, Any]:
    """Triton's description of a model: what metadata lacks is that there are no batches, and what may be left out."""
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "max_batch_size": 0,
        "input": [
            {"name": i.name, "data_type": _CONFIG_TYPES[i.datatype], "dims": _shape(i), "optional": i.optional}
            for i in INPUTS.values()
        ],
        "output": [
            {"name": name, "data_type": _CONFIG_TYPES[o.datatype], "dims": [-1]} for name, o in model.outputs.items()
        ],
    }


def _shape(spec: Input) -> list[int]:
    return [spec.most if spec.least == spec.most else -1]


def _user_id(inference: Inference) -> str | None:
    return _texts(inference, "user_id")[0] if "user_id" in inference.inputs else None


def _history(inference: Inference) -> list[dict[str, Any]]:
    items = _texts(inference, "history_items") if "history_items" in inference.inputs else []
    if "history_ratings" not in inference.inputs:
        return [{"item": item} for item in items]
    ratings = inference.inputs["history_ratings"].tolist()
    if len(ratings) != len(items):
        raise InputError(f"history_ratings: {len(ratings)} ratings of {len(items)} history_items")
    pairs = zip(items, ratings, strict=True)
    return [{"item": item, "rating": rating if rating == rating else None} for item, rating in pairs]


def _texts(inference: Inference, name: str) -> list[str]:
    found = []
    for i, raw in enumerate(inference.inputs[name].tolist()):
        try:
            found.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{name}[{i}]: not UTF-8") from None
    return found


def _options(model: OfferedModel, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request; Triton's `priority` is checked and has no effect: there is one queue.

    Raises:
        InputError: a parameter with a wrong value, or for a feature that is not offered. Others are hints, and ignored.
    """
    for name in NOT_HERE if model.threshold is None else ("threshold", *NOT_HERE):
        if name in parameters:
            raise InputError(f"parameters: {name!r} is not offered by {model.name}")
    a_whole(parameters.get("priority", 0), "parameters.priority", RANGE)
    microseconds = a_whole(parameters.get("timeout", 0), "parameters.timeout", MAX_TIMEOUT + 1)
    threshold = model.threshold or parameters.get("threshold")
    # Triton's zero means that there is no limit.
    return {"threshold": threshold, "timeout_ms": microseconds / 1000.0 if microseconds else None}
