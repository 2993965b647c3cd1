"""What the scenarios do to real processes, and one scenario from beginning to end against a real server."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles import make_bundle
from harness.load.server import Server, ServerError, children_of, name_of, resident
from harness.quiet import cpu_seconds
from scenarios.serving import spans
from scenarios.serving.faults import killed, present, send, stopped

SLEEP = "import time; time.sleep(600)"
FAMILY = (
    f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', '{SLEEP}']); "
    "print(child.pid, flush=True); child.wait()"
)
PATIENCE = 60.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


class Fake:
    """A server whose LLM process is a sleeping one, started again when it is asked for after its end."""

    def __init__(self) -> None:
        self.lives = [self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SLEEP])

    @property
    def children(self) -> list[int]:
        if self.lives[-1].poll() is not None:
            self.lives.append(self._start())
        return [self.lives[-1].pid]


def test_the_work_of_children_that_have_ended_is_known() -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        assert cpu_seconds(parent.pid) >= 0.3
        parent.communicate("")
    assert cpu_seconds(parent.pid) == 0.0


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()
    yield found
    for life in found.lives:
        life.kill()
        life.wait()


def test_children_are_found_with_name_and_memory_until_they_are_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert children_of(parent.pid) == [child]
            until(lambda: name_of(child).startswith("python"))
            until(lambda: resident(child) > 1e6)
        finally:
            send(child, 9)
    assert children_of(parent.pid) == []
    assert name_of(child) == ""
    assert resident(child) == 0
    send(child, 9)


def test_the_llm_process_is_killed_again_and_again(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenarios.serving.faults.KILL_EVERY", 0.05)
    with killed(fake):  # type: ignore[arg-type]
        until(lambda: len(fake.lives) > 2)
    assert fake.lives[0].wait(PATIENCE) == -9


def test_the_llm_process_stands_still_and_goes_on(fake: Fake) -> None:
    process = fake.children[0]
    with stopped(fake):  # type: ignore[arg-type]
        until(lambda: state(process) == "T")
    until(lambda: state(process) == "S")


def test_a_flag_is_there_for_a_while(tmp_path: Path) -> None:
    with present(tmp_path / "flag"):
        assert (tmp_path / "flag").exists()
    assert not (tmp_path / "flag").exists()


def test_a_server_that_does_not_start_says_where_its_log_is(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"serve\.log"):
        Server(tmp_path / "no such bundle", tmp_path / "serve.log")
    assert "no such bundle" in (tmp_path / "serve.log").read_text()


@pytest.mark.slow
def test_the_spans_of_a_real_server_are_measured(tmp_path: Path) -> None:
    options = argparse.Namespace(
        bundle=make_bundle(tmp_path / "bundle", llm=False), log=tmp_path / "serve.log", serve=["--no-llm"], core=None,
        seed=1, seconds=1.0, candidates=20, rate=60.0, even=True, first=60.0, try_seconds=1.0,
    )  # fmt: skip
    part = spans.measure(options)
    assert part["failed"] == 0
    assert part["latency"]["count"] == 60
    assert {"parse", "encode", "crm", "serialise", "total"} <= part["spans"].keys()
    own = part["own"]["p50"]["median"]
    assert 0.0 < own < part["spans"]["total"]["p50_ms"] < part["latency"]["p50_ms"]
    assert len(spans.targets(part)) == 2
