"""`corella-edge serve`: options, and one clear line for what a person gets wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from corella_edge.cli.serve import serve
from corella_edge_runtime.server.run import ServeSettings
from sessions import run

SCRIPT = Path(__file__).with_name("serve_cli.py")
BLOCKED = "import sys; sys.modules[sys.argv.pop(1)] = None; from corella_edge.cli import main; main(sys.argv[1:])"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "manifest.json").touch()
    return path


def fail(*args: object, program: tuple[str, ...] = (str(SCRIPT),)) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must fail."""
    command = [sys.executable, *program, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def test_serves_until_sigterm(bundle):
    options = ["--port", "0", "--threshold", "ratio:0.05", "--llm-threads", "1", "--require-llm"]
    command = [sys.executable, SCRIPT, "serve", bundle, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        opened = next(line for line in lines if line.startswith("open bundle "))
        address = next(line for line in lines if line.startswith("corella-edge: listening on ")).split()[-1]
        assert process.stderr.readline() == "corella-edge: warning: no LLM: this is a fake\n"
        assert process.stderr.readline().startswith("corella-edge: fake@1 is ready after ")
        assert process.stderr.readline() == "threshold ratio:0.05\n"
        assert httpx.post(address + "/v1/rank", content=b'{"user":{"id":"secret"}}').status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
    assert json.loads(opened.removeprefix("open bundle ")) == {
        "llm": "process", "threshold": "ratio:0.05", "crm_threads": None, "llm_threads": 1, "require_llm": True,
            "crm_memory_mib": 64.0, "retry_llm": True, "plan": None, "tuned": True, "trust": None, "explore": 0.0,
            "control": None,
    }  # fmt: skip


def test_an_idle_connection_is_kept_as_long_as_asked(bundle):
    command = [sys.executable, SCRIPT, "serve", bundle, "--port", "0", "--keep-alive", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = next(line for line in process.stdout if "listening on" in line).split()[-1]
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 30) as client:
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            answered = time.monotonic()
            while client.recv(1000):
                pass
            assert time.monotonic() - answered > 0.8
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_an_idle_connection_outlasts_a_load_balancers_minute():
    assert next(option.default for option in serve.params if option.name == "keep_alive") > 60
    assert ServeSettings().keep_alive_seconds > 60


def test_port_in_use(bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = fail("serve", bundle, "--port", port)
    assert (code, line) == (2, f"corella-edge: cannot listen on 127.0.0.1 port {port}: Address already in use\n")


def test_host_that_is_none(bundle):
    code, line = fail("serve", bundle, "--host", "300.300.300.300", "--port", 0)
    assert code == 2
    assert line.startswith("corella-edge: cannot listen on 300.300.300.300 port 0: ")


def test_missing_bundle(tmp_path):
    code, line = fail("serve", tmp_path / "nothing")
    assert (code, line) == (
        2, f"corella-edge: {tmp_path / 'nothing'}: not a bundle or site (there is no such folder)\n",
    )  # fmt: skip


def test_a_folder_without_a_bundle_is_told_before_a_port_is_opened(tmp_path):
    code, line = fail("serve", tmp_path)
    missing = f"corella-edge: {tmp_path}: not a bundle or site (manifest.json is missing)"
    assert (code, line) == (3, f"{missing}\n")
    (tmp_path / "run.json").touch()
    assert fail("serve", tmp_path) == (
        3,
        f"{missing}; it is a training run, and `corella-edge export` makes a bundle of it\n",
    )


@pytest.mark.parametrize("threshold", ["0.9", "-1", "nan", "half", "ratio:", "ratio:2", "ratio:half", "margin:0.6"])
def test_impossible_threshold(bundle, threshold):
    done = run("serve", bundle, "--threshold", threshold, "--port", 0)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert threshold.rpartition(":")[2] in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [("--shadow 0.02", "--shadow needs --log DIR"), ("--explore 0.1", "--explore needs --log DIR"),
     ("--shadow 0.02 --explore 0.1 --log d", "exclude each other"), ("--shadow 2 --log d", "--shadow"),
     ("--shadow 0.1 --log d --no-llm", "exclude each other"), ("--slo p98=1ms", "write p99=30ms"),
     ("--slo p99=30ms --shadow 0.1 --log d", "exclude each other"),
     ("--target-ratio 0.1 --shadow 0.1 --log d", "exclude each other"),
     ("--target-ms 5 --shadow 0.1 --log d", "exclude each other")],
)  # fmt: skip
def test_chances_and_objectives_that_make_no_sense_are_told_before_a_port_is_opened(bundle, options, said):
    done = run("serve", bundle, *options.split(), "--port", 0)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.parametrize("missing", ["uvicorn", "starlette", "prometheus_client"])
def test_missing_extra(bundle, missing):
    code, line = fail(missing, "serve", bundle, program=("-c", BLOCKED))
    assert code == 5
    assert line == "corella-edge: serve needs the extra [serve]: pip install 'corella-edge[serve]'\n"


def test_help_needs_no_web_server():
    code = "import sys\nfrom corella_edge.cli import main\ntry: main(['serve', '--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--port" in done.stdout
    assert not {"uvicorn", "starlette", "prometheus_client", "numpy.testing", "onnxruntime"} & set(done.stdout.split())
