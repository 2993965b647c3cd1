"""The Yes/No model: a small Llama from scratch, or a local checkpoint (a folder or a GGUF file) with LoRA."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from corella_edge.errors import InputError
from corella_edge_export.llm import pretrained
from corella_edge_export.llm.architectures import ARCHITECTURES, window_of
from corella_edge_export.llm.from_gguf import SUFFIX, GgufModel
from corella_edge_export.llm.recipe import LlmRecipe


def scratch_model(recipe: LlmRecipe, vocab_size: int, bos: int, eos: int, pad: int) -> Any:
    """A `LlamaForCausalLM` with random weights and a tied head, of the recipe's sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            intermediate_size=recipe.intermediate,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    )


# What LoRA may sit on: the linear layers of the blocks. Training reads the head's rows past any adapter.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SAMPLE = 1 << 16


def check_checkpoint(recipe: LlmRecipe) -> str:
    """What of a checkpoint will be loaded, in one line; every weight has been looked at (`pretrained.check`).

    Raises:
        InputError: a folder that `pretrained.check` refuses, or adapters on layers or blocks that there are not.
    """
    unknown = sorted(set(recipe.lora.targets) - set(LINEAR))
    if unknown or not recipe.lora.targets:
        raise InputError(f"recipe, llm.lora.targets: {unknown} is not among {', '.join(LINEAR)}")
    config = checkpoint_config(Path(recipe.path))
    window = window_of(config)
    if window and recipe.context > window:  # packed sequences see by a mask of their own, which knows no window
        raise InputError(f"recipe, llm.context: some blocks of {recipe.path} look back {window} tokens and no further; "
                         f"set it to at most {window}")  # fmt: skip
    blocks = config.num_hidden_layers
    if recipe.lora.layers > blocks:
        raise InputError(f"recipe, llm.lora.layers: {recipe.lora.layers} are more than the {blocks} blocks of the LLM")
    return pretrained.check(Path(recipe.path))


def base_of(recipe: LlmRecipe) -> str:
    """Identifies the weights that adapters were trained on; empty for a model from scratch."""
    return "" if recipe.source == "scratch" else weights_of(Path(recipe.path))


def weights_of(folder: Path) -> str:
    """Identifies a checkpoint's weights: hash of its config, and of the sizes and samples of its files.

    Reading gigabytes at every command would take minutes; the beginning, middle and end of each file tell
    another model, or another fine-tuning of the same one, apart.
    """
    whole = folder.suffix == SUFFIX  # one file, which holds its config
    found = hashlib.sha256(b"" if whole else json.dumps(pretrained.read_config(folder), sort_keys=True).encode())
    for path in [folder] if whole else sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        size = path.stat().st_size
        found.update(f"{'' if whole else path.name} {size}".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _SAMPLE)):
                file.seek(start)
                found.update(file.read(_SAMPLE))
    return found.hexdigest()


def checkpoint_config(folder: Path) -> Any:
    """The config of a local directory or GGUF file. Raises InputError as `check_checkpoint`."""
    if folder.suffix != SUFFIX:
        pretrained.check_config(folder, pretrained.read_config(folder))
    return pretrained.model_config(folder)


def checkpoint_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The causal model of a local Hugging Face directory or GGUF file.

    Raises:
        InputError: nothing of that kind, or files that do not hold the whole model.
    """
    from transformers import AutoModelForCausalLM

    if folder.suffix == SUFFIX:
        return GgufModel(folder).model(dtype)
    config = checkpoint_config(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, config=config, local_files_only=True, dtype=dtype, output_loading_info=True,
            attn_implementation=ARCHITECTURES[config.model_type].attention,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: the model cannot be read ({str(error).splitlines()[0]})") from None
    lacking = [*found["missing_keys"], *found["mismatched_keys"], *found["unexpected_keys"]]
    if lacking:  # transformers would go on with random weights, or without these
        raise InputError(f"{folder}: its weights do not fit config.json: {sorted(map(str, lacking))[:3]}")
    return model


def with_lora(model: Any, recipe: LlmRecipe) -> Any:
    """The model frozen, with trainable adapters on the recipe's targets in its upper blocks (peft)."""
    from peft import LoraConfig, get_peft_model

    lora, blocks = recipe.lora, model.config.num_hidden_layers
    chosen = list(range(blocks - lora.layers, blocks)) if lora.layers else None
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets),
        layers_to_transform=chosen, task_type="CAUSAL_LM",
    )  # fmt: skip
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"recipe, llm.lora: {str(error).splitlines()[0]}") from None


def recomputing(model: Any) -> Any:
    """The model, whose blocks keep only their inputs in training and are computed again for the gradients."""
    plain(model).gradient_checkpointing_enable({"use_reentrant": False})
    return model


def merged(model: Any) -> Any:
    """The plain Llama with the adapters folded into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def hidden_states(
    model: Any, tokens: Tensor, blocks: bool = False, seen: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(what the output head reads [b, length, hidden], what each block gives, the last one after the final norm).

    `tokens` int64 [b, length] is padded on the right: causal attention never looks there. `seen` replaces causal
    attention: what each token sees, bool [b, 1, length, length], and its place in its own text, int64 [b, length].
    """
    mask, places = seen or (None, None)
    if mask is not None and plain(model).config._attn_implementation == "eager":  # which adds what sdpa looks at
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
    found = plain(model).model(
        input_ids=tokens, attention_mask=mask, position_ids=places, use_cache=False, output_hidden_states=blocks
    )
    return found.last_hidden_state, tuple(found.hidden_states[1:]) if blocks else ()


def answer_logits(model: Any, hidden: Tensor, answers: Tensor) -> Tensor:
    """Logits of the answers, float32 [targets, 2], in the order of `answers` int64 [2]; `hidden` [targets, hidden].

    Only these positions meet the output head, and only its two rows; in float32 whatever the blocks computed in, as
    two logits rounded to eight bits would tie many scores. Call it outside autocast.
    """
    head: nn.Linear = plain(model).lm_head
    logits = nn.functional.linear(hidden.float(), head.weight[answers].float())
    cap = getattr(plain(model).config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def plain(model: Any) -> Any:
    """The causal model, without the wrapper that adapters put around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: every weight, or the adapters."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}
