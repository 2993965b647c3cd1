"""A server process with API keys and a store of users around the fake: `python serve_guarded.py KEYS_FILE STORE`.

Run by test_access.py. A request with an id that begins with "fail" meets a fault of the server, which quotes it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from conftest import FakeDraft, FakeRanker
from corella_edge.request import Request
from corella_edge_runtime.server.following import BundleSource
from corella_edge_runtime.server.guard.access import Guard
from corella_edge_runtime.server.guard.connections import ConnectionLimits
from corella_edge_runtime.server.guard.keys import KeyFile
from corella_edge_runtime.server.guard.limits import Limits
from corella_edge_runtime.server.run import Memory, ServeSettings, listen, run
from corella_edge_runtime.store.users import UserStore


class Failing(FakeRanker):
    def begin(self, request: Request, refusal: str = "", deadline: float | None = None, *more: str) -> FakeDraft:
        if (request.id or "").startswith("fail"):
            raise RuntimeError(f"a fault that quotes {request}")
        return super().begin(request, refusal, deadline, *more)


# Every line of every library, down to what no operator switches on.
logging.basicConfig(level=logging.DEBUG)
with UserStore.open(Path(sys.argv[2])) as store:
    run(
        BundleSource(Path(), lambda _: Failing()),
        listen("127.0.0.1", 0),
        ServeSettings(Limits(), connections=ConnectionLimits(header_seconds=1.0)),
        Guard(KeyFile(Path(sys.argv[1]), every=0.0)),
        Memory(store),
        on_listening=click.echo,
    )
