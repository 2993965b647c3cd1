"""Architectures of language models, a row each: what transformers calls their parts and settings, and GGUF."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_NORMED = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GEMMA = {
    **_LLAMA, "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_QKV = ("attn_q", "attn_k", "attn_v")
# Setting of transformers' config → GGUF's key, without the architecture's name.
_SETTINGS = {
    "num_hidden_layers": "block_count", "hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base", "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
}  # fmt: skip
HEAD_SIZES = ("attention.key_length", "attention.value_length", "rope.dimension_count")
FACTORS = "rope_freqs.weight"  # of each frequency, what it is divided by
WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"


@dataclass(frozen=True)
class Architecture:
    """One row.

    Attributes:
        name: GGUF's `general.architecture`.
        blocks: part of a block in transformers → in GGUF.
        biased: parts (GGUF's names) that may have a bias.
        neighbours: llama.cpp turns neighbouring numbers of a head, transformers its halves: rows of q and k change
            places.
        shift: what transformers adds to the weights of norms, and llama.cpp does not.
        activation: of the feed-forward part; llama.cpp computes no other.
        settings: config → GGUF's key.
        windows: whether llama.cpp looks back through a sliding window where the config says so. Otherwise prompts must
            end within the window.
        factors: whether llama.cpp reads a factor for each frequency (`rope_freqs`), which Llama 3 scales by.
        attention: transformers' implementation that computes all of it.
    """

    name: str
    blocks: Mapping[str, str] = field(default_factory=lambda: _LLAMA)
    biased: tuple[str, ...] = ()
    neighbours: bool = False
    shift: float = 0.0
    activation: str = "silu"
    settings: Mapping[str, str] = field(default_factory=lambda: _SETTINGS)
    windows: bool = False
    factors: bool = False
    attention: str = "sdpa"
    problem: Callable[[Any], str] = lambda config: ""


def _scale_problem(config: Any) -> str:
    """Gemma's attention is scaled by a number of its own, which llama.cpp takes from the sizes."""
    large = config.num_hidden_layers in (46, 62)  # how llama.cpp knows the models of 27 billion parameters
    expected = config.hidden_size // config.num_attention_heads if large else config.head_dim
    if config.query_pre_attn_scalar != expected:
        return f"query_pre_attn_scalar is {config.query_pre_attn_scalar}; llama.cpp computes with {expected}"
    return ""


def _no_rope_problem(config: Any) -> str:
    expected = [int((i + 1) % 4 != 0) for i in range(config.num_hidden_layers)]
    if list(config.no_rope_layers) != expected:
        return "no_rope_layers is not every fourth block, as llama.cpp computes"
    return ""


_LLAMA_ROW = Architecture("llama", biased=(*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down"), neighbours=True,
                          factors=True)  # fmt: skip
# transformers' model_type → its row.
ARCHITECTURES = {
    "llama": _LLAMA_ROW,
    "mistral": _LLAMA_ROW,
    "smollm3": Architecture("smollm3", biased=_QKV, neighbours=True, problem=_no_rope_problem),
    "qwen2": Architecture("qwen2", biased=_QKV),
    "qwen3": Architecture("qwen3", {**_LLAMA, **_NORMED}, biased=_QKV),
    "gemma2": Architecture(
        "gemma2", _GEMMA, shift=1.0, activation="gelu_pytorch_tanh", windows=True, attention="eager",
        settings={**_SETTINGS, "sliding_window": WINDOW, "attn_logit_softcapping": "attn_logit_softcapping",
                  "final_logit_softcapping": "final_logit_softcapping"}, problem=_scale_problem),
    "gemma3_text": Architecture(
        "gemma3", {**_GEMMA, **_NORMED}, shift=1.0, activation="gelu_pytorch_tanh", windows=True,
        settings={**_SETTINGS, "sliding_window": WINDOW, "rope_local_base_freq": "rope.freq_base_swa",
                  "final_logit_softcapping": "final_logit_softcapping"}, problem=_scale_problem),
}  # fmt: skip
# GGUF's architecture → transformers' model_type.
MODEL_TYPES = {row.name: kind for kind, row in reversed(ARCHITECTURES.items())}


def head_size(config: Any) -> int:
    """Numbers in one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def window_of(config: Any) -> int | None:
    """How far back some block looks at most; None where all of them look back to the beginning."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    used = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return int(window) if window and used else None


def readable(config: Any) -> int:
    """The longest prompt that llama.cpp computes as transformers does."""
    window = None if ARCHITECTURES[config.model_type].windows else window_of(config)
    return min(int(config.max_position_embeddings), window or config.max_position_embeddings)


def rope_kind(config: Any) -> str:
    """How positions are scaled, in transformers' word; "default" where they are not."""
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type")) or "default")


def problem(config: Any) -> str:
    """Why a model with this config cannot become a GGUF file that computes the same; empty = it can."""
    row = ARCHITECTURES.get(config.model_type)
    if row is None:
        return f"model_type is {config.model_type!r}, known are {', '.join(ARCHITECTURES)}"
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != row.activation:
        return f"the activation is {activation!r}; llama.cpp computes a {row.name} with {row.activation!r}"
    if getattr(config, "mlp_bias", False) and "ffn_up" not in row.biased:
        return f"mlp_bias: llama.cpp computes a {row.name} without it"
    if getattr(config, "attention_bias", False) and "attn_output" not in row.biased and config.model_type != "qwen2":
        return f"attention_bias: llama.cpp computes a {row.name} without a bias of o_proj"
    return row.problem(config) or _rope_problem(config, row)


def _rope_problem(config: Any, row: Architecture) -> str:
    kind = rope_kind(config)
    known = ("default", "linear", "yarn", *(["llama3"] if row.factors else []))
    if kind not in known:
        return f"rope_scaling {kind!r} has no counterpart in llama.cpp for a {row.name}, only {', '.join(known[1:])}"
    if getattr(config, "partial_rotary_factor", 1.0) not in (None, 1.0):
        return "partial_rotary_factor is not 1: llama.cpp turns whole heads"
    return ""


def rope_keys(config: Any) -> dict[str, float | int | str]:
    """GGUF's keys for scaled positions. YaRN's attention factor is told as its share of what llama.cpp computes."""
    scaling, kind = getattr(config, "rope_scaling", None) or {}, rope_kind(config)
    if kind not in ("linear", "yarn"):
        return {}
    factor = float(scaling["factor"])
    found: dict[str, float | int | str] = {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings") or config.max_position_embeddings
        found["rope.scaling.original_context_length"] = int(original)
        found["rope.scaling.yarn_beta_fast"] = float(scaling.get("beta_fast") or 32)
        found["rope.scaling.yarn_beta_slow"] = float(scaling.get("beta_slow") or 1)
        if attention := scaling.get("attention_factor"):
            found["rope.scaling.attn_factor"] = float(attention) / yarn_attention(factor)
    return found


def yarn_attention(factor: float) -> float:
    """What attention is multiplied by where positions are stretched by `factor` (YaRN, arXiv 2309.00071, eq. 22)."""
    return 0.1 * math.log(factor) + 1.0


def from_version_5(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as transformers 4 reads it: version 5 holds all of the positions' settings in `rope_parameters`.

    Raises:
        ValueError: settings of a block's kind that transformers 4 has no place for.
    """
    found = {name: value for name, value in config.items() if name != "rope_parameters"}
    told = config.get("rope_parameters")
    if not isinstance(told, Mapping):
        return found
    whole, sliding = told, {}
    if "rope_theta" not in told:
        whole, sliding = dict(told.get("full_attention") or {}), dict(told.get("sliding_attention") or {})
        if told.keys() - {"full_attention", "sliding_attention"}:
            raise ValueError(f"rope_parameters of {', '.join(told)}")
        if sliding.get("rope_type", "default") != "default":
            raise ValueError("rope_parameters that scale the sliding blocks")
    rest = {name: value for name, value in whole.items() if name not in ("rope_theta", "partial_rotary_factor")}
    found["rope_theta"] = whole["rope_theta"]
    found["rope_scaling"] = rest if rest.get("rope_type", "default") != "default" else None
    if "partial_rotary_factor" in whole:
        found["partial_rotary_factor"] = whole["partial_rotary_factor"]
    if sliding:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return found
