"""What several commands need: extras checked by name, thresholds and ratios as options."""

from __future__ import annotations

from importlib.util import find_spec

import click

from corella_edge.errors import InputError, MissingExtraError
from corella_edge.router import RATIOS, parse_share

EXPORT_MODULES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "optimum", "onnx", "gguf", "safetensors",
                  "sentencepiece", "polars", "tqdm")  # fmt: skip


def need(command: str, extra: str, *modules: str) -> None:
    """Fail early, by name, when a module that `command` needs is not installed."""
    if any(find_spec(module) is None for module in modules):
        raise MissingExtraError(command, extra)


def need_export(command: str) -> None:
    """The heavy half and the runtime it verifies with."""
    need(command, "export", *EXPORT_MODULES)
    need(command, "cpu", "onnxruntime")
    need(command, "llm", "llama_cpp")


def parse_ratios(text: str) -> list[float]:
    """`0,0.05,1` as ascending shares without repeats; empty text is the standard grid."""
    if not text.strip():
        return list(RATIOS)
    return sorted({parse_share(part.strip()) for part in text.split(",")})


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
