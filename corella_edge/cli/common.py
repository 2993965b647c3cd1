"""What several commands need: extras checked by name, thresholds and ratios as options."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from corella_edge.cli import talk
from corella_edge.errors import InputError, MissingExtraError
from corella_edge.formats.text_files import TextFile
from corella_edge.routing.forms import parse_share
from corella_edge.routing.policy import RATIOS

if TYPE_CHECKING:
    from corella_edge.bundle.signature import TrustedKey
    from corella_edge_export.recipe import Recipe
    from corella_edge_runtime.decisions import DecisionLog
    from corella_edge_runtime.engine import Engine

EXPORT_MODULES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "optimum", "onnx", "gguf", "safetensors",
                  "sentencepiece", "polars", "duckdb", "zstandard", "tqdm")  # fmt: skip


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


def note_precision(recipe: Recipe) -> None:
    """Tell where this machine does not compute in the recipe's precision."""
    from corella_edge_export.llm import precision
    from corella_edge_export.training.stages import joined

    if recipe.computes_llm and (found := precision.note(recipe.llm.precision, joined().device.type)):
        talk.note(found)


def with_checkpoint(recipe: Recipe, folder: Path | None) -> Recipe:
    """The recipe with its checkpoint in `folder`, where that is given; what else hub ids name is fetched.

    Raises:
        InputError: a recipe that trains from scratch, or a hub that cannot be reached.
    """
    from corella_edge_export.llm import hub
    from corella_edge_export.recipe import at_checkpoint, fetched

    return fetched(at_checkpoint(recipe, folder), lambda path, key: hub.at_hand(path, key, talk.say))


json_option = click.option("--json", is_flag=True, help="One JSON object instead of text.")


def echo_json(value: Any) -> None:
    """The result for programs. JSON has no NaN and no infinity: null instead."""
    click.echo(json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=1))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mib(size: int) -> str:
    """A size for people."""
    tenths = (10 * size + 2**19) // 2**20  # in whole numbers: a damaged bundle may name a size of 400 digits
    return f"{tenths // 10:,}.{tenths % 10} MiB" if tenths else "< 0.1 MiB"


def nats(threshold: float) -> str:
    """A threshold for people: the least entropy that the LLM is asked about."""
    return f"{threshold:.4f} nats" if math.isfinite(threshold) else "never"


def figure(value: float | None) -> str:
    """A measure of quality for people."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.4f}"


def columns(rows: Sequence[Sequence[str]], right: bool = False) -> Iterator[str]:
    """Rows of cells, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.rjust(width) if right else cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def open_engine(bundle: Path, **options: Any) -> Engine:
    """An engine, with its warnings on stderr."""
    from corella_edge_runtime.engine import Engine

    engine = Engine.open(bundle, **options)
    for warning in engine.warnings:
        talk.warn(warning)
    talk.debug(f"{engine.name}: threshold {engine.policy}, {engine.setup}")
    return engine


def tell_threshold(engine: Engine) -> None:
    """On stderr: what the engine's threshold means, and costs on this machine."""
    if not talk.quiet():
        engine.know_cost()
        for sentence in engine.told():
            talk.say(sentence)


def _recipe_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For tab completion."""
    try:
        from corella_edge_export.recipe import names
    except ModuleNotFoundError:  # a message would land in the line that is typed
        return []
    return [name for name in names() if name.startswith(incomplete)]


recipe_argument = click.argument("recipe", shell_complete=_recipe_names)
reuse_option = click.option(
    "--reuse", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True,
    help="A run whose finished stages are taken over where they would come out the same; may be repeated.",
)  # fmt: skip
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


class TextFileType(click.Path):
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


class Duration(click.ParamType[float]):
    """A time such as 90s, 10m, 1h or 2d; a bare number is seconds."""

    name = "duration"
    _UNITS: ClassVar = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

    def __init__(self, least: float, most: float) -> None:
        """Bounds in seconds, both included."""
        self.least, self.most = least, most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text)
        if found is None:
            self.fail(f"{text[:40]!r} is not a time such as 90s, 10m or 1h", param, ctx)
        seconds = float(found[1]) * self._UNITS[found[2]]
        if not self.least <= seconds <= self.most:
            self.fail(f"{text[:40]} is not between {self.least:g} and {self.most:g} seconds", param, ctx)
        return seconds


class ThreadCount(click.IntRange):
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


LOG = click.option(
    "--log", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder for a log of decisions, one JSON line an answer; `prepare log` reads it. Default: no log.",
)  # fmt: skip
LOG_MIB = click.option(
    "--log-mib", default=1024.0, show_default=True, type=Finite(1),
    help="Size of that log; its oldest sixteenth goes when it is full.",
)  # fmt: skip


def open_log(folder: Path, mebibytes: float) -> DecisionLog:
    """The log of decisions in `folder`. Raises InputError."""
    from corella_edge_runtime.decisions import DecisionLog

    return DecisionLog.open(folder, int(mebibytes * 2**20))


def engine_options(backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that opens an engine; the command gets them as `engine`, arguments of `Engine.open`."""
    options = [
        click.option("--llm/--no-llm", default=True, show_default=True, help="Whether to load the LLM."),
        click.option("--llm-backend", default=backend, show_default=True, metavar="WHERE",
                     help="Where the LLM runs: thread, process, or a server's FLAVOUR+URL."),
        click.option("--require-llm", is_flag=True,
                     help="Fail if the LLM, or its server, does not answer a prompt at the start."),
        click.option("--crm-threads", type=ThreadCount(),
                     help="Threads of one call of the base model (CRM). Default: by plan, or 1."),
        click.option("--llm-threads", type=ThreadCount(),
                     help="Threads of the LLM. Default: by plan, or one for each core that the base model leaves."),
        click.option("--crm-memory-mib", default=64.0, show_default=True, type=Finite(0),
                     help="Memory for what a base model that reads events has read of recent users; 0 keeps nothing."),
        click.option("--plan", type=click.Path(path_type=Path),
                     help="File that `tune` wrote. Default: the one in its usual place, if any."),
        click.option("--no-plan", is_flag=True, help="Use no plan, even if there is one."),
    ]  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_engine(
            llm: bool, llm_backend: str, require_llm: bool, crm_threads: int | None, llm_threads: int | None,
            crm_memory_mib: float, plan: Path | None, no_plan: bool, **others: Any,
        ) -> Any:  # fmt: skip
            if require_llm and not llm:
                raise click.UsageError("--require-llm and --no-llm exclude each other")
            if plan is not None and no_plan:
                raise click.UsageError("--plan and --no-plan exclude each other")
            engine = {
                "llm": llm_backend if llm else None, "require_llm": require_llm, "crm_threads": crm_threads,
                "llm_threads": llm_threads, "crm_memory_mib": crm_memory_mib, "plan": plan, "tuned": not no_plan,
            }  # fmt: skip
            return command(engine=engine, **others)

        for option in reversed(options):
            with_engine = option(with_engine)
        return with_engine

    return decorate
