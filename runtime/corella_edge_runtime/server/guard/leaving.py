"""Clients that leave: what is still waited for on their behalf is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive


async def unless_gone(receive: Receive, waiting: Coroutine[Any, Any, None]) -> None:
    """Wait, as long as the client does; its request has been read whole.

    Raises:
        ClientDisconnect: it has left first.
    """
    waited, gone = asyncio.create_task(waiting), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((waited, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waited.done():
            raise ClientDisconnect
        waited.result()
    finally:
        waited.cancel()
        gone.cancel()


async def _gone(receive: Receive) -> None:
    """Until the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
