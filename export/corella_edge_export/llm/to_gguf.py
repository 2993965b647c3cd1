"""A language model of transformers and its tokenizer → one GGUF file, f16 weights, f32 norms and biases."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from corella_edge.errors import ExportError
from corella_edge.prompt import PromptEncoder
from corella_edge.request import User
from corella_edge_export.llm.architectures import (
    ARCHITECTURES,
    FACTORS,
    HEAD_SIZES,
    OUTSIDE,
    PATTERN,
    Architecture,
    head_size,
    problem,
    readable,
    rope_keys,
    rope_kind,
)

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.binding import Model

# How a tokenizer.json splits text before merging → llama.cpp's name for the same rule.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_WORDS + r"\p{N}" + _REST: "qwen2", _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe"}
Array = npt.NDArray[Any]


def write_gguf(
    model: Any, tokenizer: Any, path: Path, name: str, spm: Path | None = None, context: int | None = None
) -> None:
    """Write `path`.

    Args:
        model: a causal model of one of `architectures.ARCHITECTURES`, with adapters already merged.
        spm: the checkpoint's SentencePiece `tokenizer.model`, for tokenizers of that kind.
        context: the longest prompt, where that is less than what the model could read.

    Raises:
        ExportError: a setting, tensor or tokenizer that has no counterpart in the file.
    """
    _write(model.config, tokenizer, path, name, spm, context, {**model.state_dict(), **_rope_factors(model)})


def write_vocabulary(config: Any, tokenizer: Any, path: Path, spm: Path | None = None) -> None:
    """Write `path` without weights: enough for llama.cpp to tokenise. Raises as `write_gguf`."""
    _write(config, tokenizer, path, "vocabulary", spm, None, {})


def _write(
    config: Any, tokenizer: Any, path: Path, name: str, spm: Path | None, context: int | None,
    weights: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    _refuse_unknown(config, tokenizer)
    row = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, row.name)
    try:
        _sizes(writer, config, row, name, context)
        _tokenizer(writer, tokenizer, config.vocab_size, spm)
        for key, tensor in weights.items():
            if not (key.startswith("lm_head") and config.tie_word_embeddings) and "rotary_emb" not in key:
                _tensor(writer, key, tensor, config, row)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _refuse_unknown(config: Any, tokenizer: Any) -> None:
    if why := problem(config):
        raise ExportError(f"the model cannot be written to GGUF: {why}")
    if len(tokenizer) > config.vocab_size:
        raise ExportError(
            f"the tokenizer has {len(tokenizer)} tokens, the model embeddings for {config.vocab_size}; "
            "resize the model's embeddings or remove the added tokens"
        )


def _sizes(writer: Any, config: Any, row: Architecture, name: str, context: int | None) -> None:
    writer.add_name(name)
    found = {key: getattr(config, setting) for setting, key in row.settings.items()}
    found |= dict.fromkeys(HEAD_SIZES, head_size(config)) | rope_keys(config)
    found["context_length"] = min(readable(config), context or readable(config))
    if row.windows:
        writer.add_array(f"{row.name}.{PATTERN}", [kind == "sliding_attention" for kind in config.layer_types])
    for key, value in found.items():
        if value is not None:  # a soft cap that is off
            _number(writer, f"{row.name}.{key}", value)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))


# What transformers may hold as a whole number.
_FLOATS = ("rope.freq_base", "rope.freq_base_swa", "attn_logit_softcapping", "final_logit_softcapping")


def _number(writer: Any, key: str, value: float | str) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float) or key.endswith(_FLOATS):
        writer.add_float32(key, float(value))
    else:
        writer.add_uint32(key, value)


def _tensor(writer: Any, key: str, tensor: torch.Tensor, config: Any, row: Architecture) -> None:
    name = gguf_name(key, row)
    values: Array = tensor.detach().to(torch.float32).numpy()
    values = interleave_heads(name, values, config, row)
    if values.ndim > 1:
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise ExportError(f"the tensor {key} has values that f16 cannot hold")
        values = values.astype(np.float16)
    elif key.endswith("norm.weight"):
        values = values + np.float32(row.shift)
    writer.add_tensor(name, values)


def gguf_name(key: str, row: Architecture) -> str:
    """GGUF's name of a tensor of transformers. Raises ExportError if the architecture has no such part."""
    if key == FACTORS:
        return key
    stem, _, kind = key.rpartition(".")
    if stem in OUTSIDE and kind == "weight":
        return f"{OUTSIDE[stem]}.{kind}"
    parts = stem.split(".", 3)
    if parts[:2] == ["model", "layers"] and parts[3] in row.blocks:
        name = row.blocks[parts[3]]
        if kind == "weight" or (kind == "bias" and name in row.biased):
            return f"blk.{parts[2]}.{name}.{kind}"
    raise ExportError(f"the tensor {key} has no counterpart in a GGUF of the architecture {row.name}")


def interleave_heads(name: str, values: Array, config: Any, row: Architecture) -> Array:
    """`values` of a tensor of this name with its rows in GGUF's order: another one for queries and keys, if at all."""
    if not row.neighbours or not (".attn_q." in name or ".attn_k." in name):
        return values
    return _interleave(values, config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads)


def _interleave(weight: Array, heads: int) -> Array:
    """llama.cpp rotates neighbouring pairs, transformers halves: reorder the rows of each head, weights or biases."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _rope_factors(model: Any) -> dict[str, torch.Tensor]:
    """What each frequency of the model is divided by (Llama 3), float32 [half a head], under its name; else nothing."""
    config = model.config
    if not ARCHITECTURES[config.model_type].factors or rope_kind(config) not in ("default", "llama3"):
        return {}
    size = head_size(config)
    plain = 1.0 / config.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float64) / size)
    factors = (plain / model.model.rotary_emb.inv_freq.double()).float()
    return {} if torch.allclose(factors, torch.ones(1), rtol=1e-5) else {FACTORS: factors}


def _tokenizer(writer: Any, tokenizer: Any, vocab_size: int, spm: Path | None) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    if spm is not None:
        _sentencepiece(writer, spm, vocab_size, tokenizer)
    elif description["model"]["type"] == "BPE" and description["model"].get("byte_fallback"):
        _byte_fallback_bpe(writer, description, vocab_size)
    elif description["model"]["type"] == "BPE":
        _byte_level_bpe(writer, description, vocab_size)
    else:
        raise ExportError("the tokenizer is neither a byte-level BPE nor one of SentencePiece's with bytes")
    for kind in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{kind}_token_id")
        if token is not None:
            getattr(writer, f"add_{kind}_token_id")(token)
    writer.add_add_bos_token(tokenizer.bos_token_id is not None)


def _byte_level_bpe(writer: Any, description: dict[str, Any], vocab_size: int) -> None:
    _check_normalizer(description.get("normalizer"))
    pre = pre_tokenizer_name(description.get("pre_tokenizer") or {})
    _check_merges(description, pre)
    tokens, kinds = _words(description, vocab_size)
    merges = [m if isinstance(m, str) else " ".join(m) for m in description["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)


def _words(description: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """The texts and kinds of all tokens."""
    added = {entry["id"]: entry for entry in description["added_tokens"]}
    known = {index: text for text, index in description["model"]["vocab"].items()}
    known.update({index: entry["content"] for index, entry in added.items()})
    tokens = [known.get(i, f"[unused{i}]") for i in range(vocab_size)]
    return tokens, [_kind(i in known, added.get(i)) for i in range(vocab_size)]


def _check_normalizer(normalizer: dict[str, Any] | None) -> None:
    """Prompts are NFC before any tokenizer sees them; llama.cpp itself changes nothing."""
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    unknown = [step["type"] for step in steps if step["type"] != "NFC"]
    if unknown:
        raise ExportError(f"the tokenizer's normalizer {unknown} has no counterpart in llama.cpp")


def _check_merges(description: dict[str, Any], pre: str) -> None:
    """llama.cpp takes whole words from the vocabulary, whatever the merges, for one kind only."""
    if bool(description["model"].get("ignore_merges")) != (pre == "llama-bpe"):
        raise ExportError(f"the tokenizer's ignore_merges does not fit llama.cpp's {pre!r} rules")


def _kind(known: bool, added: dict[str, Any] | None) -> int:
    if not known:
        return int(gguf.TokenType.UNUSED)
    if added is None:
        return int(gguf.TokenType.NORMAL)
    return int(gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED)


def pre_tokenizer_name(pre: dict[str, Any]) -> str:
    """llama.cpp's name of a tokenizer.json's pre-tokenizer.

    Raises:
        ExportError: none of the known rules.
    """
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    words = bool(steps and steps[-1].get("use_regex", True))
    if kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and words:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and words and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not words and _split_name(steps[0]):
            return _split_name(steps[0])
    raise ExportError(f"the tokenizer's pre-tokenizer has no counterpart in llama.cpp: {json.dumps(pre)[:200]}")


def _split_name(step: dict[str, Any]) -> str:
    if step.get("behavior") != "Isolated" or step.get("invert"):
        return ""
    return SPLITS.get(step["pattern"].get("Regex"), "")


def pre_tokenizer_of(name: str) -> Any:
    """The pre-tokenizer of the `tokenizers` library for one of llama.cpp's names; the inverse of `pre_tokenizer_name`.

    Raises:
        KeyError: none of the known rules.
    """
    from tokenizers import Regex, pre_tokenizers

    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "smollm"))
    if name == "gpt-2":
        return letters
    pattern = {rule: regex for regex, rule in SPLITS.items()}
    words = pre_tokenizers.Split(Regex(pattern[name]), "isolated") if name != "smollm" else pre_tokenizers.Digits(True)
    return pre_tokenizers.Sequence([words, letters])


def _sentencepiece(writer: Any, path: Path, vocab_size: int, tokenizer: Any) -> None:
    """Of tokenizer.model; its numbers for kinds of pieces are GGUF's."""
    from sentencepiece import sentencepiece_model_pb2

    spm: Any = sentencepiece_model_pb2  # whose names are made when it is imported
    proto = spm.ModelProto.FromString(path.read_bytes())
    if proto.trainer_spec.model_type != spm.TrainerSpec.BPE:
        raise ExportError(f"{path.name} is no BPE; llama.cpp merges its pieces in another order")
    tokens = [piece.piece for piece in proto.pieces]
    scores, kinds = [piece.score for piece in proto.pieces], [int(piece.type) for piece in proto.pieces]
    for i in range(len(tokens), vocab_size):
        text = tokenizer.convert_ids_to_tokens(i)
        tokens.append(text or f"[unused{i}]")
        scores.append(-1000.0)
        kinds.append(int(gguf.TokenType.USER_DEFINED if text else gguf.TokenType.UNUSED))
    _pieces(writer, tokens, scores, kinds, proto.normalizer_spec.add_dummy_prefix)


def _byte_fallback_bpe(writer: Any, description: dict[str, Any], vocab_size: int) -> None:
    """SentencePiece's pieces, of which only tokenizer.json is there: what is merged first has the highest score."""
    tokens, kinds = _words(description, vocab_size)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(description["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    unknown = description["model"].get("unk_token")
    kinds = [_piece_kind(token, kind, unknown) for token, kind in zip(tokens, kinds, strict=True)]
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    _pieces(writer, tokens, scores, kinds, _puts_a_space_first(description))


def _piece_kind(token: str, kind: int, unknown: str | None) -> int:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return int(gguf.TokenType.BYTE)
    return int(gguf.TokenType.UNKNOWN) if token == unknown else kind


def _puts_a_space_first(description: dict[str, Any]) -> bool:
    """Whether a text begins as a word in its middle does. Raises ExportError for steps that llama.cpp has not."""
    normalizer, splits = description.get("normalizer") or {}, description.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    unknown = [step["type"] for step in steps if step["type"] not in ("Prepend", "Replace", "NFC")]
    if unknown or splits.get("type") not in (None, "Metaspace", "Split"):
        raise ExportError(f"the tokenizer's steps {unknown or splits['type']} have no counterpart in llama.cpp")
    return "Prepend" in [step["type"] for step in steps] or splits.get("prepend_scheme") in ("first", "always")


def _pieces(writer: Any, tokens: list[str], scores: list[float], kinds: list[int], space: bool) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(space)


def check_tokens(model: Model, encoder: PromptEncoder, users: Iterable[User]) -> int:
    """How many texts (every item, header and tail) llama.cpp and the trainer's tokenizer split alike.

    Raises:
        ExportError: one differs; the message shows it.
    """
    template = encoder.template
    items = (template.item_text(attributes) for attributes in encoder.catalog.attributes)
    headers = {template.header(user) for user in users}
    tails = {template.tail(event) for user in users for event in user.history}
    texts = [text for text in (*items, *headers, *tails, template.yes, template.no) if text is not None]
    runtime = PromptEncoder(template, encoder.catalog, model.tokenize, encoder.tokens)
    for text in texts:
        expected, found = encoder.tokenize(text), runtime.tokenize(text)
        if expected != found:
            raise ExportError(f"tokenisation differs for {text!r}: {expected} in training, {found} in llama.cpp")
    return len(texts)
