"""A sentence encoder from a Hugging Face folder: hidden states, pooled over the tokens, normalised.

The files of sentence-transformers beside the model (modules.json, 1_Pooling) are honoured; what of them is not done
here is refused by its name, as the vectors would be others than the encoder's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corella_edge.errors import InputError

# config.model_type; the first ones would make a layer above [CLS] that nothing here reads, and some files lack.
WITH_POOLER = ("bert", "roberta", "xlm-roberta", "mpnet", "camembert")
KNOWN = (*WITH_POOLER, "distilbert", "electra")
MODULES, POOLING = "modules.json", "1_Pooling"
_MEAN, _CLS = "pooling_mode_mean_tokens", "pooling_mode_cls_token"


class SentenceEncoder(nn.Module):
    """Token ids and mask int64 [n, length] → vectors float32 [n, width].

    Attributes:
        config: the model's, as transformers holds it.
        longest: tokens of the longest text it reads.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError where the folder holds no whole encoder, or one that does more than this."""
        from transformers import AutoModel

        super().__init__()
        config = _json(folder / "config.json", dict)
        if config.get("model_type") not in KNOWN:
            raise InputError(
                f"{folder / 'config.json'}: model_type {str(config.get('model_type'))[:40]!r} is no sentence encoder "
                f"known here ({', '.join(KNOWN)})"
            )
        self.pooling, self.normalises = _modules(folder)
        plain = {"add_pooling_layer": False} if config["model_type"] in WITH_POOLER else {}
        try:
            with _silently():  # about weights that are not read
                self.model, found = AutoModel.from_pretrained(
                    folder, local_files_only=True, dtype=torch.float32, output_loading_info=True,
                    attn_implementation="eager", **plain,
                )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - transformers and safetensors raise of all kinds
            raise InputError(f"{folder}: the encoder cannot be read ({str(error).splitlines()[0]})") from None
        if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
            raise InputError(f"{folder}: its weights do not fit config.json: {sorted(map(str, lacking))[:3]}")
        for name, weight in self.model.named_parameters():
            if not torch.isfinite(weight).all():
                raise InputError(f"{folder}: the weight {name} holds a number that is not finite")
        self.config = self.model.config
        self.longest = _longest(folder, self.config)
        self.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """float32 [n, width]."""
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.pooled(states, attention_mask)

    def pooled(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """float32 [n, width] of the last hidden states [n, length, width]."""
        if self.pooling == "mean":
            weight = attention_mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        else:
            vectors = states[:, 0]
        return nn.functional.normalize(vectors, dim=1) if self.normalises else vectors


@contextmanager
def _silently() -> Iterator[None]:
    """transformers says nothing but errors."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def tokenizer_for(folder: Path, encoder: SentenceEncoder, tokens: int) -> Any:
    """The folder's tokenizer.json, which cuts texts at `tokens` (or what the encoder reads) and fills shorter ones up.

    Raises:
        InputError: there is none, or it does not fit the encoder.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exceptions
        raise InputError(
            f"{path}: cannot be read ({str(error)[:200]}); save the tokenizer in its fast form beside the encoder"
        ) from None
    size, rows = tokenizer.get_vocab_size(), encoder.config.vocab_size
    if size > rows:
        raise InputError(f"{path}: has {size} tokens, the encoder knows {rows}")
    pad = encoder.config.pad_token_id or 0
    tokenizer.enable_truncation(min(tokens, encoder.longest))
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad) or "[PAD]")
    return tokenizer


def _modules(folder: Path) -> tuple[str, bool]:
    """How the hidden states are pooled ("mean" or "cls"), and whether the vectors are normalised."""
    if not (folder / MODULES).exists():
        return "mean", True
    kinds = [str(part.get("type", "")).rpartition(".")[2] for part in _json(folder / MODULES, list)]
    if odd := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise InputError(f"{folder / MODULES}: the module {odd[0][:40]!r} is not known here")
    return _pooling(folder), "Normalize" in kinds


def _pooling(folder: Path) -> str:
    path = folder / POOLING / "config.json"
    modes = [name for name, on in _json(path, dict).items() if name.startswith("pooling_mode") and on is True]
    if modes not in ([_MEAN], [_CLS]):
        raise InputError(f"{path}: pools by {', '.join(modes) or 'nothing'}; only {_MEAN} or {_CLS} is known here")
    return "mean" if modes == [_MEAN] else "cls"


def _longest(folder: Path, config: Any) -> int:
    """Positions that the model has, and what its files say of the longest text."""
    positions = int(config.max_position_embeddings)
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.pad_token_id) + 1  # their positions begin after that of padding
    path = folder / "sentence_bert_config.json"
    settings = _json(path, dict) if path.exists() else {}
    if settings.get("do_lower_case"):
        raise InputError(f"{path}: do_lower_case is not known here; the tokenizer itself should do it")
    said = settings.get("max_seq_length")
    return min(positions, said) if isinstance(said, int) and said > 0 else positions


def _json(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); [crm.text] path must name a Hugging Face folder") from None
    if not isinstance(value, kind):
        raise InputError(f"{path}: expected a {'list' if kind is list else 'table'}")
    return value
