"""Signatures of bundles: whose count, what is refused before anything else is read, and the stock tool's view of it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import minisign
import pytest

from corella_edge.bundle import artefact as bundle
from corella_edge.bundle import signature
from corella_edge.bundle.artefact import MANIFEST, SEAL, SIGNATURE, Bundle, FileEntry
from corella_edge.bundle.signature import TrustedKey, new_key, sign
from corella_edge.errors import BundleError, InputError
from corella_edge_runtime.site import layout as site

NO_TOOL = shutil.which("minisign") is None
needs_tool = pytest.mark.skipif(NO_TOOL, reason="the minisign tool is not installed (apt-get install minisign)")


def no_password() -> str:
    raise AssertionError("asked for a password")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sealed folder; what its files hold is no concern of signatures."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in bundle.REQUIRED:
        (folder / name).write_text(name)
    bundle.seal(folder, "toy", "3", {})
    return folder


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b`, without passwords, and their .pub."""
    folder = tmp_path_factory.mktemp("keys")
    for name in "ab":
        new_key(folder / name, "")
    return folder


@pytest.fixture
def signed(root: Path, keys: Path) -> Path:
    sign(root, keys / "a", no_password)
    return root


def trusted(keys: Path, name: str = "a") -> TrustedKey:
    return TrustedKey.read(str(keys / f"{name}.pub"))


def refusal(root: Path, key: TrustedKey) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(root, key)
    return str(caught.value)


def test_a_signed_bundle_opens_with_its_key_and_without_any(signed: Path, keys: Path) -> None:
    assert Bundle.open(signed, trusted(keys)).label == "toy@3"
    assert Bundle.open(signed).label == "toy@3"
    assert SIGNATURE not in Bundle.open(signed).manifest.files


def test_a_key_is_given_as_text_or_as_a_file(signed: Path, keys: Path) -> None:
    text = (keys / "a.pub").read_text().splitlines()[1]
    assert Bundle.open(signed, TrustedKey.read(text)).label == "toy@3"
    assert TrustedKey.read(text).id == trusted(keys).id
    assert (keys / "a.pub").read_text().startswith(f"untrusted comment: minisign public key {trusted(keys).id}\n")


@pytest.mark.parametrize(
    ("contents", "message"),
    [(None, r"neither a public key nor a file of one \(No such file"), (b"", "not a public key of minisign"),
     (b"untrusted comment: x\nRWQ\n", "not a public key of minisign"), (b"\xff" * 99, "not a public key of minisign"),
     (b"x" * 10**6, r"not a public key of minisign \(larger than 16384 bytes")],
)  # fmt: skip
def test_what_is_no_public_key_is_told_so(tmp_path: Path, contents: bytes | None, message: str) -> None:
    path = tmp_path / "key.pub"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=f"--trust {path}: {message}"):
        TrustedKey.read(str(path))


def test_a_text_of_another_algorithm_is_no_key() -> None:
    with pytest.raises(InputError, match="not a public key"):
        TrustedKey.read("RWA" + "A" * 53)


def test_an_unsigned_bundle_is_refused_where_a_key_is_trusted(root: Path, keys: Path) -> None:
    assert "not signed (manifest.json.minisig is missing)" in refusal(root, trusted(keys))


def test_another_keys_signature_is_refused_by_both_ids(signed: Path, keys: Path) -> None:
    other = trusted(keys, "b")
    message = refusal(signed, other)
    assert f"signed with the key {trusted(keys).id}, not with the trusted key {other.id}" in message


def test_a_forger_with_the_right_id_is_refused(signed: Path, keys: Path) -> None:
    path = signed / SIGNATURE
    lines = path.read_bytes().splitlines()
    sign(signed, keys / "b", no_password)
    forged = path.read_bytes().splitlines()
    # b's signature under a's id.
    ours, theirs = base64.b64decode(lines[1]), base64.b64decode(forged[1])
    forged[1] = base64.b64encode(theirs[:2] + ours[2:10] + theirs[10:])
    path.write_bytes(b"\n".join(forged) + b"\n")
    assert "the signature does not fit" in refusal(signed, trusted(keys))


def test_no_flipped_byte_of_the_signature_gives_another_one_that_counts(signed: Path, keys: Path) -> None:
    path, key = signed / SIGNATURE, trusted(keys)
    whole = path.read_bytes()
    accepted = 0
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        try:
            Bundle.open(signed, key)
        except BundleError:
            continue
        # Its untrusted comment, and bits of base64 that stand for nothing.
        assert minisign.Signature.from_bytes(path.read_bytes()) == minisign.Signature.from_bytes(whole)
        accepted += 1
    assert accepted <= len("signature from minisign secret key") + 2


def test_every_flipped_byte_of_the_manifest_is_refused_by_the_signature(signed: Path, keys: Path) -> None:
    path, key = signed / MANIFEST, trusted(keys)
    whole = path.read_bytes()
    for i in range(len(whole)):
        raw = whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :]
        path.write_bytes(raw)
        (signed / SEAL).write_bytes(bundle.seal_of(raw))
        assert "the signature does not fit" in refusal(signed, key)


@pytest.mark.parametrize(
    "contents",
    [b"", b"x", b"untrusted comment: x\n", b"\xff" * 300, b"a\nb\nc\nd\n",
     b"untrusted comment: x\nRWQ=\ntrusted comment: y\nAAAA\n"],
)  # fmt: skip
def test_what_is_no_signature_is_told_so(signed: Path, keys: Path, contents: bytes) -> None:
    (signed / SIGNATURE).write_bytes(contents)
    assert "manifest.json.minisig: not a signature of minisign" in refusal(signed, trusted(keys))


def test_a_signature_that_is_too_large_a_link_or_a_folder_is_refused(signed: Path, keys: Path, tmp_path: Path) -> None:
    path = signed / SIGNATURE
    moved = path.rename(tmp_path / "elsewhere")
    path.symlink_to(moved)
    assert "manifest.json.minisig: not a regular file" in refusal(signed, trusted(keys))
    with pytest.raises(BundleError, match="not a regular file"):
        Bundle.open(signed)
    path.unlink()
    path.mkdir()
    assert "not a regular file" in refusal(signed, trusted(keys))
    path.rmdir()
    path.write_bytes(b"x" * 10**6)
    assert "larger than 16384 bytes" in refusal(signed, trusted(keys))


def test_before_the_signature_fits_nothing_else_is_read(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither JSON nor hashes: with the wrong key, no file but the manifest's bytes and the signature is opened."""
    opened = []

    def note(path: Path, *args: Any, **options: Any) -> Any:
        opened.append(path.name)
        return real(path, *args, **options)

    real = Path.open
    other = trusted(keys, "b")
    monkeypatch.setattr(Path, "open", note)
    monkeypatch.setattr(bundle.json, "loads", lambda *_, **__: pytest.fail("JSON was parsed"))
    refusal(signed, other)
    assert set(opened) <= {MANIFEST, SIGNATURE}


def test_the_manifest_can_not_list_its_signature(root: Path) -> None:
    data = json.loads((root / MANIFEST).read_bytes())
    data["files"][SIGNATURE] = {"sha256": "0" * 64, "size": 0}
    raw = json.dumps(data).encode()
    (root / MANIFEST).write_bytes(raw)
    (root / SEAL).write_bytes(bundle.seal_of(raw))
    with pytest.raises(BundleError, match=f"'{SIGNATURE}' is not a file name of a bundle"):
        Bundle.open(root)


def test_sealing_anew_makes_an_old_signature_worthless(signed: Path, keys: Path) -> None:
    (signed / "crm.onnx").write_text("another")
    made = bundle.seal(signed, "toy", "4", {})
    assert SIGNATURE not in made.files
    assert isinstance(made.files["crm.onnx"], FileEntry)
    assert Bundle.open(signed).label == "toy@4"
    assert "the signature does not fit" in refusal(signed, trusted(keys))


def test_a_damaged_bundle_is_not_signed(root: Path, keys: Path) -> None:
    (root / "crm.onnx").write_text("crm.onnY")
    with pytest.raises(BundleError, match=r"crm\.onnx"):
        sign(root, keys / "a", no_password)
    assert not (root / SIGNATURE).exists()


def test_signing_leaves_no_other_file_and_may_be_repeated(signed: Path, keys: Path) -> None:
    before = {path.name for path in signed.parent.iterdir()}
    assert sign(signed, keys / "b", no_password) == trusted(keys, "b").id
    assert Bundle.open(signed, trusted(keys, "b")).label == "toy@3"
    assert {path.name for path in signed.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("contents", "message"), [(None, "cannot be read"), (b"junk", "invalid number of lines"), (b"a\nb\n", "base64")]
)
def test_what_is_no_secret_key_is_told_so(root: Path, tmp_path: Path, contents: bytes | None, message: str) -> None:
    path = tmp_path / "key"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=f"--key {path}: .*{message}"):
        sign(root, path, no_password)


def test_a_key_is_its_owners_and_never_overwritten(keys: Path, tmp_path: Path) -> None:
    assert (keys / "a").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key.pub").write_text("mine")
    with pytest.raises(InputError, match=r"key\.pub exists"):
        new_key(tmp_path / "key", "")
    assert not (tmp_path / "key").exists()
    with pytest.raises(InputError, match=r"a exists"):
        new_key(keys / "a", "")


def test_an_encrypted_key_wants_its_password(root: Path, tmp_path: Path) -> None:
    made = new_key(tmp_path / "key", "open sesame")
    with pytest.raises(InputError, match="wrong password"):
        sign(root, tmp_path / "key", lambda: "close sesame")
    sign(root, tmp_path / "key", lambda: "open sesame")
    assert Bundle.open(root, made).label == "toy@3"


def stock(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["minisign", *map(str, args)], capture_output=True, text=True, timeout=60)


@needs_tool
def test_the_stock_tool_verifies_ours(signed: Path, keys: Path) -> None:
    done = stock("-Vm", signed / MANIFEST, "-p", keys / "a.pub")
    assert done.returncode == 0, done.stderr
    assert "file:manifest.json" in done.stdout
    assert stock("-Vm", signed / MANIFEST, "-p", keys / "b.pub").returncode != 0
    (signed / MANIFEST).write_bytes((signed / MANIFEST).read_bytes() + b" ")
    assert stock("-Vm", signed / MANIFEST, "-p", keys / "a.pub").returncode != 0


@needs_tool
def test_ours_verifies_the_stock_tools(root: Path, tmp_path: Path) -> None:
    public, secret = tmp_path / "stock.pub", tmp_path / "stock.key"
    assert stock("-G", "-W", "-p", public, "-s", secret).returncode == 0
    assert stock("-Sm", root / MANIFEST, "-s", secret).returncode == 0
    key = TrustedKey.read(str(public))
    assert key.id in public.read_text()
    assert Bundle.open(root, key).label == "toy@3"
    assert sign(root, secret, no_password) == key.id
    assert stock("-Vm", root / MANIFEST, "-p", public).returncode == 0


@needs_tool
def test_the_stock_tool_signs_with_our_encrypted_key(root: Path, tmp_path: Path) -> None:
    made = new_key(tmp_path / "key", "open sesame")
    command = ["minisign", "-Sm", str(root / MANIFEST), "-s", str(tmp_path / "key")]
    done = subprocess.run(command, input="open sesame\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Bundle.open(root, made).label == "toy@3"


def test_the_example_of_the_format_verifies() -> None:
    """A signature of minisign's author, over the text `test`."""
    key = TrustedKey.read("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
    found = minisign.Signature.from_bytes(
        b"untrusted comment: signature from minisign secret key\n"
        b"RWQf6LRCGA9i59SLOFxz6NxvASXDJeRtuZykwQepbDEGt87ig1BNpWaVWuNrm73YiIiJbq71Wi+dP9eKL8OC351vwIasSSbXxwA=\n"
        b"trusted comment: timestamp:1555779966\tfile:test\n"
        b"QtKMXWyYcwdpZAlPF7tE2ENJkRd1ujvKjlj1m9RtHTBnZPa5WKU5uWRs5GoP5M/VqE81QFuMKI5k/SfNQUaOAA==\n"
    )
    key.key.verify(b"test", found)
    assert signature._key_id(bytes(found).splitlines()[1]) == key.id


def test_a_site_keeps_the_signature_of_what_it_takes_in(signed: Path, keys: Path, tmp_path: Path) -> None:
    version = site.create(tmp_path / "site", signed)
    assert Bundle.open(site.folder(tmp_path / "site", version), trusted(keys)).label == "toy@3"
