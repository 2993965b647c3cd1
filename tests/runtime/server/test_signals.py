"""Signals to a server at each moment of its life, with what it inherits from a shell, a script or `nohup`."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

FAKE = Path(__file__).with_name("serve_fake.py")
COMMAND = Path(__file__).with_name("serve_cli.py")
HARMLESS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


class Process:
    """A server, and its address once it says so."""

    def __init__(self, args: Sequence[object], ignored: Sequence[signal.Signals]) -> None:
        def inherit() -> None:
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        command = [sys.executable, *map(str, args)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=inherit)
        assert self.process.stdout is not None
        self.url = ""
        while not self.url and (line := self.process.stdout.readline()):
            self.url = "".join(re.findall(r"http://[^\s(]+", line))

    def send(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)

    def until_ready(self, status: int = 200) -> None:
        end = time.monotonic() + 30
        while httpx.get(f"{self.url}/v2/health/ready").status_code != status:
            assert time.monotonic() < end
            time.sleep(0.01)

    def ends(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    with contextlib.ExitStack() as stack:

        def started(*args: object, ignored: Sequence[signal.Signals] = ()) -> Process:
            server = Process(args, ignored)
            stack.callback(server.process.communicate)
            stack.callback(server.process.kill)
            return server

        yield started


@pytest.mark.slow
def test_a_hangup_ends_nothing_at_any_moment(start: Callable[..., Process]) -> None:
    server = start(FAKE, json.dumps({"load_seconds": 1.0, "delay": 1.0}))
    server.send(*[signal.SIGHUP] * 3)
    server.until_ready(503)
    server.send(signal.SIGHUP)
    server.until_ready()
    server.send(signal.SIGHUP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{server.url}/v1/rank", content=b'{"user":{}}', timeout=30)
        while "rank_in_flight 1.0" not in httpx.get(f"{server.url}/metrics").text:
            time.sleep(0.01)
        server.send(signal.SIGTERM)
        server.until_ready(503)
        server.send(*[signal.SIGHUP] * 3)
        assert asked.result().status_code == 200
    assert server.ends() == 0


@pytest.mark.parametrize("ignored", [[], [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD]])
def test_the_command_outlives_what_asks_for_something_else(
    start: Callable[..., Process], tmp_path: Path, ignored: list[signal.Signals]
) -> None:
    server = start(COMMAND, "serve", tmp_path / "bundle", "--port", 0, ignored=ignored)
    server.send(*HARMLESS)
    server.until_ready()
    server.send(*HARMLESS)
    assert httpx.post(f"{server.url}/v1/rank", content=b'{"user":{}}').status_code == 200
    server.send(signal.SIGTERM)
    assert server.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_the_command_ends_well_at_what_ends_it(
    start: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    server = start(COMMAND, "serve", tmp_path / "bundle", "--port", 0)
    server.until_ready()
    server.send(number)
    assert server.ends() == 0


def test_a_background_job_is_ended_by_sigterm_alone(start: Callable[..., Process], tmp_path: Path) -> None:
    ignored = [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
    server = start(COMMAND, "serve", tmp_path / "bundle", "--port", 0, ignored=ignored)
    server.until_ready()
    server.send(signal.SIGINT, signal.SIGQUIT)
    time.sleep(0.3)
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    server.send(signal.SIGTERM)
    assert server.ends() == 0


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize(("host", "families"), [("::", "IPv4 and IPv6"), ("0.0.0.0", "IPv4 alone")])
def test_every_address_is_the_families_that_are_told(
    start: Callable[..., Process], tmp_path: Path, host: str, families: str
) -> None:
    if host == "::" and not (has_ipv6() and socket.has_dualstack_ipv6()):
        pytest.skip("no IPv6 here")
    server = start(COMMAND, "serve", tmp_path / "bundle", "--port", 0, "--host", host, "--insecure")
    port = server.url.rpartition(":")[2]
    assert server.url == f"http://127.0.0.1:{port}"
    for address in ("127.0.0.1", *(["[::1]"] if host == "::" else [])):
        assert httpx.get(f"http://{address}:{port}/v2/health/live").status_code == 200
    server.send(signal.SIGTERM)
    assert server.ends() == 0
