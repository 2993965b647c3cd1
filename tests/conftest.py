"""For all tests: a busy machine fails no property test, torch's threads do not spin, inherited signals are reset."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import corella_edge_export  # noqa: F401 - before any test imports torch: libgomp reads its setting once

settings.register_profile("corella", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corella")

# A script's background job and `nohup` start with some signals ignored, and so would every process that a test starts.
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One state folder for all: what was found out about llama.cpp is found out once."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
