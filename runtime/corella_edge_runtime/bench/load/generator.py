"""An open-loop load generator: `python -m corella_edge_runtime.bench.load.generator FOLDER` sends the plan in FOLDER.

Requests leave at their moments whatever became of those before: one thread, persistent connections, more of them when
all are busy. It says on standard output when it begins (`time.monotonic()`), and ends by writing what happened.
"""

from __future__ import annotations

import gc
import hashlib
import math
import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from corella_edge_runtime.bench.load.http import HttpReply, ReplyError
from corella_edge_runtime.bench.load.plan import Happened, LoadPlan, read_plan, write_happened

HEAD_START = 0.05  # seconds from the announcement to the beginning
IDLE = 10.0  # a connection unused for longer is not used again: the server may be about to close it
READ = 262144


Address = tuple[socket.AddressFamily, Any]


def resolved(host: str, port: int) -> Address:
    """Family and address of a name. Raises OSError: it is not known."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return found[0], found[4]


class Connection:
    """One socket, and the request that is on its way over it."""

    __slots__ = ("fileno", "idle_since", "left", "number", "reply", "socket")

    def __init__(self, address: Address) -> None:
        self.socket = socket.socket(address[0], socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address[1])
        self.fileno = self.socket.fileno()
        self.idle_since = 0.0
        self.number = -1
        self.reply = HttpReply()
        self.left = memoryview(b"")

    def send(self, number: int, request: bytes) -> None:
        """Take a request on; `write` sends it."""
        self.number, self.reply, self.left = number, HttpReply(), memoryview(request)

    def write(self) -> None:
        """Send what the socket takes.

        Raises:
            OSError: the connection is refused, or gone.
        """
        try:
            self.left = self.left[self.socket.send(self.left) :]
        except BlockingIOError:
            return

    def read(self) -> bool:
        """Take what has come; True if the reply is complete.

        Raises:
            OSError, ReplyError: there will be none.
        """
        data = self.socket.recv(READ)
        if data:
            return self.reply.feed(data)
        self.reply.ended()
        return True


class Generator:
    """Sends a plan once."""

    def __init__(self, plan: LoadPlan, requests: list[bytes]) -> None:
        count = len(plan.moments)
        self._plan, self._requests, self._needle = plan, requests, plan.count.encode()
        self._address = resolved(plan.host, plan.port)
        self._next, self._count, self._begin = 0, count, 0.0
        self._waiting: deque[int] = deque()
        self._open: dict[int, Connection] = {}  # by descriptor
        self._idle: list[Connection] = []
        self._busy: dict[int, Connection] = {}  # by descriptor, oldest request first
        self._writing: dict[int, Connection] = {}
        never = [math.nan] * count
        self.happened = Happened(
            never, never.copy(), never.copy(), [0] * count, [""] * count, [""] * count, [0] * count, [b""] * count
        )

    def run(self, begin: float) -> Happened:
        """Send everything from `begin` on, a time of `time.monotonic()`; return when the last reply is there."""
        self._begin = begin
        time.sleep(max(0.0, begin - time.monotonic()))
        used = os.times()
        while self._next < self._count or self._busy or self._waiting:
            self._send_due(time.monotonic() - begin)
            self._wait()
        now = os.times()
        self.happened.cpu_seconds = now.user - used.user + now.system - used.system
        self.happened.wall_seconds = time.monotonic() - begin
        for connection in list(self._open.values()):
            self._close(connection)
        return self.happened

    def _send_due(self, now: float) -> None:
        moments = self._plan.moments
        while self._next < self._count and moments[self._next] <= now:
            self._waiting.append(self._next)
            self._next += 1
        while self._waiting and (self._idle or len(self._busy) < self._plan.connections):
            number = self._waiting.popleft()
            try:
                connection = self._free(now)
            except OSError as error:  # no descriptor is left
                self.happened.error[number] = f"connect: {error.strerror}"
                continue
            connection.send(number, self._requests[self._plan.which[number]])
            self._busy[connection.fileno] = connection
            self.happened.sent[number] = time.monotonic() - self._begin
            self._write(connection)

    def _free(self, now: float) -> Connection:
        """One that nobody uses, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < IDLE:
                return connection
            self._close(connection)
        self.happened.connections += 1
        connection = Connection(self._address)
        self._open[connection.fileno] = connection
        return connection

    def _wait(self) -> None:
        """Until something can be read or written, the next request is due, or the oldest one's time is up."""
        readable, writable, _ = select.select(list(self._open), list(self._writing), (), self._patience())
        for descriptor in writable:
            self._write(self._writing[descriptor])
        for descriptor in readable:
            if descriptor in self._busy:
                self._read(self._busy[descriptor])
            elif descriptor in self._open:
                self._drop_idle(self._open[descriptor])
        self._give_up(time.monotonic() - self._begin)

    def _patience(self) -> float:
        ends = [self._plan.moments[self._next]] if self._next < self._count else []
        ends += [self.happened.sent[self._oldest().number] + self._plan.patience] if self._busy else []
        return max(0.0, min(ends, default=0.0) - (time.monotonic() - self._begin))

    def _oldest(self) -> Connection:
        return next(iter(self._busy.values()))

    def _write(self, connection: Connection) -> None:
        try:
            connection.write()
        except OSError as error:
            self._failed(connection, f"send: {error.strerror}")
            return
        if connection.left:
            self._writing[connection.fileno] = connection
        else:
            self._writing.pop(connection.fileno, None)

    def _read(self, connection: Connection) -> None:
        now = time.monotonic() - self._begin
        if math.isnan(self.happened.first[connection.number]):
            self.happened.first[connection.number] = now
        try:
            complete = connection.read()
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(connection, f"receive: {error.strerror}")
        except ReplyError as error:
            self._failed(connection, str(error))
        else:
            if complete:
                self._done(connection, now)

    def _done(self, connection: Connection, now: float) -> None:
        number, reply, happened = connection.number, connection.reply, self.happened
        happened.end[number], happened.status[number], happened.timing[number] = now, reply.status, reply.timing
        if self._needle:
            happened.counted[number] = reply.body.count(self._needle)
        if self._plan.keep == "hash":
            happened.body[number] = hashlib.sha256(reply.body).hexdigest().encode()
        elif self._plan.keep == "all":
            happened.body[number] = reply.body
        self._forget(connection)
        if reply.reusable and not connection.left:
            connection.idle_since = now
            self._idle.append(connection)
        else:
            self._close(connection)

    def _failed(self, connection: Connection, why: str) -> None:
        self.happened.error[connection.number] = why
        self._forget(connection)
        self._close(connection)

    def _forget(self, connection: Connection) -> None:
        self._busy.pop(connection.fileno, None)
        self._writing.pop(connection.fileno, None)

    def _drop_idle(self, connection: Connection) -> None:
        """The server has closed it, or says what nobody asked for."""
        self._idle.remove(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._open[connection.fileno]
        connection.socket.close()

    def _give_up(self, now: float) -> None:
        while self._busy and now - self.happened.sent[(oldest := self._oldest()).number] >= self._plan.patience:
            self._failed(oldest, f"no reply within {self._plan.patience:g} s")


def main(folder: Path) -> None:
    """Send the plan in `folder`."""
    plan, requests = read_plan(folder)
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    gc.disable()
    begin = time.monotonic() + HEAD_START
    sys.stdout.write(f"{begin}\n")
    sys.stdout.flush()
    write_happened(folder, Generator(plan, requests).run(begin))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
