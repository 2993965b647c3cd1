"""Answers that are not rankings: what each says, and errors as `{"error": {"message": …}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response

from corella_edge.messages import FeatureValues
from corella_edge.scores import Probability

JSON = "application/json"
Count = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1, description="Share of the users who get it.")]
Label = Annotated[str, Meta(description="`name@version` of what answered.")]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Seconds = Annotated[int, Meta(description="Unix time in seconds.")]


class Reply(Struct, forbid_unknown_fields=True):
    """What an answer says."""


class Message(Reply, kw_only=True):
    message: str


class Error(Reply, kw_only=True):
    error: Message


class Usage(Reply, kw_only=True):
    """Tokens, in SGLang's form."""

    prompt_tokens: Count
    total_tokens: Count
    completion_tokens: Count = 0
    prompt_tokens_details: None = None
    reasoning_tokens: Count = 0


class ScoreAnswer(Reply, kw_only=True):
    """One row an item, one number a label."""

    scores: list[list[Probability]]
    model: str
    usage: Usage
    object: Literal["scoring"] = "scoring"
    bundle: Label


class ScoreModel(Reply, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "corella-edge"
    max_model_len: Annotated[int, Meta(ge=1)]


class ScoreModels(Reply, kw_only=True):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: Annotated[list[ScoreModel], Meta(max_length=1)]


class Appended(Reply, kw_only=True):
    """Events are on the disk."""

    user_id: str
    appended: Count
    events: Annotated[Count, Meta(description="Held on the user now.")]
    notes: Annotated[list[str], Meta(min_length=1, description="What was odd about the events.")] | UnsetType = UNSET


class Deleted(Reply, kw_only=True):
    """Nothing is held on the user."""

    user_id: str
    deleted: Annotated[bool, Meta(description="False: nothing was held on the user.")]


class HeldEvent(Reply, kw_only=True):
    item: str
    rating: float | UnsetType = UNSET
    type: str | UnsetType = UNSET
    quantity: float | UnsetType = UNSET
    time: Annotated[int, Meta(description="As it was given.")] | UnsetType = UNSET
    arrived: Seconds


class HeldKey(Reply, kw_only=True):
    key: str
    arrived: Seconds


class UserExport(Reply, kw_only=True):
    """Everything held on a user; events in the order of the history."""

    user_id: str
    features: FeatureValues
    updated: Annotated[Seconds, Meta(description="When something was last appended.")]
    events: list[HeldEvent]
    keys: list[HeldKey]


class LoadedVersion(Reply, kw_only=True):
    version: Annotated[str, Meta(description="The site's id of it, or `name@version` of a bundle.")]
    bundle: Annotated[str, Meta(description="`name@version`, as in answers.")]
    since: Time
    share: Share
    in_flight: Count


class RefusedVersion(Reply, kw_only=True):
    version: str
    serial: Annotated[Count, Meta(description="Of the deployment that named it.")]
    at: Time
    reason: str


class ServedVersions(Reply, kw_only=True):
    """What is served, and how far a followed site is dealt with."""

    site: Annotated[bool, Meta(description="Whether a site is followed.")]
    serial: Annotated[Count | None, Meta(description="Of the deployment dealt with last.")]
    loading: Annotated[bool, Meta(description="Whether a version is being loaded.")]
    live: LoadedVersion | None
    canary: LoadedVersion | None
    ending: Annotated[list[LoadedVersion], Meta(description="Versions that finish the requests they began.")]
    refused: Annotated[RefusedVersion | None, Meta(description="What is asked for and could not be loaded.")]


def json_answer(
    value: Mapping[str, Any] | Reply, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # ASCII escapes, unlike rankings: a message may quote text that UTF-8 cannot carry.
    plain = msgspec.to_builtins(value) if isinstance(value, Reply) else value
    return Response(json.dumps(plain).encode(), status, dict(headers or {}), JSON)


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer(error_body(message), status, headers)


def error_body(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}
