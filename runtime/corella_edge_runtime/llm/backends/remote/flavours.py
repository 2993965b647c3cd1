"""How an address names one of three servers, and how they are asked for P(Yes): prompts → JSON body → probabilities.

Each returns the softmax over the two answers' logits, the same number as `scorer.YesNoScorer`:

* llama-server, `POST /completion`: one prompt a request. Both answers' logits get the same large `logit_bias`, so
  that `top_k` 2 leaves exactly them, and `post_sampling_probs` are their softmax.
* SGLang, `POST /v1/score`: `query` and `items` as token ids, `label_token_ids`, `apply_softmax`.
* vLLM, `POST /generative_scoring`: the same fields. `/v1/completions` is no way: its logprobs are
  those of the most likely tokens before `logit_bias` and `allowed_token_ids`, among which the answers need not be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.backend import Liveness

# Far above any difference of logits, and small enough that float32 keeps the logits to 1e-5.
_BIAS = 200.0

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class Flavour:
    """One server's forms.

    Attributes:
        path: where to POST.
        items: most prompts of one request; they share a prefix.
        body: (prefix, suffixes, answers) → the request; no more than `items` suffixes.
        read: (answer, count, answers) → P(Yes) of each; ValueError, LookupError or TypeError for
            another form.
        about: where to GET what the server says about its model.
        context: that answer → the tokens a prompt and one token more may have.
        adapters: where to GET which adapters it has loaded; empty: a request cannot choose among any.
    """

    name: str
    path: str
    items: int
    body: Callable[[Ids, Sequence[Ids], Tokens], dict[str, Any]]
    read: Callable[[Any, int, Tokens], list[float]]
    about: str
    context: Callable[[Any], int]
    adapters: str = ""


def too_long(status: int, answer: Any) -> bool:
    """Does a refusal mean that the prompt does not fit the context?"""
    error = answer.get("error") if isinstance(answer, Mapping) else None
    return status == 400 and isinstance(error, Mapping) and error.get("type") == "exceed_context_size_error"


def _llama_body(prefix: Ids, suffixes: Sequence[Ids], tokens: Tokens) -> dict[str, Any]:
    (suffix,) = suffixes
    return {
        "prompt": [*prefix, *suffix],
        "n_predict": 1,
        "cache_prompt": True,
        "logit_bias": [[tokens.yes, _BIAS], [tokens.no, _BIAS]],
        "samplers": ["top_k"],
        "top_k": 2,
        "n_probs": 2,
        "post_sampling_probs": True,
        "response_fields": ["completion_probabilities"],
    }


def _llama_read(answer: Any, count: int, tokens: Tokens) -> list[float]:
    # A probability of zero is left out of the list.
    found = {entry["id"]: float(entry["prob"]) for entry in answer["completion_probabilities"][0]["top_probs"]}
    if not found or found.keys() - {tokens.yes, tokens.no}:
        raise ValueError("other tokens than the answers")
    return _probabilities([found.get(tokens.yes, 0.0) / sum(found.values())], count)


def _score_body(prefix: Ids, suffixes: Sequence[Ids], tokens: Tokens) -> dict[str, Any]:
    return {
        "query": list(prefix),
        "items": [list(suffix) for suffix in suffixes],
        "label_token_ids": [tokens.yes, tokens.no],
        "apply_softmax": True,
    }


def _sglang_read(answer: Any, count: int, _: Tokens) -> list[float]:
    return _probabilities([float(pair[0]) for pair in answer["scores"]], count)


def _vllm_read(answer: Any, count: int, _: Tokens) -> list[float]:
    found = {int(entry["index"]): float(entry["score"]) for entry in answer["data"]}
    return _probabilities([found[i] for i in range(count)], count)


def _probabilities(values: list[float], count: int) -> list[float]:
    if len(values) != count or not all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in values):
        raise ValueError("no probabilities")
    return values


def adapter_ids(answer: Any) -> dict[str, int]:
    """llama-server's numbers of its adapters by the names of their files, without folder and suffix."""
    return {PurePosixPath(entry["path"]).stem: int(entry["id"]) for entry in answer}


def _llama_context(answer: Any) -> int:
    return int(answer["default_generation_settings"]["n_ctx"])


def _models_context(answer: Any) -> int:
    return int(answer["data"][0]["max_model_len"])


FLAVOURS: Mapping[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour("llama-server", "/completion", 1, _llama_body, _llama_read, "/props", _llama_context, "/lora-adapters"),
        Flavour("sglang", "/v1/score", 64, _score_body, _sglang_read, "/v1/models", _models_context),
        Flavour("vllm", "/generative_scoring", 64, _score_body, _vllm_read, "/v1/models", _models_context),
    )
}
# A server has limits of its own for what takes long, and computes many prompts between two signs of life.
FAR_AWAY = Liveness(silence=10.0, probe=5.0)
KEY_VARIABLE = "CORELLA_EDGE_LLM_KEY"
_FORMS = ", ".join(f"{name}+http://HOST:PORT" for name in FLAVOURS)


@dataclass(frozen=True, slots=True)
class Address:
    flavour: Flavour
    base: str


def parse_address(url: str) -> Address:
    """The server a text means.

    Raises:
        InputError: no flavour or an unknown one, no host, a bad port, or a password in it.
    """
    scheme, _, rest = url.partition("://")
    name, _, protocol = scheme.rpartition("+")
    if name not in FLAVOURS or protocol not in ("http", "https"):
        raise InputError(f"llm: {scheme}:// does not say which server it is; known: {_FORMS} (or +https)")
    if "@" in rest:
        raise InputError(f"llm: an address holds no password; put the server's key into {KEY_VARIABLE}")
    base = f"{protocol}://{rest}".rstrip("/")
    try:
        parts = urlsplit(base)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"llm: {url!r} is no address; known: {_FORMS}")
    return Address(FLAVOURS[name], base)
