"""One end of the pair of sockets between the runtime and its LLM child: messages out from any thread, in to one."""

from __future__ import annotations

import os
import select
import socket
import threading

from corella_edge_runtime.llm.backends.process.wire import Frames, Message, encode

_CHUNK = 1 << 18


class Link:
    """Never waits for the other side: what its socket does not take at once is kept and sent by `receive`.

    One thread calls `receive`; `send` and `wake` may be called by any.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._frames = Frames()
        self._unsent = bytearray()
        self._lock = threading.Lock()
        self._closed = False

    def send(self, message: Message) -> None:
        """Send, or keep for later. Nothing happens once the link is closed or the other side is gone."""
        data = encode(message)
        with self._lock:
            if self._closed:
                return
            waiting = bool(self._unsent)
            self._unsent += data
            self._flush()
            stuck = bool(self._unsent) and not waiting
        if stuck:
            self.wake()

    def wake(self) -> None:
        """Let `receive` return now."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._bell, 1)

    def receive(self, timeout: float) -> list[Message] | None:
        """Messages that have arrived within `timeout` seconds, maybe none; None when the other side is gone.

        Raises:
            WireError: what arrived is no message.
        """
        events = self._wait(timeout)
        if events & select.POLLOUT:
            with self._lock:
                self._flush()
        if not events & ~select.POLLOUT:
            return []
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._frames.feed(data) if data else None

    @property
    def pending(self) -> bool:
        """Is there something the socket has not taken yet?"""
        return bool(self._unsent)

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._socket.close()
                os.close(self._bell)

    def _wait(self, timeout: float) -> int:
        """What the socket is ready for; a bell that rang is silenced."""
        with self._lock:
            wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        # Not select(): a server's descriptors may pass 1024.
        poll = select.poll()
        poll.register(self._socket, wanted)
        poll.register(self._bell, select.POLLIN)
        ready = dict(poll.poll(max(0.0, timeout) * 1000.0))
        if ready.pop(self._bell, 0):
            os.eventfd_read(self._bell)
        return ready.get(self._socket.fileno(), 0)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            # The other side is gone: `receive` finds that out and tells.
            sent = len(self._unsent)
        del self._unsent[:sent]
