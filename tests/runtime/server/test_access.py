"""Who may ask for what: scopes of paths, keys and their limits, what is open without keys, and what the log holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from corella_edge.errors import InputError
from corella_edge_runtime.server.guard.access import (
    Access,
    DeniedError,
    Guard,
    Use,
    is_local,
    is_loopback,
    require_access,
    scope_of,
    take,
)
from corella_edge_runtime.server.guard.keys import SCOPES, KeyFile, KeyLimits, add_key, revoke_key

NOW = datetime.now(UTC)
LOCAL = {"host": "127.0.0.1:8000"}
NONE = KeyLimits()


@pytest.mark.parametrize(
    ("path", "scope"),
    [("/", None), ("/openapi.json", None), ("/v2", None), ("/v2/health/live", None), ("/v2/health/ready", None),
     ("/page/app.js", None), ("/page/style.css", None), ("/page/users", "rank"), ("/page/", "rank"),
     ("/v1/rank", "rank"), ("/v1/score", "rank"), ("/v2/models/rank/infer", "rank"), ("/v2/models/rank", "rank"),
     ("/v1/events", "users"), ("/v1/users", "users"), ("/v1/users/42", "users"), ("/v1/users/42/events", "users"),
     ("/metrics", "metrics"), ("/metrics/more", "metrics"), ("/admin", "admin"), ("/admin/versions", "admin"),
     ("/v1/usersx", "rank"), ("/metricsx", "rank"), ("/adminx", "rank"), ("/unknown", "rank"), ("", "rank"),
     ("//admin", "rank"), ("/v2/health", "rank"), ("/v2/health/live/", "rank"), ("/events", "rank")],
)  # fmt: skip
def test_what_a_path_needs(path: str, scope: str | None) -> None:
    assert scope_of(path) == scope


@given(st.text(alphabet="/avdmineutrcs12.", max_size=20))
def test_only_what_is_listed_is_open(path: str) -> None:
    scope = scope_of(path)
    assert scope in SCOPES or path in {"/", "/v2"} or path.startswith("/page/")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::1%lo", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("localhost", False),
     ("", False), ("127.0.0.1.evil", False), ("é", False)],
)  # fmt: skip
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1"])
def test_this_machine_needs_no_keys(host: str) -> None:
    require_access(host, None, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0", "198.51.100.7"])
def test_other_addresses_need_keys_or_insecure(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"--host {host}: other machines could reach it.*--keys FILE.*--insecure"):
        require_access(host, None, insecure=False)
    require_access(host, None, insecure=True)
    require_access(host, tmp_path / "keys.json", insecure=False)


def test_what_is_no_address_is_left_to_the_one_who_listens() -> None:
    require_access("300.300.300.300", None, insecure=False)
    require_access("a" * 300, None, insecure=False)


@pytest.mark.parametrize(
    ("peer", "headers", "local"),
    [("127.0.0.1", LOCAL, True), ("::1", {"host": "[::1]:8000"}, True), ("127.0.0.1", {"host": "localhost"}, True),
     ("127.0.0.1", {**LOCAL, "sec-fetch-site": "same-origin"}, True), ("10.0.0.1", LOCAL, False), ("", LOCAL, False),
     ("127.0.0.1", {**LOCAL, "x-forwarded-for": "10.0.0.1"}, False), ("127.0.0.1", {**LOCAL, "via": "1.1 p"}, False),
     ("127.0.0.1", {**LOCAL, "forwarded": "for=10.0.0.1"}, False), ("127.0.0.1", {"host": "evil.example"}, False),
     ("127.0.0.1", {**LOCAL, "sec-fetch-site": "cross-site"}, False), ("127.0.0.1", {}, False),
     ("127.0.0.1", {"host": "localhost.evil.example:8000"}, False), ("127.0.0.1", {"host": "[::1"}, True)],
)  # fmt: skip
def test_local_requests(peer: str, headers: Mapping[str, str], local: bool) -> None:
    assert is_local(peer, headers) is local


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    limits, use = KeyLimits(per_second=2.0, burst=3), Use(3.0, 0.0)
    assert [take(use, limits, 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert take(use, limits, 0.4) == pytest.approx(0.1)
    assert [take(use, limits, 0.5), take(use, limits, 0.5)] == [0.0, 0.5]
    assert [take(use, limits, 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@given(st.lists(st.floats(0, 2), max_size=60), st.floats(0.1, 20), st.integers(1, 5))
def test_no_span_of_time_lets_through_more_than_burst_and_rate(steps: list[float], rate: float, burst: int) -> None:
    limits, use, now, passed = KeyLimits(rate, burst), Use(float(burst), 0.0), 0.0, []
    for step in steps:
        now += step
        if take(use, limits, now) == 0.0:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + (passed[j] - start) * rate + 1e-6


class Keyring:
    """A keys file and a guard whose clock stands still."""

    def __init__(self, folder: Path, open_metrics: bool = False) -> None:
        self.path, self.now = folder / "keys.json", 0.0
        self.texts = {scope: self.add(scope) for scope in SCOPES}
        self.file = KeyFile(self.path, every=0.0)
        self.guard = Guard(self.file, open_metrics, lambda: self.now)

    def add(self, *scopes: str, limits: KeyLimits = NONE, days: float | None = None) -> str:
        return add_key(self.path, "a", scopes, limits, NOW, None if days is None else NOW + timedelta(days=days))

    def status(self, path: str, key: str = "", **headers: str) -> int:
        """Of a request that is let in: 200."""
        given = {"x-api-key": key} if key else {}
        with contextlib.suppress(DeniedError), self.guard.admit(path, "127.0.0.1", {**LOCAL, **given, **headers}):
            return 200
        return self.denial(path, {**LOCAL, **given, **headers}).status

    def denial(self, path: str, headers: Mapping[str, str]) -> DeniedError:
        with pytest.raises(DeniedError) as caught, self.guard.admit(path, "127.0.0.1", headers):
            pass
        return caught.value


PATHS = {
    "rank": "/v1/rank",
    "users": "/v1/users/7",
    "stock": "/v1/availability",
    "metrics": "/metrics",
    "admin": "/admin/versions",
}


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


def test_every_scope_opens_its_own_paths_alone(ring: Keyring) -> None:
    for scope, text in ring.texts.items():
        found = {name: ring.status(path, text) for name, path in PATHS.items()}
        assert found == {name: 200 if name == scope else 403 for name in PATHS}
    both = ring.add("rank", "metrics")
    assert [ring.status(path, both) for path in PATHS.values()] == [200, 403, 403, 200, 403]


def test_open_paths_need_no_key_and_others_do(ring: Keyring) -> None:
    for path in ("/", "/openapi.json", "/v2", "/v2/health/live", "/page/app.js"):
        assert ring.status(path) == 200
        assert ring.status(path, "ce_wrong") == 200
    for path in (*PATHS.values(), "/unknown"):
        assert ring.status(path) == 401


def test_a_key_comes_as_bearer_or_in_its_own_header(ring: Keyring) -> None:
    text = ring.texts["rank"]
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert ring.status("/v1/rank", authorization=f"{scheme} {text}") == 200
    assert ring.status("/v1/rank", text, authorization="Basic dXNlcjpwYXNz") == 200
    for value in (text, f"Basic {text}", "Bearer", "Bearer ", f"Bearer {text} {text}", f"Bearer {text[:-1]}"):
        assert ring.status("/v1/rank", authorization=value) == 401


def test_refusals_say_why_and_what_to_bring(ring: Keyring) -> None:
    missing = ring.denial("/v1/rank", LOCAL)
    assert missing.headers == {"WWW-Authenticate": 'Bearer realm="corella-edge"'}
    assert "Authorization: Bearer KEY" in str(missing)
    wrong = ring.denial("/v1/rank", {"x-api-key": "ce_00000000_" + "A" * 43})
    assert (wrong.status, str(wrong)) == (401, "the API key is not known")
    assert wrong.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    lacking = ring.denial("/metrics", {"x-api-key": ring.texts["rank"]})
    assert "lacks the scope 'metrics'" in str(lacking)
    assert lacking.headers["WWW-Authenticate"].endswith('error="insufficient_scope", scope="metrics"')


def test_a_revoked_and_an_expired_key_are_refused_without_a_restart(ring: Keyring) -> None:
    text = ring.texts["rank"]
    assert ring.status("/v1/rank", text) == 200
    revoke_key(ring.path, text[3:11], NOW)
    assert ring.status("/v1/rank", text) == 401
    assert ring.status("/v1/rank", ring.add("rank", days=-1)) == 401
    assert ring.status("/v1/rank", ring.add("rank", days=1)) == 200


def test_a_key_has_its_own_rate(ring: Keyring) -> None:
    text, other = (ring.add("rank", limits=KeyLimits(0.5, 2)) for _ in range(2))
    assert [ring.status("/v1/rank", text) for _ in range(3)] == [200, 200, 429]
    assert ring.denial("/v1/rank", {"x-api-key": text}).headers == {"Retry-After": "2"}
    assert ring.status("/v1/rank", other) == 200
    assert ring.status("/", text) == 200
    ring.now = 2.0
    assert [ring.status("/v1/rank", text) for _ in range(2)] == [200, 429]


def test_what_is_refused_takes_nothing_from_the_rate(ring: Keyring) -> None:
    text = ring.add("rank", limits=KeyLimits(1.0, 1))
    assert [ring.status("/metrics", text) for _ in range(5)] == [403] * 5
    assert ring.status("/v1/rank", text) == 200


def test_a_key_has_so_many_requests_in_flight(ring: Keyring) -> None:
    text = ring.add("rank", limits=KeyLimits(concurrent=2))
    headers = {"x-api-key": text}
    with ring.guard.admit("/v1/rank", "127.0.0.1", headers) as id:
        assert id == text[3:11]
        with ring.guard.admit("/v1/rank", "127.0.0.1", headers):
            assert ring.denial("/v1/rank", headers).headers == {"Retry-After": "1"}
        assert ring.status("/v1/rank", text) == 200
    with contextlib.suppress(RuntimeError), ring.guard.admit("/v1/rank", "127.0.0.1", headers):
        raise RuntimeError
    assert ring.status("/v1/rank", text) == 200


def test_metrics_may_be_open_to_this_machine(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, open_metrics=True)
    assert ring.status("/metrics") == 200
    assert ring.status("/admin/x") == 401
    assert ring.status("/metrics", **{"x-forwarded-for": "10.0.0.1"}) == 401
    with pytest.raises(DeniedError), ring.guard.admit("/metrics", "10.0.0.1", LOCAL):
        pass
    with ring.guard.admit("/metrics", "10.0.0.1", {"x-api-key": ring.texts["metrics"]}):
        pass


def test_without_keys_all_is_open_but_admin_is_of_this_machine() -> None:
    guard = Guard()
    for path in (*PATHS.values(), "/unknown"):
        with guard.admit(path, "127.0.0.1", LOCAL) as id:
            assert id == ""
        if path.startswith("/admin"):
            for peer, headers in (("10.0.0.1", LOCAL), ("127.0.0.1", {"host": "evil.example"})):
                with pytest.raises(DeniedError, match="open to this machine alone"), guard.admit(path, peer, headers):
                    pass
        else:
            with guard.admit(path, "10.0.0.1", {"host": "box.example"}):
                pass


def test_without_keys_a_page_of_another_site_gets_nothing() -> None:
    for path in PATHS.values():
        with pytest.raises(DeniedError), Guard().admit(path, "127.0.0.1", {**LOCAL, "sec-fetch-site": "cross-site"}):
            pass
    with Guard().admit("/", "127.0.0.1", {**LOCAL, "sec-fetch-site": "cross-site"}):
        pass


async def _application(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    body = json.dumps([scope["path"], scope["state"]]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def call(guard: Guard, path: str, root: str = "", **headers: str) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(Access(_application, guard), root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(once())


def test_the_application_learns_the_keys_id_and_never_the_key(ring: Keyring) -> None:
    text = ring.texts["rank"]
    answer = call(ring.guard, "/v1/rank", authorization=f"Bearer {text}")
    assert answer.json() == ["/v1/rank", {"key_id": text[3:11]}]
    assert call(ring.guard, "/").json() == ["/", {"key_id": ""}]


def test_refusals_have_the_form_of_every_error(ring: Keyring) -> None:
    answer = call(ring.guard, "/v1/rank")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert list(answer.json()) == ["error"]
    assert call(ring.guard, "/metrics", **{"x-api-key": ring.texts["rank"]}).status_code == 403


@pytest.mark.parametrize("path", ["/%6detrics", "/metrics?x=/", "/%61dmin/x", "/v1/%75sers/1"])
def test_an_encoded_path_needs_the_same(ring: Keyring, path: str) -> None:
    assert call(ring.guard, path, **{"x-api-key": ring.texts["rank"]}).status_code == 403


def test_what_is_no_request_passes(ring: Keyring) -> None:
    seen = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    asyncio.run(Access(application, ring.guard)({"type": "lifespan"}, nothing, nothing))
    assert seen == ["lifespan"]


def test_limits_that_change_in_the_file_hold_at_once(ring: Keyring) -> None:
    text = ring.add("rank")
    assert [ring.status("/v1/rank", text) for _ in range(50)] == [200] * 50
    from corella_edge_runtime.server.guard import keys

    entries = keys.read_keys(ring.path).entries
    keys._write(ring.path, [replace(key, limits=KeyLimits(1.0, 1)) for key in entries])
    ring.now = 10.0
    assert [ring.status("/v1/rank", text) for _ in range(2)] == [200, 429]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    path = tmp_path / "keys.json"
    add_key(path, "first", ["rank"], NONE, NOW)
    script = Path(__file__).with_name("serve_guarded.py")
    command = [sys.executable, str(script), str(path), str(tmp_path / "users.db")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        end = time.monotonic() + 30
        while httpx.get(f"{url}/v2/health/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process, url, path
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


MARK = "Xyzzy-marker"


def ask(client: httpx.Client, revoked: str) -> list[tuple[httpx.Response, int]]:
    """Requests full of the marker, and the status that each must get."""
    body = {"id": MARK, "user": {"id": MARK, "features": {MARK: MARK}, "history": [{"item": MARK}]},
            "candidates": [{"item": MARK, "features": {"title": MARK}}]}  # fmt: skip
    raw, failing = json.dumps(body).encode(), json.dumps({**body, "id": f"fail {MARK}"}).encode()
    given = {"user_id": MARK, "key": MARK, "features": {MARK: MARK}, "events": [{"item": MARK, "rating": 5}]}
    event = json.dumps(given).encode()
    return [
        (client.post("/v1/rank", content=raw), 200),
        (client.post("/v1/rank", content=raw[:-1]), 400),
        (client.post("/v1/rank", content=raw.replace(b'"candidates"', f'"{MARK}"'.encode())), 422),
        (client.post("/v1/rank", content=failing), 500),
        (client.post("/v1/rank", content=raw, headers={"Authorization": f"Bearer {revoked}"}), 401),
        (client.post("/v1/rank", content=raw, headers={"X-Api-Key": MARK}), 401),
        (client.post("/v1/events", content=event), 200),
        (client.post("/v1/rank", content=json.dumps({"user_id": MARK}).encode()), 200),
        (client.post("/v1/events", content=event.replace(b"5", f'"{MARK}"'.encode())), 422),
        (client.get(f"/v1/users/{MARK}?q={MARK}"), 200),
        (client.delete(f"/v1/users/{MARK}"), 200),
        (client.get(f"/metrics?q={MARK}", headers={"Cookie": MARK}), 403),
        (client.get(f"/{MARK}"), 404),
        (client.request(MARK, f"/{MARK}"), 400),
    ]


def send_junk(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for junk in (f"GET /{MARK} HTTP/1.1\r\nA: {MARK}\r\nB", f"{MARK}\r\n\r\n", f"GET /{MARK} HTTP/1.1\r\n\x00{MARK}"):
        with socket.create_connection((host, int(port)), 30) as client:
            client.sendall(junk.encode())
            while client.recv(1000):
                pass


def test_a_real_server_obeys_the_file_and_logs_no_text_of_users_nor_keys(
    served: tuple[subprocess.Popen[str], str, Path],
) -> None:
    process, url, path = served
    text = add_key(path, "second", ["rank", "users"], NONE, NOW)
    gone = add_key(path, "third", ["rank"], NONE, NOW)
    revoke_key(path, gone[3:11], NOW)
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {text}"}, timeout=30) as client:
        answers = ask(client, gone)
    assert [answer.status_code for answer, _ in answers] == [status for _, status in answers]
    send_junk(url)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "unexpected RuntimeError" in log
    assert "serve_guarded.py" in log
    hashed = json.loads(path.read_text())["keys"][1]["sha256"]
    for secret in (MARK, MARK.lower(), text, text[12:], gone[12:], hashed):
        assert secret not in log


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/users/u1"), ("POST", "/v1/rank"), ("GET", "/metrics")])
def test_without_keys_a_foreign_name_for_this_machine_is_refused(make_site, method: str, path: str) -> None:
    """A rebound name makes a page of elsewhere same-origin; the name is all that betrays it."""
    site = make_site()
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "0.0.0.0.evil.example"):
        refused = site.call(method, path, headers={"Host": host, "X-Forwarded-For": "1.2.3.4"})
        assert refused.status_code == 403, host
    for host in ("localhost", "Localhost.:8000", "127.0.0.1:8000", "[::1]:8000", "0.0.0.0:8000", "app.localhost", ""):
        assert site.call(method, path, headers={"Host": host}).status_code != 403, host
