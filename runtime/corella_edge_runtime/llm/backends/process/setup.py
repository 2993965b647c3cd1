"""What the LLM's process has to know, as JSON on its command line. Imports no more than it says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.settings import LlmSettings


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """Plain data: no pickles, and `ps` shows what the process is for. `extra`: see `binding.Model`."""

    model: Path
    tokens: Tokens
    settings: LlmSettings
    extra: bool | None = None

    def to_json(self) -> str:
        tokens = {"yes": self.tokens.yes, "no": self.tokens.no, "bos": self.tokens.bos}
        settings = self.settings.to_json()
        return json.dumps({"model": str(self.model), "tokens": tokens, "settings": settings, "extra": self.extra})

    @classmethod
    def from_json(cls, text: str) -> ChildSetup:
        data = json.loads(text)
        settings = LlmSettings.from_json(data["settings"], "LLM process")
        return cls(Path(data["model"]), Tokens.from_json(data["tokens"]), settings, data["extra"])
