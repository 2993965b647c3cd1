"""`corella-edge ARGS` with the fake in the engine's place: run by test_cli.py, which tests the command alone."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import click

from conftest import FakeRanker
from corella_edge.cli import main


class Engine(FakeRanker):
    llm = None

    @classmethod
    def open(cls, bundle: Path, **options: Any) -> Engine:
        click.echo(f"open {bundle.name} {json.dumps(options)}")
        return cls()


module = types.ModuleType("corella_edge_runtime.engine")
module.Engine = Engine
sys.modules[module.__name__] = module
main(sys.argv[1:])
