"""A real server process: start, signals, drain, exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

SCRIPT = Path(__file__).with_name("serve_fake.py")


class Served:
    """A running `serve_fake.py`."""

    def __init__(self, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def status(self, path: str) -> int:
        return httpx.get(self.url + path, timeout=10).status_code

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), 20)

    def rank(self, body: bytes = b'{"user":{}}') -> httpx.Response:
        return httpx.post(self.url + "/v1/rank", content=body, timeout=30)

    def rank_in_vain(self, body: bytes = b'{"user":{}}') -> None:
        with pytest.raises(httpx.HTTPError):
            self.rank(body)

    def in_flight(self) -> float:
        return float(re.findall(r"rank_in_flight (\d\S*)", httpx.get(self.url + "/metrics").text)[0])

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def read_until(client: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received and (part := client.recv(65536)):
        received += part
    return received


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(**options: Any) -> Served:
        started.append(Served(**options))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
            served.process.communicate()


def test_life_from_loading_to_a_clean_stop(serve, tmp_path):
    served = serve(load_until=str(tmp_path / "loaded"))
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*", served.url)
    assert served.status("/v2/health/live") == 200
    assert served.status("/v2/health/ready") == 503
    assert served.rank().status_code == 503
    (tmp_path / "loaded").touch()
    served.until(lambda: served.status("/v2/health/ready") == 200)
    assert served.rank().json()["bundle"] == "fake@1"
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "closed\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_in_flight_finish(serve, number, tmp_path):
    served = serve(answer_until=str(tmp_path / "answer"), timeout_ms=None)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(served.rank) for _ in range(3)]
        served.until(lambda: served.in_flight() == 3)
        served.process.send_signal(number)
        served.until(lambda: served.status("/v2/health/ready") == 503)
        assert served.status("/v2/health/live") == 200
        assert served.rank().status_code == 503
        (tmp_path / "answer").touch()
        assert [future.result().status_code for future in running] == [200, 200, 200]
    assert served.end() == (0, "closed\n", "")


def test_idle_keep_alive_connections_do_not_hold_up_the_stop(serve):
    served = serve(connection_seconds=60)  # uvicorn would give the open connection a minute
    served.until(lambda: served.status("/v2/health/ready") == 200)
    with httpx.Client() as client:
        client.get(served.url + "/v2/health/live")
        served.process.send_signal(signal.SIGTERM)
        assert served.end()[0] == 0


def test_a_second_signal_does_not_wait_and_says_what_was_lost(serve):
    served = serve(delay=15.0)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    thread = threading.Thread(target=served.rank_in_vain)
    thread.start()
    served.until(lambda: served.in_flight() == 1)
    served.process.send_signal(signal.SIGTERM)
    served.until(lambda: served.status("/v2/health/ready") == 503)
    served.process.send_signal(signal.SIGTERM)
    code, out, err = served.end()
    thread.join()
    assert (code, out) == (1, "")
    assert "1 requests unanswered" in err
    assert "Traceback" not in err


def test_the_grace_period_ends(serve):
    served = serve(delay=15.0, grace=0.2)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    thread = threading.Thread(target=served.rank_in_vain)
    thread.start()
    served.until(lambda: served.in_flight() == 1)
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.end()
    thread.join()
    assert code == 1
    assert "1 requests unanswered" in err


def test_a_body_that_is_still_parsed_counts_and_does_not_outlast_the_grace_period(serve):
    served = serve(parse_seconds=60.0, grace=0.5)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    thread = threading.Thread(target=served.rank_in_vain, args=(b'{"user":{}}'.ljust(100_000),))
    thread.start()
    served.until(lambda: served.in_flight() == 1)
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.end()
    thread.join()
    assert code == 1
    assert "1 requests unanswered" in err
    assert "Traceback" not in err


def test_work_for_a_client_that_has_left_does_not_outlast_the_grace_period(serve):
    served = serve(finish_seconds=60.0, grace=0.5)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    body = b'{"user":{}}'
    with served.connect() as client:
        client.sendall(
            b"POST /v1/rank?mode=progressive HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        assert b"event: crm" in read_until(client, b"event: crm")
        served.until(lambda: served.in_flight() == 1)
        time.sleep(0.5)  # the LLM answers at once: a thread is at the end of it now
    served.until(lambda: served.in_flight() == 0)
    served.process.send_signal(signal.SIGTERM)
    code, out, err = served.end()
    assert (code, out) == (1, "")
    assert err.endswith("stopped with a thread still at work\n")
    assert "Traceback" not in err


def test_a_body_that_is_still_arriving_does_not_hold_up_the_stop(serve):
    served = serve(connection_seconds=60)  # uvicorn would give the open connection a minute
    served.until(lambda: served.status("/v2/health/ready") == 200)
    with served.connect() as client:
        client.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        served.until(lambda: served.status("/v2/health/live") == 200)
        served.process.send_signal(signal.SIGTERM)
        assert b"HTTP/1.1 503" in read_until(client, b"the server is stopping")
        assert served.end() == (0, "closed\n", "")


def test_a_client_that_closes_does_not_make_a_stop_unclean(serve):
    served = serve(delay=5.0, grace=3.0, half_closed_seconds=0.2, timeout_ms=None)
    served.until(lambda: served.status("/v2/health/ready") == 200)
    body = b'{"user":{}}'
    with served.connect() as client:
        client.sendall(b"POST /v1/rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        served.until(lambda: served.in_flight() == 1)
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "closed\n", "")


def test_a_signal_while_loading_stops_at_once(serve):
    served = serve(load_seconds=30.0)
    served.until(lambda: served.status("/v2/health/live") == 200)
    served.process.send_signal(signal.SIGTERM)
    assert served.end() == (0, "", "")


def test_a_bundle_that_does_not_load_ends_the_server_with_its_message(serve):
    code, out, err = serve(load_seconds=0.5, load_error="crm.onnx: sha256 differs from the manifest").end()
    assert (code, out) == (1, "closed\n")
    assert err == "failed: crm.onnx: sha256 differs from the manifest\n"


def test_ipv6_address_is_a_url(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    served = serve(host="::1")
    assert served.url.startswith("http://[::1]:")
    assert served.status("/v2/health/live") == 200


def test_garbage_and_half_closed_connections_do_no_harm(serve):
    served = serve()
    served.until(lambda: served.status("/v2/health/ready") == 200)
    port = int(served.url.rpartition(":")[2])
    head = b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
    for data in (b"\x00\xff" * 50 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", head, head + b'{"user"'):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
    served.until(lambda: served.in_flight() == 0)
    assert served.rank().status_code == 200
    served.process.send_signal(signal.SIGTERM)
    code, _, err = served.end()
    assert code == 0
    assert "Traceback" not in err


def test_large_refused_body_is_answered_over_a_socket(serve):
    served = serve()
    served.until(lambda: served.status("/v2/health/ready") == 200)
    response = httpx.post(served.url + "/v1/rank", content=b" " * (9 * 2**20), timeout=20)
    assert response.status_code == 413
    assert served.rank().status_code == 200
