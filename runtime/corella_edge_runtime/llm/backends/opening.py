"""Which backend answers: in this process, in a process of its own, or a server elsewhere.

The tokenizer is always here, on the GGUF's own vocabulary: prompts travel as token ids, so that no server's template
or special-token rule can change what is asked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.thread import LlmBackend, ThreadBackend
from corella_edge_runtime.llm.guard import GuardedBackend, Limits
from corella_edge_runtime.llm.settings import LlmSettings

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.binding import Model

# A server has limits of its own for what takes long, and computes many prompts between two signs of life.
FAR_AWAY = Limits(silence=10.0, probe=5.0)
KINDS = "thread, process, llama-server+http://HOST:PORT, sglang+http://HOST:PORT, vllm+http://HOST:PORT"


def open_backend(
    kind: str, model_file: Path, tokens: Tokens, settings: LlmSettings, warn: Callable[[str], None] | None = None,
    required: bool = False, extra: bool | None = None,
) -> tuple[GuardedBackend, Model]:  # fmt: skip
    """A backend ready for work, behind its breaker, and the model to tokenise with.

    The model is its vocabulary alone unless `kind` is "thread".

    Args:
        kind: "thread", "process", or the flavour and address of a server: "sglang+http://10.0.0.7:30000". A bare
            http:// address is refused: the three speak different forms, and a wrong guess would score wrongly.
        model_file: the GGUF; a server must have been given the same weights.
        warn: told why a process did not start, which is then tried again in the background; None: an error.
        required: a server must answer now; otherwise it is first spoken to by the first question.
        extra: see `binding.Model`.

    Raises:
        InputError: an unknown kind or a bad address; a server that is required and does not answer, or that is to be
            deterministic. BundleError: the GGUF can not be loaded. ComputeError: llama.cpp does not compute with it.
        MissingExtraError: llama.cpp, or httpx for a server, is not installed.
    """
    check_kind(kind, settings.deterministic)
    backend, model = _open(kind, model_file, tokens, settings, warn, required, extra)
    return GuardedBackend(backend, tokens, settings.batch, FAR_AWAY if "://" in kind else Limits()), model


def _open(
    kind: str, model_file: Path, tokens: Tokens, settings: LlmSettings, warn: Callable[[str], None] | None,
    required: bool, extra: bool | None,
) -> tuple[LlmBackend, Model]:  # fmt: skip
    if kind == "thread":
        return thread_side(model_file, tokens, settings, extra=extra)
    if kind == "process":
        return _process(model_file, tokens, settings, warn, extra)
    return _remote(kind, model_file, tokens, settings, required)


def check_kind(kind: str, deterministic: bool = False) -> None:
    """Raises InputError unless `open_backend` knows the kind, and it can be deterministic if that is asked for.

    Loads nothing.
    """
    if kind in ("thread", "process"):
        return
    if "://" not in kind:
        raise InputError(f"llm: {kind!r} is not a way to run the LLM; known: {KINDS}")
    importlib.import_module("corella_edge_runtime.llm.backends.remote.address").parse_address(kind)
    if deterministic:
        raise InputError(
            f"--deterministic and --llm-backend {kind} exclude each other: scores of a server elsewhere depend on what "
            "else it computes; take --llm-backend thread or process, or leave out --deterministic"
        )


def thread_side(
    model_file: Path, tokens: Tokens, settings: LlmSettings, on_broken: Callable[[], None] = lambda: None,
    extra: bool | None = None,
) -> tuple[ThreadBackend, Model]:  # fmt: skip
    """llama.cpp in a thread of this process; see `ThreadBackend`, and `binding.Model` for `extra`."""
    binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
    scorer = importlib.import_module("corella_edge_runtime.llm.llama.scorer")
    model: Model = binding.Model(model_file, extra=extra)
    return ThreadBackend(lambda: scorer.YesNoScorer(model, tokens, settings), settings, on_broken), model


def _process(
    model_file: Path, tokens: Tokens, settings: LlmSettings, warn: Callable[[str], None] | None, extra: bool | None
) -> tuple[LlmBackend, Model]:
    process = importlib.import_module("corella_edge_runtime.llm.backends.process.backend")
    backend = process.ProcessBackend(model_file, tokens, settings, extra=extra)
    try:
        # The child loads meanwhile.
        model = _vocabulary(model_file)
        try:
            backend.wait_ready()
        except process.NotStartedError as error:
            if warn is None:
                raise
            warn(f"the LLM does not start ({error}); the CRM decides alone, and it is tried again")
    except BaseException:
        backend.close()
        raise
    return backend, model


def _remote(
    url: str, model_file: Path, tokens: Tokens, settings: LlmSettings, required: bool
) -> tuple[LlmBackend, Model]:
    address = importlib.import_module("corella_edge_runtime.llm.backends.remote.address").parse_address(url)
    client = importlib.import_module("corella_edge_runtime.llm.backends.remote.client")
    model = _vocabulary(model_file)
    backend = client.RemoteBackend(address, tokens, settings)
    try:
        if required:
            backend.check(FAR_AWAY.probe)
    except BaseException:
        backend.close()
        raise
    return backend, model


def _vocabulary(model_file: Path) -> Model:
    binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
    model: Model = binding.Model(model_file, vocabulary_only=True)
    return model
