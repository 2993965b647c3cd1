"""Retention while a server runs: a thread that prunes at its start and every hour, and ends with the store."""

from __future__ import annotations

import logging
import threading

from corella_edge.errors import StoreError
from corella_edge_runtime.store.users import UserStore

_LOG = logging.getLogger("corella_edge.store")
DAY = 86_400.0


def retention_task(store: UserStore, days: float | None, events: int | None, every: float = 3600.0) -> threading.Thread:
    """Start to keep events for `days` since their arrival, and the latest `events` of each user; None = without limit.

    Old idempotency keys go in any case. What fails is logged, and tried again after `every` seconds.
    """
    age = None if days is None else days * DAY
    thread = threading.Thread(target=_keep_pruned, args=(store, age, events, every), name="retention", daemon=True)
    thread.start()
    return thread


def _keep_pruned(store: UserStore, age: float | None, events: int | None, every: float) -> None:
    while not store.closed.is_set():
        try:
            store.prune(age, events)
        except Exception as error:  # noqa: BLE001 - a fault must not be the end of retention
            if not store.closed.is_set():
                _LOG.error("retention: %s", error if isinstance(error, StoreError) else type(error).__name__)
        store.closed.wait(every)
