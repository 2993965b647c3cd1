"""A vocabulary of the right size for models whose prompts are random token ids."""

from __future__ import annotations

from typing import Any

from corella_edge.prompt import Tokens

SPECIAL = ("<pad>", "<s>", "</s>")
YES, NO = "ĠYes", "ĠNo"
MERGES = [("Ġ", "N"), ("ĠN", "o")]  # llama.cpp loads no vocabulary without merges
FIRST = len(SPECIAL) + 2  # ids from here on fill the prompts


def filler_tokens(size: int) -> list[str]:
    """`size` different tokens: special ones, the two answers, the bytes, what the merges make, then fillers."""
    from tokenizers import pre_tokenizers

    known = [*SPECIAL, YES, NO, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠN"]
    return known[:size] + [f"w{i}" for i in range(len(known), size)]


def filler_tokenizer(size: int) -> Any:
    """The same as a fast tokenizer of transformers, for the GGUF writer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(filler_tokens(size))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=SPECIAL[0], bos_token=SPECIAL[1],
                                   eos_token=SPECIAL[2])  # fmt: skip


def answer_tokens() -> Tokens:
    """Ids of the two answers; prompts bring no begin token."""
    return Tokens(len(SPECIAL), len(SPECIAL) + 1, None)
