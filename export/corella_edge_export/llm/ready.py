"""A ready GGUF file taken into a bundle as it is: how it is asked, and what is checked of it before it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from corella_edge.errors import BundleError, ExportError, InputError
from corella_edge.prompt import Template, Tokens
from corella_edge_export.llm.from_gguf import GgufModel
from corella_edge_export.llm.tokenizer import resolve_answers
from corella_edge_runtime.llm.llama.dangers import check_gguf, metadata

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.binding import Model

Form = Literal["plain", "chat"]
FORMS: tuple[Form, ...] = ("plain", "chat")
_WORDS = "corella-edge's words"  # in the place of a person's, while a chat template is filled
_THINKING = "<think>\n\n</think>\n\n"
# transformers holds every weight in float32: beyond this, a machine that exports would rarely have the memory.
MOST_BYTES = 2 << 30


@dataclass(frozen=True)
class ReadyLlm:
    """A GGUF file and the form that it is asked in.

    Attributes:
        file: nothing of it is changed.
        form: "plain", the prompt as a text that the model continues; "chat", the prompt as a person's turn of the
            model's own chat template, whose answer begins the model's turn. An empty think block keeps models that
            reason first from doing so.
        source: the Hugging Face folder that the file was made of, whose tokenizer it must have; None: unknown.
    """

    file: Path
    form: Form = "plain"
    source: Path | None = None

    def check(self) -> frozenset[str]:
        """The types of its matrices. Raises InputError for what llama.cpp cannot run, or should not be given."""
        try:
            return check_gguf(self.file)
        except BundleError as error:
            raise InputError(f"--llm-gguf {self.file.parent / str(error)}") from None

    @cached_property
    def about(self) -> dict[str, Any]:
        """Key → value of the file's head, see `dangers.metadata`."""
        return metadata(self.file)

    def words(self, key: str) -> str:
        """A text of the file's head; empty if it is missing."""
        value = self.about.get(key)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    def tokens(self, model: Model, template: Template) -> Tokens:
        """What prompts need in the file's own ids.

        Raises:
            ExportError: an answer is not one token, or the file has no chat template that can be filled.
        """
        if self.form == "plain":
            return resolve_answers(model.tokenize, template, model.bos)
        before, after = self._turns()
        bos = model.bos
        ids = [model.tokenize(text, special=True) for text in (before, after)]
        if bos is not None and ids[0][:1] == [bos]:  # the template writes it, too
            del ids[0][0]
        turns = Tokens(-1, -1, bos, tuple(ids[0]), tuple(ids[1]))
        yes, no = turns.answers(template)
        answers = resolve_answers(model.tokenize, Template(yes=yes, no=no), bos)
        return Tokens(answers.yes, answers.no, bos, turns.before, turns.after)

    def _turns(self) -> tuple[str, str]:
        """What the model's chat template puts before and after a person's words, up to the model's own.

        Raises:
            ExportError: the file has none, or it cannot be filled.
        """
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        text = self.words("tokenizer.chat_template")
        if not text:
            raise ExportError(f"{self.file.name}: has no chat template (tokenizer.chat_template); use --llm-form plain")
        special = {f"{kind}_token": self._token(kind) for kind in ("bos", "eos")}
        filler = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **special)
        try:
            filled: str = filler.apply_chat_template(
                [{"role": "user", "content": _WORDS}], chat_template=text, tokenize=False, add_generation_prompt=True,
                enable_thinking=False,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - Jinja, and whatever a template calls, raise errors of their own
            raise ExportError(f"{self.file.name}: its chat template cannot be filled ({error})") from None
        before, found, after = filled.partition(_WORDS)
        if not found or not after.strip():
            raise ExportError(f"{self.file.name}: its chat template opens no turn for the model; use --llm-form plain")
        thinks = "</think>" in text and "</think>" not in after
        return before, after + (_THINKING if thinks else "")

    def _token(self, kind: str) -> str:
        """The text of a special token; empty if the file names none."""
        tokens, place = self.about.get("tokenizer.ggml.tokens", []), self.about.get(f"tokenizer.ggml.{kind}_token_id")
        known = isinstance(place, int) and place < len(tokens)
        return tokens[place].decode("utf-8", "replace") if known else ""

    def torch_scores(self, prompts: Sequence[Sequence[int]], tokens: Tokens) -> npt.NDArray[np.float64] | None:
        """P(Yes), float64 [n], of prompts by transformers, which computes in float32 with the same file's weights.

        None for a file so large that this would not fit the memory of most machines.
        """
        if self.file.stat().st_size > MOST_BYTES:
            return None
        model = GgufModel(self.file).model()
        answers = torch.tensor([tokens.yes, tokens.no])
        with torch.inference_mode():
            logits = [model(torch.tensor([list(ids)]), logits_to_keep=1).logits[0, -1][answers] for ids in prompts]
        return torch.softmax(torch.stack(logits).double(), 1)[:, 0].numpy()
