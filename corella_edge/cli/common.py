"""What several commands need: extras checked by name, thresholds and ratios as options."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.errors import InputError, MissingExtraError
from corella_edge.formats.text_files import TextFile
from corella_edge.routing.policy import RATIOS, parse_share

if TYPE_CHECKING:
    from corella_edge.bundle.signature import TrustedKey

EXPORT_MODULES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "optimum", "onnx", "gguf", "safetensors",
                  "sentencepiece", "polars", "tqdm")  # fmt: skip


def need(command: str, extra: str, *modules: str) -> None:
    """Fail early, by name, when a module that `command` needs is not installed."""
    if any(find_spec(module) is None for module in modules):
        raise MissingExtraError(command, extra)


def need_export(command: str, *file_types: str) -> None:
    """The heavy half and the runtime it verifies with, which must compute with these types of GGUF files.

    Raises:
        MissingExtraError. ComputeError: before anything is done, and before what would end the process is loaded.
    """
    need(command, "export", *EXPORT_MODULES)
    need(command, "cpu", "onnxruntime")
    need(command, "llm", "llama_cpp")
    if file_types:
        from corella_edge_runtime.llm.llama import trust

        trust.require([kind for file_type in file_types for kind in trust.matrix_types(file_type)])


checkpoint_option = click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="Overrides the recipe's llm.path, a Hugging Face directory."
)


def trusted_key(text: str | None) -> TrustedKey | None:
    """The key of the option --trust. Raises InputError."""
    if text is None:
        return None
    from corella_edge.bundle.signature import TrustedKey

    return TrustedKey.read(text)


def parse_ratios(text: str) -> list[float]:
    """`0,0.05,1` as ascending shares without repeats; empty text is the standard grid."""
    if not text.strip():
        return list(RATIOS)
    return sorted({parse_share(part.strip()) for part in text.split(",")})


class TextInput(click.Path):
    """A file that a command reads as text; - is standard input."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, TextFile):
            return value
        return TextFile(None if value == "-" else Path(os.fsdecode(super().convert(value, param, ctx))))


class Finite(click.FloatRange):
    """A range of floats that neither `nan`, which is neither below nor above anything, nor `inf` passes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return found


class Threads(click.IntRange):
    """A number of threads, at most the CPUs that the process may run on."""

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found, most = int(super().convert(value, param, ctx)), len(os.sched_getaffinity(0))
        if found > most:
            self.fail(f"{found} is above {most}, the CPUs that this process may run on; ask for fewer", param, ctx)
        return found


class Ratios(click.ParamType[list[float]]):
    """A comma-separated list of routed shares."""

    name = "ratios"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            return parse_ratios(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


def engine_options(backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that opens an engine; the command gets them as `engine`, arguments of `Engine.open`."""
    options = [
        click.option("--llm/--no-llm", default=True, show_default=True, help="Whether to load the LLM."),
        click.option("--llm-backend", default=backend, show_default=True, metavar="WHERE",
                     help="Where the LLM runs: thread, process, or a server's FLAVOUR+URL."),
        click.option("--require-llm", is_flag=True,
                     help="Fail if the LLM, or its server, does not answer a prompt at the start."),
        click.option("--crm-threads", type=Threads(), help="Threads of one CRM call. Default: by plan, or 1."),
        click.option("--llm-threads", type=Threads(),
                     help="Threads of the LLM. Default: by plan, or one a core that the CRM leaves."),
        click.option("--plan", type=click.Path(path_type=Path),
                     help="File that `tune` wrote. Default: the one in its usual place, if any."),
        click.option("--no-plan", is_flag=True, help="Pass over any plan."),
    ]  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_engine(
            llm: bool, llm_backend: str, require_llm: bool, crm_threads: int | None, llm_threads: int | None,
            plan: Path | None, no_plan: bool, **others: Any,
        ) -> Any:  # fmt: skip
            if require_llm and not llm:
                raise click.UsageError("--require-llm and --no-llm exclude each other")
            if plan is not None and no_plan:
                raise click.UsageError("--plan and --no-plan exclude each other")
            engine = {
                "llm": llm_backend if llm else None, "require_llm": require_llm, "crm_threads": crm_threads,
                "llm_threads": llm_threads, "plan": plan, "tuned": not no_plan,
            }  # fmt: skip
            return command(engine=engine, **others)

        for option in reversed(options):
            with_engine = option(with_engine)
        return with_engine

    return decorate
