"""What is asked of a bundle before it is put into a site or given out: its reference rows, repeated on this machine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from corella_edge.cli import talk
from corella_edge.errors import BundleError


def reference_check(wanted: bool) -> Callable[[Path], None]:
    """A check that raises BundleError for a bundle whose scores are not the trained models'."""
    return _repeat if wanted else lambda folder: None


def _repeat(folder: Path) -> None:
    if find_spec("onnxruntime") is None:
        talk.warn("not verified: that needs the extra [cpu]")
        return
    from corella_edge_runtime import reference
    from corella_edge_runtime.engine import Engine

    # A child, as in serving: a model file that llama.cpp cannot stand must not end the command.
    with Engine.open(folder, llm="process", tuned=False) as engine:
        found = reference.compare(engine)
        if engine.llm is None and engine.bundle.prompt() is not None:
            talk.warn("the LLM is not verified: " + "; ".join(engine.warnings))
    if found.problems:
        raise BundleError(f"{engine.name}: differs from the trained models in {len(found.problems)} place(s), "
                          f"first: {found.problems[0]}")  # fmt: skip
