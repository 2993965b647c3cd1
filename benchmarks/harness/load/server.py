"""The server under test: `corella-edge serve` in a process of its own, as a user would start it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from corella_edge.errors import CorellaError

CHILD_NAME = "corella-llm"
PATIENCE = 60.0
_OUTCOME = re.compile(r'corella_edge_candidates_total\{.*\boutcome="([^"]*)"')
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ServerError(CorellaError):
    """The server did not start, or has ended."""


class Server:
    """A running server; what it says goes to `log`.

    Args:
        options: of `corella-edge serve`, beside the bundle and the port.
        environment: variables beside those of this process.
    """

    def __init__(
        self, bundle: Path, log: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-P", "-m", "corella_edge", "serve", str(bundle), "--port", "0", *options]
        self._log = log
        with log.open("ab") as told:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, text=True,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self.pid = self._process.pid
        self.address = self._listening()

    def _listening(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if "http://" not in line:
            self._process.stdout.close()
            raise ServerError(f"serve ended with {self._process.wait()} before it listened; {self._log} says why")
        return line.split()[-1]

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body; status 0 where nothing answers."""
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Until the bundle is loaded and warm.

        Raises:
            ServerError: it has ended, or takes too long.
        """
        end = time.monotonic() + PATIENCE
        while self.ask("GET", "/v2/health/ready")[0] != 200:
            if not self.running or time.monotonic() > end:
                raise ServerError(f"the server did not become ready; {self._log} says why")
            time.sleep(0.05)

    def metrics(self) -> dict[str, float]:
        """Every line of `/metrics`: the name with its labels → value."""
        text = self.ask("GET", "/metrics")[1].decode("utf-8")
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def total(self, name: str) -> float:
        """The sum of a metric over all its labels; 0 where there is none."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def outcomes(self) -> Counter[str]:
        """How many candidates have been scored so far, by outcome: easy, llm, or why the LLM did not answer."""
        found: Counter[str] = Counter()
        for name, value in self.metrics().items():
            outcome = _OUTCOME.match(name)
            if outcome:
                found[outcome[1]] += int(value)
        return found

    @property
    def children(self) -> list[int]:
        """Its LLM processes: one, or none while it is being started again."""
        return [child for child in children_of(self.pid) if name_of(child) == CHILD_NAME]

    def processes(self) -> list[int]:
        """The server and all its children."""
        return [self.pid, *children_of(self.pid)]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """SIGTERM, and SIGKILL to what does not end by it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def children_of(process: int) -> list[int]:
    """Living children, whichever thread started them; none of a process that is gone."""
    found: list[int] = []
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:  # the thread has ended
            continue
    return sorted(found)


def name_of(process: int) -> str:
    """What a process calls itself; "" if it is gone."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def resident(process: int) -> int:
    """Bytes of memory that are resident; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
