"""Where a server listens, and what it says of it."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.server.run import listen, url

SIX, FOUR = socket.AF_INET6, socket.AF_INET


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[int, str]]]:
    """Addresses of host names, as a resolver would give them."""
    known: dict[str, list[tuple[int, str]]] = {}
    resolve = socket.getaddrinfo

    def resolved(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host not in known:
            return resolve(host, port, *args, **options)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)[: 4 if family == SIX else 2])
                for family, address in known[host]]  # fmt: skip

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return known


def opened(closing: ExitStack, host: str, port: int = 0) -> list[socket.socket]:
    found = listen(host, port)
    for sock in found:
        closing.enter_context(sock)
    return found


def test_a_name_of_several_addresses_is_all_of_them_at_one_port(
    closing: ExitStack, names: dict[str, list[tuple[int, str]]]
) -> None:
    names["box"] = [(FOUR, "127.0.0.1"), (FOUR, "127.0.0.2"), (FOUR, "127.0.0.1")]
    found = opened(closing, "box")
    assert [sock.getsockname()[0] for sock in found] == ["127.0.0.1", "127.0.0.2"]
    assert len({sock.getsockname()[1] for sock in found}) == 1
    for sock in found:
        socket.create_connection(sock.getsockname()).close()


def test_an_address_of_a_name_that_is_not_here_is_told(
    closing: ExitStack, names: dict[str, list[tuple[int, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    names["box"] = [(FOUR, "192.0.2.1"), (FOUR, "127.0.0.1")]
    with caplog.at_level(logging.WARNING):
        assert [sock.getsockname()[0] for sock in opened(closing, "box")] == ["127.0.0.1"]
    assert caplog.messages == ["box is 192.0.2.1, too, which is not listened on: Cannot assign requested address"]
    names["box"] = [(FOUR, "192.0.2.1")]
    with pytest.raises(InputError, match="cannot listen on box port 0: Cannot assign requested address"):
        listen("box", 0)


def test_a_port_that_is_taken_on_one_address_is_taken(
    closing: ExitStack, names: dict[str, list[tuple[int, str]]]
) -> None:
    taken = closing.enter_context(socket.create_server(("127.0.0.2", 0)))
    port = taken.getsockname()[1]
    names["box"] = [(FOUR, "127.0.0.1"), (FOUR, "127.0.0.2")]
    with pytest.raises(InputError, match=f"cannot listen on box port {port}: Address already in use"):
        listen("box", port)
    closing.enter_context(socket.create_server(("127.0.0.1", port)))  # what was opened is closed


def test_a_free_port_is_free_on_all_addresses(
    closing: ExitStack, names: dict[str, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["box"] = [(FOUR, "127.0.0.1"), (FOUR, "127.0.0.2")]
    create, refusals = socket.create_server, iter([True, True])

    def created(address: Any, **options: Any) -> socket.socket:
        if address[0] == "127.0.0.2" and next(refusals, False):
            raise OSError(errno.EADDRINUSE, "taken")
        return create(address, **options)

    monkeypatch.setattr(socket, "create_server", created)
    assert len(opened(closing, "box")) == 2


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", "http://127.0.0.1:{}"), ("::1", "http://[::1]:{}"),
     ("0.0.0.0", "http://127.0.0.1:{} (and every other address of this machine, IPv4 alone)"),
     ("::", "http://127.0.0.1:{} (and every other address of this machine, IPv4 and IPv6)")],
)  # fmt: skip
def test_what_is_said_is_an_address_that_works(closing: ExitStack, host: str, told: str) -> None:
    try:
        (sock,) = opened(closing, host)
    except InputError:
        pytest.skip("no IPv6 here")
    port = sock.getsockname()[1]
    assert url(sock) == told.format(port)
    said = url(sock).partition(" ")[0].removeprefix("http://").rpartition(":")[0].strip("[]")
    socket.create_connection((said, port), 10).close()


def test_where_a_system_keeps_the_families_apart_it_is_said(
    closing: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    try:
        (sock,) = opened(closing, "::")
    except InputError:
        pytest.skip("no IPv6 here")
    assert url(sock).startswith("http://[::1]:")
    assert url(sock).endswith("(and every other address of this machine, IPv6 alone)")
