"""An LLM on a server elsewhere: required, it must be there at the start; deterministic, it cannot be."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundles import make_bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import InputError
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.backends.remote import client
from corella_edge_runtime.llm.contract.backend import Liveness, ModelSpec
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.opening import open_backend
from fake_llm import FakeServer, serving
from sessions import ONE, run, start
from sessions import serving as served_by

FLAVOURS = ["llama-server", "sglang", "vllm"]
BODY = {"user": {"id": "u1"}, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": "ratio:1"}


def score(ids: Sequence[int]) -> float:
    return sum(ids) % 97 / 97


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("server") / "bundle")


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(BODY) + "\n")
    return path


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(score, 1024) as made:
        yield made


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def reasons(answer: Any) -> set[str]:
    return {row["reason"] for row in answer["candidates"]}


def refused(code: int, err: str, *named: str) -> None:
    """One line that names all that matters."""
    assert code == 2, err
    assert err.count("\n") == 1, err
    for name in named:
        assert name in err


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_required_server_that_answers_is_asked(
    bundle: Path, requests: Path, server: FakeServer, tmp_path: Path, flavour: str
) -> None:
    out = tmp_path / "out.jsonl"
    done = run("score", bundle, requests, "--out", out, "--llm-backend", f"{flavour}+{server.base}", "--require-llm")
    assert done.code == 0, done.err
    assert reasons(json.loads(out.read_text())) == {"ratio"}
    assert len(server.asked) > 1  # the first tells whether it is there


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_score_ends_at_once_where_a_required_server_is_not_there(
    bundle: Path, requests: Path, nobody: str, tmp_path: Path, flavour: str
) -> None:
    options = ["--out", tmp_path / "out.jsonl", "--llm-backend", f"{flavour}+{nobody}"]
    done = run("score", bundle, requests, *options, "--require-llm")
    refused(done.code, done.err, f"the {flavour} at {nobody} does not answer (ConnectError)", "--require-llm")
    assert list(tmp_path.iterdir()) == [requests]
    assert run("score", bundle, requests, *options).code == 0
    assert reasons(json.loads((tmp_path / "out.jsonl").read_text())) == {"llm_error"}


def test_a_required_server_that_is_silent_is_waited_for_no_longer_than_said(
    bundle: Path, requests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FAR_AWAY", Liveness(probe=0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = ["--out", tmp_path / "out.jsonl", "--llm-backend", f"vllm+{address}", "--require-llm"]
        done = run("score", bundle, requests, *options)
    refused(done.code, done.err, f"the vllm at {address} does not answer (nothing within 0.3 s)")


def test_a_required_server_that_answers_otherwise_is_told(
    bundle: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its one prompt within a few seconds is the proof; there is no second wait, of another length and exit code.
    monkeypatch.setattr(Llm, "prove", lambda *_: pytest.fail("a server elsewhere was asked twice"))
    where = f"sglang+{server.base}"
    server.status = 503
    with pytest.raises(InputError, match=r"does not answer \(/v1/models: status 503\)"):
        Engine.open(bundle, llm=where, require_llm=True)
    server.status, server.spoil = 200, lambda _: {"secret": "history"}
    with pytest.raises(InputError, match=r"does not answer \(KeyError\)"):
        Engine.open(bundle, llm=where, require_llm=True)
    server.spoil = lambda answer: answer
    Engine.open(bundle, llm=where, require_llm=True).close()


def test_serve_ends_where_a_required_server_is_not_there(bundle: Path, nobody: str) -> None:
    options = ["--port", 0, "--llm-backend", f"vllm+{nobody}"]
    with start("serve", bundle, *options, "--require-llm") as process:
        _, err = process.communicate(timeout=60)
    refused(process.returncode, err, f"the vllm at {nobody} does not answer", "--require-llm")


def test_serve_starts_without_a_server_that_is_not_required(bundle: Path, nobody: str) -> None:
    with served_by(start("serve", bundle, "--port", 0, "--llm-backend", f"vllm+{nobody}")) as served:
        assert reasons(httpx.post(f"{served.url}/v1/rank", json=BODY, timeout=30).json()) == {"llm_error"}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_server_is_never_deterministic(
    bundle: Path, requests: Path, server: FakeServer, tmp_path: Path, flavour: str
) -> None:
    where = f"{flavour}+{server.base}"
    done = run("score", bundle, requests, "--out", tmp_path / "o", "--llm-backend", where, "--deterministic")
    refused(done.code, done.err, f"--deterministic and --llm-backend {where} exclude each other", "leave out")
    with pytest.raises(InputError, match="exclude each other"):
        Engine.open(bundle, llm=where, deterministic=True)
    prompt = Bundle.open(bundle).prompt()
    assert prompt is not None
    with pytest.raises(InputError, match="exclude each other"):
        open_backend(where, ModelSpec(bundle / "llm.gguf", prompt[1], LlmSettings(deterministic=True)))
    assert server.asked == []
    assert list(tmp_path.iterdir()) == [requests]


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_our_own_llm_is_deterministic_wherever_it_runs(bundle: Path, requests: Path, tmp_path: Path, kind: str) -> None:
    outs = [tmp_path / name for name in ("a", "b")]
    for out in outs:
        done = run("score", bundle, requests, "--out", out, "--llm-backend", kind, "--deterministic", *ONE)
        assert done.code == 0, done.err
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert reasons(json.loads(outs[0].read_text())) == {"ratio"}
