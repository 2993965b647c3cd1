"""A Hugging Face hub on this machine: one repository at one commit, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OWNER, COMMIT, LARGE = "tiny/model", "0123456789abcdef0123456789abcdef01234567", (".safetensors", ".gguf", ".bin")


class FakeHub(ThreadingHTTPServer):
    """Answers as the hub does.

    Attributes:
        files: name → content. sent: what comes in the place of a file's own content, where it is another.
        cut: file → bytes after which its answers end, until it is taken out.
        refuses: (status, the hub's word for it) of every answer; None = none.
        asked: method, path and range of every request.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.sent = files, dict[str, bytes]()
        self.commit, self.refuses = COMMIT, None if files else (404, "RepoNotFound")
        self.cut, self.asked = dict[str, int](), list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def about(self) -> bytes:
        """What the hub's API tells of the repository."""
        siblings = [{"rfilename": name, "size": len(content), "blobId": git_hash(content),
                     **({"lfs": {"size": len(content), "sha256": sha256(content), "pointerSize": 130}}
                        if name.endswith(LARGE) else {})} for name, content in self.files.items()]  # fmt: skip
        return json.dumps({"id": OWNER, "sha": self.commit, "tags": ["license:mit"], "siblings": siblings}).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        resolve = f"/{OWNER}/resolve/{COMMIT}/"
        if hub.refuses is not None:
            self._send(hub.refuses[0], b"", {"X-Error-Code": hub.refuses[1]})
        elif path == f"/api/models/{OWNER}/revision/{COMMIT}":
            self._send(200, hub.about(), {"Content-Type": "application/json"})
        elif path.startswith(f"/api/models/{OWNER}/"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
            self._file(path.removeprefix(resolve))
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _file(self, name: str) -> None:
        hub = self.server
        content, own = hub.sent.get(name, hub.files[name]), hub.files[name]
        tag = sha256(own) if name.endswith(LARGE) else git_hash(own)
        about = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "X-Linked-Size": str(len(own)), "Accept-Ranges": "bytes"}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            about["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], about, hub.cut.get(name))

    def _send(self, status: int, body: bytes, headers: dict[str, str], most: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:most])
            self.close_connection = most is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """A hub with these files, while it is needed."""
    with FakeHub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
