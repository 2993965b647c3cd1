"""The light half: opens a bundle and scores requests (numpy, ONNX Runtime, llama.cpp; never torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    """`Engine`, loaded when it is asked for: this package's other parts do not need ONNX Runtime."""
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from corella_edge_runtime.engine import Engine

    return Engine
