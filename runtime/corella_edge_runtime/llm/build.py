"""What the installed llama.cpp was built for."""

from __future__ import annotations

import json
import sys

from corella_edge.errors import MissingExtraError

try:
    from llama_cpp import llama_cpp as C
except ImportError as error:
    raise MissingExtraError("asking the LLM", "llm") from error


def features() -> list[str]:
    """Names of the instruction sets and parts compiled in, as `llama_print_system_info` gives them."""
    text = C.llama_print_system_info().decode("utf-8", "replace")
    pairs = (part.rpartition(":")[2].partition("=") for part in text.split("|"))
    return [name.strip() for name, _, value in pairs if value.strip() not in ("", "0")]


if __name__ == "__main__":
    json.dump(features(), sys.stdout)
