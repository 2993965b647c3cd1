"""Signatures of bundles in minisign's format: who vouches for a manifest, and through its hashes for every file.

Ed25519 and the format are py-minisign's, which the extra [sign] brings; nobody needs it who trusts no key.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corella_edge.atomic import discard, publish_file, write_file
from corella_edge.bundle.artefact import MANIFEST, SIGNATURE, Bundle
from corella_edge.errors import BundleError, InputError, MissingExtraError, told
from corella_edge.formats.text_files import UnreadableError, decoded

MAX_BYTES = 16 * 1024  # of a key's or a signature's file
_BASE64_KEY = re.compile(r"RW[A-Za-z0-9+/]{54}")


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key that bundles must be signed with."""

    key: Any

    @classmethod
    def read(cls, text: str) -> TrustedKey:
        """From the key's base64 text, or else from the file of that name, as minisign writes it.

        Raises:
            InputError: it is neither. MissingExtraError: py-minisign is not installed.
        """
        minisign = _library("--trust")
        try:
            if _BASE64_KEY.fullmatch(text):
                return cls(minisign.PublicKey.from_base64(text))
            raw = decoded(_small_file(Path(text)), "the file").encode()
            return cls(minisign.PublicKey.from_bytes(raw))
        except UnreadableError as error:
            raise InputError(f"--trust {text[:200]}: not a public key of minisign ({error})") from None
        except OSError as error:
            why = f"neither a public key nor a file of one ({error.strerror})"
            raise InputError(f"--trust {text[:200]}: {why}") from None
        except ValueError as error:
            raise InputError(f"--trust {text[:200]}: not a public key of minisign ({error})") from None

    @property
    def id(self) -> str:
        """Hexadecimal, as minisign shows it."""
        return _key_id(self.key.to_base64())

    def check(self, root: Path, manifest: bytes) -> None:
        """The bytes of a bundle's manifest against the signature beside it. Nothing else is looked at.

        Raises:
            BundleError: there is no signature, it is another key's, or it does not fit.
        """
        signature = _read_signature(root)
        signer = _key_id(bytes(signature).splitlines()[1])
        if signer != self.id:
            raise BundleError(f"{root}: signed with the key {signer}, not with the trusted key {self.id}")
        try:
            self.key.verify(manifest, signature)
        except ValueError:
            raise BundleError(f"{root}: the signature does not fit; {MANIFEST} or {SIGNATURE} was changed") from None


def sign(root: Path, key_file: Path, ask_password: Callable[[], str]) -> str:
    """Check a bundle and write its signature beside the manifest; the id of the key.

    `ask_password` is called if the key is encrypted.

    Raises:
        BundleError: the bundle is not as exported. InputError: the key cannot be used, or the disk refuses.
    """
    minisign = _library("sign")
    root = Bundle.open(root).root.resolve()
    # In minisign's own words, so that its tool shows them as usual.
    comment = f"timestamp:{int(time.time())}\tfile:{MANIFEST}\thashed"
    try:
        with minisign.SecretKey.from_bytes(_small_file(key_file)) as key:
            if key.is_encrypted():
                key.decrypt(ask_password())
            signature = key.sign((root / MANIFEST).read_bytes(), trusted_comment=comment)
    except OSError as error:
        raise InputError(f"--key {key_file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--key {key_file}: {error}") from None
    lay_beside(root, bytes(signature) + b"\n")
    return _key_id(bytes(signature).splitlines()[1])


def new_key(path: Path, password: str) -> TrustedKey:
    """Write a secret key to `path` (encrypted, if there is a password) and the public one to `path`.pub.

    Raises:
        InputError: one of the two files exists, or cannot be written.
    """
    minisign = _library("sign")
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists() or file.is_symlink():
            raise InputError(f"--new-key {path}: {file} exists, and a key is never overwritten")
    pair = minisign.KeyPair.generate()
    with pair.secret_key as secret:
        if password:
            secret.encrypt(password)
        write_file(path, bytes(secret) + b"\n", mode=0o600)
    trusted = TrustedKey(pair.public_key)
    comment = f"untrusted comment: minisign public key {trusted.id}\n"
    write_file(public, comment.encode() + pair.public_key.to_base64() + b"\n")
    return trusted


def _library(what: str) -> Any:
    try:
        import minisign
    except ImportError as error:
        raise MissingExtraError(what, "sign") from error
    return minisign


def _read_signature(root: Path) -> Any:
    path = root / SIGNATURE
    if not path.exists() and not path.is_symlink():
        raise BundleError(f"{root}: not signed ({SIGNATURE} is missing), and --trust requires one")
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{root}: {SIGNATURE}: not a regular file")
    try:
        return _library("--trust").Signature.from_bytes(_small_file(path))
    except OSError as error:
        raise BundleError(f"{root}: {SIGNATURE}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BundleError(f"{root}: {SIGNATURE}: not a signature of minisign ({error})") from None


def _small_file(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return raw


def _key_id(encoded: bytes) -> str:
    """Of a public key's or a signature's base64 line: two bytes of algorithm, eight of id, lowest first."""
    return f"{int.from_bytes(base64.b64decode(encoded)[2:10], 'little'):X}"


def lay_beside(root: Path, raw: bytes) -> None:
    """Write a bundle's signature whole or not at all; until it is whole it must not stand in the bundle's folder."""
    partial = root.parent / f".{root.name}.{SIGNATURE}.partial"
    try:
        partial.write_bytes(raw)
        publish_file(partial, root / SIGNATURE)
    except OSError as error:
        discard(partial)
        raise InputError(f"{root / SIGNATURE}: writing failed: {told(error)}") from error
