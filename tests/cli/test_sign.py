"""`corella-edge sign`, and `verify --trust`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest


@pytest.fixture
def key(corella, tmp_path):
    done = corella("sign", "--new-key", tmp_path / "key", "--no-password")
    assert done.code == 0
    assert done.out.startswith(f"{tmp_path / 'key'} (secret), {tmp_path / 'key'}.pub (public, id ")
    return tmp_path / "key"


def test_a_signed_bundle_is_verified_with_the_key_it_was_signed_with(corella, copy, key):
    done = corella("sign", copy, "--key", key)
    assert done.out.startswith(f"{copy}: signed with the key ")
    done = corella("verify", copy, "--trust", f"{key}.pub")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1] == "signature: of the trusted key"
    assert corella("verify", copy, "--trust", key.with_name("key.pub").read_text().splitlines()[1]).code == 0
    assert corella("verify", copy).code == 0
    assert corella("inspect", copy).code == 0


def test_without_the_trusted_signature_nothing_is_verified(corella, copy, key, tmp_path):
    done = corella("verify", copy, "--trust", f"{key}.pub")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(f"corella-edge: {copy}: not signed")
    corella("sign", "--new-key", tmp_path / "other", "--no-password")
    corella("sign", copy, "--key", tmp_path / "other")
    done = corella("verify", copy, "--trust", f"{key}.pub")
    assert (done.code, done.out) == (3, "")
    assert "not with the trusted key" in done.err


def test_a_changed_manifest_is_told_by_the_signature(corella, copy, key):
    corella("sign", copy, "--key", key)
    raw = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(raw.replace(b'"tiny"', b'"tony"'))
    done = corella("verify", copy, "--trust", f"{key}.pub")
    assert (done.code, done.out) == (3, "")
    assert "the signature does not fit" in done.err


def test_a_password_comes_from_a_file(corella, copy, tmp_path):
    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("close sesame\n")
    made = corella("sign", "--new-key", tmp_path / "key", "--password-file", tmp_path / "password")
    assert made.code == 0
    assert corella("sign", copy, "--key", tmp_path / "key", "--password-file", tmp_path / "wrong").code == 2
    assert corella("sign", copy, "--key", tmp_path / "key", "--password-file", tmp_path / "password").code == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [(["bundle"], 2, "expected BUNDLE --key FILE, or --new-key FILE"), ([], 2, "expected BUNDLE --key FILE"),
     (["bundle", "--key", "k", "--new-key", "n"], 2, "expected BUNDLE --key FILE"),
     (["--new-key", "bundle", "--no-password"], 2, "bundle exists, and a key is never overwritten"),
     (["--new-key", "no/where", "--no-password"], 2, "no/where: writing failed: No such file"),
     (["nothing", "--key", "k"], 2, "nothing: not a bundle"),
     (["bundle", "--key", "k"], 2, "--key k: cannot be read")],
)  # fmt: skip
def test_mistakes_are_one_line(corella, bundle, tmp_path, monkeypatch, args, code, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle, tmp_path / "bundle")
    done = corella("sign", *args)
    assert (done.code, message in done.err) == (code, True), done.err
    assert "Traceback" not in done.err


def test_what_can_not_be_trusted_is_told(corella, bundle):
    done = corella("verify", bundle, "--trust", "nobody.pub")
    assert (done.code, "--trust nobody.pub: neither a public key nor a file of one" in done.err) == (2, True)


def test_a_server_that_trusts_a_key_serves_nothing_else(corella, copy, key):
    command = [sys.executable, "-m", "corella_edge", "serve", copy, "--port", "0", "--trust", f"{key}.pub"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert done.stderr.startswith(f"corella-edge: {copy}: not signed")
    assert done.stderr.count("\n") == 1
    corella("sign", copy, "--key", key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert any("is ready" in line for line in served.stderr)
        finally:
            served.terminate()
        assert served.wait(60) == 0
