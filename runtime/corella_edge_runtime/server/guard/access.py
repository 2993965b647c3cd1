"""Who may ask for what: API keys with scopes and limits, and what is open to this machine alone."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from corella_edge.errors import InputError
from corella_edge_runtime.server.answers import error_answer
from corella_edge_runtime.server.guard.keys import Key, KeyFile, KeyLimits, KeyRefusedError

_OPEN = frozenset({"/", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"})
_THIS_MACHINE = frozenset({"localhost", "ip6-localhost", "0.0.0.0", "::"})
_STATIC = (".css", ".html", ".ico", ".js", ".png", ".svg")
_SCOPES = {"/v1/events": "users", "/v1/users": "users", "/v1/availability": "stock", "/metrics": "metrics",
           "/admin": "admin"}  # fmt: skip
# A request with one of these came through a proxy: its peer is not the client.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def scope_of(path: str) -> str | None:
    """The scope that a path needs; None for what is open to everybody. A path that is not known needs `rank`."""
    if path in _OPEN or (path.startswith("/page/") and path.endswith(_STATIC)):
        return None
    for root, scope in _SCOPES.items():
        if path.startswith(root) and path[len(root) :][:1] in ("", "/"):
            return scope
    return "rank"


def require_access(host: str, keys: Path | None, insecure: bool) -> None:
    """Refuse to be reachable from other machines without keys, unless that is wanted.

    Raises:
        InputError: `host` is an address beyond this machine.
    """
    if keys is not None or insecure or all(map(is_loopback, _addresses(host))):
        return
    raise InputError(
        f"--host {host}: other machines could reach it, and nobody would need a key; name a file of keys "
        "(--keys FILE, written by `corella-edge keys add`), or say --insecure"
    )


def _addresses(host: str) -> list[str]:
    """All addresses of a name; none for what is no name, which cannot be listened on either."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


@lru_cache(1024)
def is_loopback(address: str) -> bool:
    """Whether an address is a loopback address of this machine; False for what is not an address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def is_local(peer: str, headers: Mapping[str, str]) -> bool:
    """Whether a request was made on this machine, for this machine.

    A request from a proxy was not; nor was one that a foreign web page made a local browser send, whether across sites
    or by DNS rebinding (under the page's own name, pointed at this address).
    """
    if not is_loopback(peer) or any(name in headers for name in _FORWARDED):
        return False
    return not is_cross_site(headers) and _names_this_machine(headers)


def _names_this_machine(headers: Mapping[str, str]) -> bool:
    return _is_this_machine(headers.get("host", ""))


@lru_cache(1024)
def _is_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().removesuffix(".")
    return name in _THIS_MACHINE or name.endswith(".localhost") or is_loopback(name)


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for a page of another site (the page cannot leave the header out)."""
    return headers.get("sec-fetch-site") == "cross-site"


@dataclass(slots=True)
class Use:
    """What a key has used: requests left in its bucket as of `at`, seconds, and requests in flight."""

    left: float
    at: float
    running: int = 0


def take(use: Use, limits: KeyLimits, now: float) -> float:
    """Take one request from a key's bucket; 0, or the seconds until there is one to take."""
    if limits.concurrent is not None and use.running >= limits.concurrent:
        return 1.0
    if limits.per_second is None or limits.burst is None:
        return 0.0
    use.left = min(float(limits.burst), use.left + (now - use.at) * limits.per_second)
    use.at = now
    if use.left < 1.0:
        return (1.0 - use.left) / limits.per_second
    use.left -= 1.0
    return 0.0


class DeniedError(Exception):
    """A request that is not let in: status, message and headers of the answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


class Guard:
    """Lets requests in, or not. Used in the event loop's thread alone."""

    def __init__(
        self, keys: KeyFile | None = None, open_metrics: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without `keys` everything is open, except that /admin/… is this machine's own.

        `open_metrics`: /metrics needs no key on this machine.
        """
        self._keys, self._open_metrics, self._clock = keys, open_metrics, clock
        self._uses: dict[str, Use] = {}

    @contextmanager
    def admit(self, path: str, peer: str, headers: Mapping[str, str]) -> Iterator[str]:
        """Hold a request's place among those of its key; yields the key's id, "" without one.

        Raises:
            DeniedError: it is not let in.
        """
        scope = scope_of(path)
        key = None if scope is None else self._key(scope, peer, headers)
        if key is None:
            yield ""
            return
        use = self._begin(key)
        try:
            yield key.id
        finally:
            use.running -= 1

    def _key(self, scope: str, peer: str, headers: Mapping[str, str]) -> Key | None:
        """The key of a request that may use `scope`; None where it needs none."""
        if self._keys is None:
            _check_keyless(scope, peer, headers)
            return None
        if scope == "metrics" and self._open_metrics and is_local(peer, headers):
            return None
        try:
            key = self._keys.keys().check(_presented(headers), self._keys.now())
        except KeyRefusedError as error:
            raise _unauthorized(str(error), ', error="invalid_token"') from None
        if scope not in key.scopes:
            extra = f', error="insufficient_scope", scope="{scope}"'
            raise DeniedError(403, f"the API key {key.id} lacks the scope {scope!r}", _challenge(extra))
        return key

    def _begin(self, key: Key) -> Use:
        now = self._clock()
        use = self._uses.setdefault(key.id, Use(float(key.limits.burst or 0), now))
        seconds = take(use, key.limits, now)
        if seconds > 0.0:
            raise DeniedError(
                429, f"the API key {key.id} is at its limit", {"Retry-After": str(max(1, math.ceil(seconds)))}
            )
        use.running += 1
        return use


def _check_keyless(scope: str, peer: str, headers: Mapping[str, str]) -> None:
    if scope == "admin" and not is_local(peer, headers):
        raise DeniedError(403, "without API keys, /admin is open to this machine alone")
    # DNS rebinding: a foreign page points its own name at this address, so its requests come from this machine under
    # that name. Browsers always send a Host, and a literal address cannot be rebound.
    if is_loopback(peer) and headers.get("host") and not _names_this_machine(headers):
        raise DeniedError(403, "without API keys, this server is asked as localhost or by its address")
    if is_cross_site(headers):
        raise DeniedError(403, "a page of another site may not ask this server")


def _presented(headers: Mapping[str, str]) -> str:
    """The key that a request brings.

    Raises:
        DeniedError: none.
    """
    if text := headers.get("x-api-key", ""):
        return text.strip()
    scheme, _, text = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer" or not text:
        raise _unauthorized("an API key is needed: Authorization: Bearer KEY, or X-Api-Key: KEY")
    return text.strip()


def _unauthorized(message: str, extra: str = "") -> DeniedError:
    return DeniedError(401, message, _challenge(extra))


def _challenge(extra: str) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="corella-edge"{extra}'}


def _headers(scope: Scope) -> Mapping[str, str]:
    """By name in small letters; of several with one name the first counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}


class Access:
    """ASGI middleware: asks `guard`, and puts the key's id into `scope["state"]["key_id"]`; never the key."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        peer = (scope.get("client") or ("",))[0]
        try:
            with self.guard.admit(path, peer, _headers(scope)) as key_id:
                scope.setdefault("state", {})["key_id"] = key_id
                await self.app(scope, receive, send)
        except DeniedError as error:
            await error_answer(error.status, str(error), error.headers)(scope, receive, send)
