"""For all tests: settings of hypothesis, torch, the disk, certificates, the garbage collector, signals and folders."""

from __future__ import annotations

import functools
import gc
import os
import signal
import ssl
import tempfile
import warnings

import pytest
from hypothesis import HealthCheck, settings

import corella_edge_export  # noqa: F401 - before any test imports torch: libgomp reads its setting once
import made_once

# `make test-slow` names the thorough one.
for name, examples in {"corella": 25, "thorough": 300}.items():
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corella")

# Of several workers each has about a core, and so small models are trained twice as fast by one thread as by two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A script's background job and `nohup` start with some signals ignored, and so would every process that a test starts.
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


# The power does not fail during a test: waiting for the disk would show nothing. Processes of their own still do.
os.fsync = lambda handle: None

# Each httpx client, and so each `httpx.get`, reads all certificates: 25 ms of a core, though no server here has one.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# One folder for all processes of a run, before anything loads llama.cpp: what was found out about it is found out once,
# and what many tests begin with is made once. Workers inherit the variables from the process that starts them.
_run = None
if "PYTEST_XDIST_WORKER" not in os.environ:
    _run = tempfile.TemporaryDirectory(prefix="corella-edge-tests-")
    os.environ["XDG_STATE_HOME"] = f"{_run.name}/state"
    os.environ[made_once.FOLDER] = f"{_run.name}/made"


# What is imported and collected stays to the end. Looking at it again and again takes the garbage collector a third of
# the time of collecting, and half a second in each full pass after that.
gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: one always waits for a process, a socket or a disk."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_unconfigure() -> None:
    if _run is not None:
        _run.cleanup()
    if "PYTEST_XDIST_WORKER" in os.environ:
        warnings.simplefilter("ignore", ResourceWarning)  # for the streams that execnet leaves open
