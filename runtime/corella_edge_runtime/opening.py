"""The LLM side of a bundle, from its files: checks, backend, guard. The one module that knows all the others."""

from __future__ import annotations

import importlib
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from corella_edge.bundle.artefact import TEXT, TOKENIZER, Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, ComputeError, MissingExtraError
from corella_edge.features.vectors import MakeVectors
from corella_edge.prompt import PromptEncoder, Template, Tokenize, Tokens
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.backends import table
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.settings import MAX_CONTEXT
from corella_edge_runtime.llm.guard import GuardedBackend
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.llm.llama.adapter_file import base_of, check_adapter
from corella_edge_runtime.llm.llama.dangers import check_gguf
from corella_edge_runtime.llm.llama.trust import Verdict
from corella_edge_runtime.setup import Setup

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.binding import Model


def open_text(bundle: Bundle, width: int, threads: int) -> tuple[MakeVectors | None, str]:
    """What makes vectors of `width` numbers of words that the catalogue lacks, or None; and why there is nothing.

    Raises:
        BundleError: the bundle's text model is damaged.
    """
    if not width:
        return None, ""
    missing = "items with words that the catalogue lacks are scored without their words"
    if not bundle.has(TEXT):
        return None, f"the bundle has no model of words: {missing}"
    try:
        text = importlib.import_module("corella_edge_runtime.text")
    except MissingExtraError as error:
        return None, f"{error}; until then {missing}"
    model: MakeVectors = text.TextModel(bundle.path(TEXT), bundle.path(TOKENIZER), width, threads)
    return model, ""


def replaced_catalogue(bundle: Bundle) -> str:
    """What to know of thresholds that are those of another catalogue; empty where they are the bundle's own."""
    other = bundle.calibrated_on()
    if not other:
        return ""
    return (
        f"the thresholds are calibrated on the catalogue of {other}, which was replaced: with `ratio:` the LLM may be "
        "asked about another share than it says; `corella-edge calibrate` fits them to a log of this one"
    )


def open_backend(
    kind: str, model: ModelSpec, required: bool = False, warn: Callable[[str], None] | None = None
) -> GuardedBackend:
    """A backend ready for work, behind its guard.

    Prompts travel as token ids of the GGUF's own vocabulary, so that no server's template or special-token rule can
    change what is asked.

    Args:
        kind: "thread", "process", or the flavour and address of a server: "sglang+http://10.0.0.7:30000". A bare
            http:// address is refused: the three speak different forms, and a wrong guess would score wrongly.
        required, warn: see `BackendModule`.

    Raises:
        InputError: an unknown kind or a bad address; a server that is required and does not answer, or that is to be
            deterministic. BundleError: the GGUF cannot be loaded. ComputeError: llama.cpp does not compute with it.
        MissingExtraError: llama.cpp, or httpx for a server, is not installed.
    """
    entry = table.find(kind, model.settings.deterministic)
    backend = entry.load().open_backend(kind, model, required, warn)
    return GuardedBackend(backend, model.tokens, model.settings.batch, entry.liveness)


def open_llm(
    bundle: Bundle, catalog: Catalog, kind: str, setup: Setup, required: bool = False, retried: bool = False
) -> tuple[Llm | None, str]:
    """The LLM of a bundle, or None; and why it is missing, or not there yet.

    Args:
        retried: a process that does not start is tried again, unless it is `required`.

    One that is `required` has answered a prompt.

    Raises:
        InputError: `kind` is no way to run it, or to run it so that scores are bit-equal; a server that is required
            does not answer. BundleError, ComputeError, MissingExtraError: the LLM is missing or does not answer, and it
            is required.
    """
    entry = table.find(kind, setup.llm.deterministic)
    prompt, file = bundle.prompt(), setup.llm_file
    if prompt is None or not bundle.has(file):
        if required:
            raise BundleError(f"{bundle.root}: the bundle has no LLM ({file})")
        return None, "the bundle has no LLM: the CRM decides alone"
    told: list[str] = []
    warn = told.append if retried and not required else None
    try:
        llm = _open(bundle, prompt, catalog, kind, setup, warn, required)
    except (MissingExtraError, ComputeError) as error:
        if required:
            raise
        return None, f"{error}; until then the CRM decides alone"
    # A server elsewhere has answered its own check already.
    if required and not entry.remote:
        _require_answer(llm, file)
    return llm, "".join(told)


def _require_answer(llm: Llm, file: str) -> None:
    try:
        if why := llm.prove():
            raise ComputeError(f"{file}: the LLM is loaded, but gives no answer ({why})")
    except BaseException:
        llm.close()
        raise


def _open(
    bundle: Bundle, prompt: tuple[Template, Tokens], catalog: Catalog, kind: str, setup: Setup,
    warn: Callable[[str], None] | None, required: bool,
) -> Llm:  # fmt: skip
    (template, tokens), file, known = prompt, bundle.path(setup.llm_file), bundle.adapters()
    adapters = {name: bundle.path(place) for name, place in known.files.items()}
    # Before any backend starts, and before llama.cpp is loaded here; the vocabulary alone is read in milliseconds.
    verdict = _verdict(file, adapters.values(), table.find(kind).remote)
    vocabulary = read_vocabulary(file)
    size, longest = vocabulary.vocab_size, min(vocabulary.trained_context, MAX_CONTEXT)
    begin = [] if tokens.bos is None else [tokens.bos]
    _check_tokens(file.name, size, tokens.yes, tokens.no, *begin, *tokens.before, *tokens.after)
    _check_answers(file.name, vocabulary.tokenize, template, tokens)
    extra = None if verdict is None else trust.may_use_extra(file, verdict)
    backend = open_backend(kind, ModelSpec(file, tokens, setup.llm, extra, adapters), required, warn)
    prompts = PromptEncoder(template, catalog, vocabulary.tokenize, tokens)
    llm = Llm(prompts, backend, setup.llm, size, longest, known)
    llm.verdict = verdict
    return llm


def read_vocabulary(file: Path) -> Model:
    """A GGUF to tokenise with. Raises BundleError, MissingExtraError."""
    binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
    model: Model = binding.Model(file, vocabulary_only=True)
    return model


def _verdict(file: Path, adapters: Collection[Path], remote: bool) -> Verdict | None:
    """Whether llama.cpp computes with the types of a file and its adapters here; None where a server elsewhere does."""
    kinds = set(check_gguf(file))
    if adapters:
        base = base_of(file)
        kinds.update(*(check_adapter(path, base) for path in adapters))
    if remote:
        return None
    verdict = trust.judge(sorted(kinds))
    if verdict.kernels == trust.NONE:
        raise ComputeError(f"{file.name}: {verdict.sentence}")
    return verdict


def _check_tokens(file: str, vocab_size: int, *ids: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise BundleError(f"prompt.json: token id {token} is outside the vocabulary of {file} ({vocab_size})")


def _check_answers(file: str, tokenize: Tokenize, template: Template, tokens: Tokens) -> None:
    for text, token in zip(tokens.answers(template), (tokens.yes, tokens.no), strict=True):
        if (found := tokenize(unicodedata.normalize("NFC", text))) != [token]:
            raise BundleError(f"{file}: {text!r} is the tokens {found} of its vocabulary, in prompt.json it is {token}")
