"""A server process with API keys around the fake: `python serve_guarded.py KEYS_FILE`; run by test_access.py."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import click
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from conftest import FakeRanker
from corella_edge.keys import KeyFile
from corella_edge_runtime.server.access import Guard
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.connections import ConnectionCounters, ConnectionLimits, protocol
from corella_edge_runtime.server.run import listen, url
from corella_edge_runtime.server.service import Service


def whoami(request: Request) -> Response:
    return Response(request.state.key_id)


def fail(request: Request) -> Response:
    raise RuntimeError(f"a fault that quotes {request.query_params['text']}")


async def main() -> None:
    service = Service()
    service.serve(FakeRanker())
    app = build_app(service, Guard(KeyFile(Path(sys.argv[1]), every=0.0)))
    app.router.routes += [Route("/v1/whoami", whoami), Route("/v1/fail", fail)]
    http = protocol(ConnectionLimits(header_seconds=1.0), ConnectionCounters())
    sock = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, http=http, lifespan="off", ws="none", log_config=None,
                                           access_log=False, timeout_graceful_shutdown=1))  # fmt: skip
    click.echo(url(sock))
    await server.serve(sockets=[sock])


# Every line of every library, down to what no operator switches on.
logging.basicConfig(level=logging.DEBUG)
asyncio.run(main())
