"""`FLAVOUR+http://HOST:PORT` → which server speaks there, and where."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from corella_edge.errors import InputError
from corella_edge_runtime.llm.backends.remote.flavours import FLAVOURS, Flavour
from corella_edge_runtime.llm.contract.backend import Liveness

# A server has limits of its own for what takes long, and computes many prompts between two signs of life.
FAR_AWAY = Liveness(silence=10.0, probe=5.0)
KEY_VARIABLE = "CORELLA_EDGE_LLM_KEY"
_FORMS = ", ".join(f"{name}+http://HOST:PORT" for name in FLAVOURS)


@dataclass(frozen=True, slots=True)
class Address:
    flavour: Flavour
    base: str


def parse_address(url: str) -> Address:
    """The server a text means.

    Raises:
        InputError: no flavour or an unknown one, no host, a bad port, or a password in it.
    """
    scheme, _, rest = url.partition("://")
    name, _, protocol = scheme.rpartition("+")
    if name not in FLAVOURS or protocol not in ("http", "https"):
        raise InputError(f"llm: {scheme}:// does not say which server it is; known: {_FORMS} (or +https)")
    if "@" in rest:
        raise InputError(f"llm: an address holds no password; put the server's key into {KEY_VARIABLE}")
    base = f"{protocol}://{rest}".rstrip("/")
    try:
        parts = urlsplit(base)
        usable = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"llm: {url!r} is no address; known: {_FORMS}")
    return Address(FLAVOURS[name], base)
