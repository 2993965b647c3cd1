from __future__ import annotations

import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import BundleError, InputError
from corella_edge_runtime.llm.backends.process import backend as process
from corella_edge_runtime.llm.backends.process.backend import Patience, ProcessBackend, pause
from corella_edge_runtime.llm.contract.backend import Liveness, ModelSpec
from corella_edge_runtime.llm.contract.messages import Answers, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.guard import GuardedBackend
from corella_edge_runtime.opening import open_backend

FAULTS = Path(__file__).parents[3] / "benchmarks" / "faults"
QUICK = Patience(ping=0.05, first_pause=0.05, longest_pause=0.4, close=5.0)


@pytest.fixture
def start(llama: Any) -> Iterator[Callable[..., ProcessBackend]]:
    """start(patience, settings) → a backend whose first child is ready."""
    made: list[ProcessBackend] = []

    def make(patience: Patience = QUICK, cores: tuple[int, ...] = ()) -> ProcessBackend:
        made.append(ProcessBackend(llama.path, llama.tokens, LlmSettings(cores=cores, queue_tokens=2**18), patience))
        made[-1].wait_ready()
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def heavy(count: int = 200) -> list[Prompt]:
    """Seconds of work: nothing is shared."""
    return [Prompt(tuple(10 + (i + j * 7) % 200 for j in range(500)), (11, 12 + i % 50)) for i in range(count)]


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def reasons(future: Future[Answers], seconds: float = 30.0) -> set[str]:
    return {answer.reason for answer in future.result(seconds)}


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_dead_child_is_answered_for_at_once_and_replaced(start: Any, prompts: Any, number: int) -> None:
    backend = start()
    pid, rows = backend.pid, prompts(3, [1, 2])
    before = backend.submit(rows).result(30)
    working, waiting = backend.submit(heavy()), backend.submit(rows)
    os.kill(pid, number)
    killed = time.monotonic()
    assert reasons(working) == reasons(waiting) == {"llm_error"}
    assert time.monotonic() - killed < 15.0
    until(lambda: backend.stats()["alive"] == 1.0 and backend.pid != pid)
    assert backend.stats()["restarts"] == 1.0
    assert backend.submit(rows).result(30) == before
    assert gone(pid)


def test_every_restart_that_became_ready_is_told_as_its_end_was(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    backend = start()
    with caplog.at_level(logging.INFO, "corella_edge.llm"):
        for number in (1.0, 2.0):
            pid = backend.pid
            os.kill(pid, signal.SIGKILL)
            until(lambda number=number: backend.stats()["restarts"] == number and backend.stats()["alive"] == 1.0)
            time.sleep(4 * QUICK.ping)  # signs of life that are no news
    told = [(r.levelname, r.getMessage().split(";")[0].split(",")[0]) for r in caplog.records]
    ended, back = ("ERROR", "the LLM process has ended"), ("WARNING", "the LLM answers again")
    assert [line for line in told if line in (ended, back)] == [ended, back, ended, back]


def test_nonsense_from_the_child_is_a_reason_to_replace_it(
    start: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = start()
    pid, link = backend.pid, backend._link
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(link._frames, "_rest", bytearray(b"\xff\xff\xff\xff\x00"))
        assert reasons(backend.submit(prompts(3, [1]))) == {"llm_error"}
        until(lambda: backend.stats()["alive"] == 1.0 and backend.pid != pid)
    assert gone(pid)
    assert "not one of this protocol" in caplog.text
    assert reasons(backend.submit(prompts(3, [1]))) == {""}


def test_while_there_is_no_child_nothing_waits(start: Any, prompts: Any) -> None:
    backend = start(Patience(first_pause=30.0, longest_pause=30.0))
    os.kill(backend.pid, signal.SIGKILL)
    until(lambda: backend.stats()["alive"] == 0.0)
    started = time.monotonic()
    assert reasons(backend.submit(prompts(3, [1]))) == {"llm_error"}
    assert reasons(backend.submit(prompts(3, [1]), time.monotonic() - 1)) == {"deadline"}
    backend.close()
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize("asked", [True, False])
def test_a_stopped_child_is_killed_and_replaced_whatever_is_asked(start: Any, prompts: Any, asked: bool) -> None:
    backend = start(Patience(ping=0.1, silence=0.5))
    pid, rows = backend.pid, prompts(3, [1, 2])
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    if asked:
        dated, open_ended = backend.submit(rows, began + 0.1), backend.submit(rows)
        assert reasons(dated) == {"deadline"}
        assert reasons(open_ended) == {"llm_error"}
    until(lambda: backend.stats()["alive"] == 1.0 and backend.pid not in (pid, None))
    assert reasons(backend.submit(rows)) == {""}
    assert gone(pid)
    assert (backend.stats()["exits:silent"], backend.stats()["restarts"]) == (1.0, 1.0)


@pytest.fixture
def guard(start: Any, llama: Any) -> Iterator[Callable[[], GuardedBackend]]:
    """guard() → a backend behind a guard that starts a silent child again after a second."""
    made: list[GuardedBackend] = []

    def make() -> GuardedBackend:
        limits = Liveness(silence=0.3, renewal=3.0, look=0.05, first_pause=0.1, longest_pause=0.3, probe=0.3)
        made.append(GuardedBackend(start(), llama.tokens, LlmSettings().batch, limits))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def test_a_child_whose_decode_hangs_is_killed_and_replaced(
    guard: Any, prompts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "hang"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CORELLA_EDGE_FAULT_HANG", str(flag))
    backend = guard()
    pid, rows = backend.inner.pid, prompts(3, [1, 2])
    assert reasons(backend.submit(rows)) == {""}
    flag.touch()  # its main thread goes on answering
    assert reasons(backend.submit(rows)) == {"llm_error"}
    until(lambda: backend.inner.pid not in (pid, None))
    flag.unlink()
    until(lambda: reasons(backend.submit(rows)) == {""})
    assert backend.stats()["exits:silent"] >= 1.0


def test_a_child_that_does_not_get_ready_is_killed(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    backend = ProcessBackend(llama.path, llama.tokens, LlmSettings(), Patience(start=0.3))
    with pytest.raises(BundleError, match="silent, ended by SIGKILL"):
        backend.wait_ready()
    backend.close()


def test_a_child_at_work_is_not_silent(start: Any) -> None:
    backend = start()
    assert reasons(backend.submit(heavy(100)), 120) == {""}
    assert backend.stats()["restarts"] == 0.0


def test_asking_never_waits_for_a_child_that_does_not_read(start: Any) -> None:
    backend = start(Patience(silence=60.0))
    os.kill(backend.pid, signal.SIGSTOP)
    longest, futures = 0.0, []
    for _ in range(40):  # far more than a socket holds
        rows = [Prompt(tuple(range(8000)), (1,))]
        started = time.monotonic()
        futures.append(backend.submit(rows, started + 0.2))
        longest = max(longest, time.monotonic() - started)
    assert longest < 20.0  # it would not read for a minute
    assert all(reasons(future) == {"deadline"} for future in futures)
    os.kill(backend.pid, signal.SIGCONT)
    assert reasons(backend.submit([Prompt((10,), (11,))])) == {""}


def test_a_question_that_no_frame_holds_is_refused_as_too_much_and_not_as_a_failure(start: Any, prompts: Any) -> None:
    backend = start()
    large = [Prompt((1,) * (2**18), (11,))] * 300  # 300 MB, were its prefix not sent once
    assert reasons(backend.submit(large)) == {"queue_full"}
    assert reasons(backend.submit([Prompt((), (1,) * 2**18), Prompt((), (2,))])) == {"queue_full"}
    assert reasons(backend.submit(prompts(3, [1, 2]))) == {""}


def test_a_cancelled_question_is_not_computed(start: Any, prompts: Any) -> None:
    backend = start()
    first = backend.submit(heavy(20))
    others = [backend.submit(heavy(10)) for _ in range(10)]  # together less than the queue holds
    assert all(future.cancel() for future in others)
    assert wait(others, 1).not_done == set()
    assert reasons(first) == {""}
    assert reasons(backend.submit(prompts(3, [1]))) == {""}
    assert backend.stats()["prompts"] < 20 + 1 + 10 * 10
    assert backend.stats()["waiting"] == 0.0


def test_every_future_ends_whatever_happens_to_the_child(start: Any, prompts: Any) -> None:
    backend, stop = start(), threading.Event()
    futures: list[list[Future[Answers]]] = [[] for _ in range(4)]
    rows = prompts(5, [1, 2, 3])
    right = [answer.probability for answer in backend.submit(rows).result(30)]

    def keep_asking(mine: list[Future[Answers]]) -> None:
        while not stop.is_set():
            mine.append(backend.submit(rows, time.monotonic() + 5))
            time.sleep(0.002)

    threads = [threading.Thread(target=keep_asking, args=(mine,)) for mine in futures]
    for thread in threads:
        thread.start()
    for _ in range(3):
        until(lambda: backend.stats()["alive"] == 1.0 and backend.pid is not None)
        time.sleep(0.05)
        os.kill(backend.pid, signal.SIGKILL)
        until(lambda: backend.stats()["alive"] == 0.0)
    until(lambda: backend.stats()["alive"] == 1.0)
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    found = [future.result(30) for mine in futures for future in mine]
    assert {answer.reason for answers in found for answer in answers} == {"", "llm_error"}
    for answers in found:
        if not answers[0].reason:
            assert [answer.probability for answer in answers] == pytest.approx(right, abs=5e-3)


def test_closing_leaves_nothing_behind(start: Any, prompts: Any) -> None:
    gc.collect()
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    backend = start()
    pid = backend.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: backend.stats()["restarts"] == 1.0 and backend.stats()["alive"] == 1.0)
    second = backend.pid
    assert reasons(backend.submit(prompts(3, [1]))) == {""}
    backend.close()
    assert gone(pid)
    assert gone(second)
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208
    assert threading.active_count() == threads


def test_closing_ends_a_child_that_does_not_listen(start: Any) -> None:
    backend = start(Patience(silence=60.0, close=0.3))
    pid, future = backend.pid, backend.submit(heavy())
    os.kill(pid, signal.SIGSTOP)
    started = time.monotonic()
    backend.close()
    assert time.monotonic() - started < 20.0
    assert reasons(future, 0) == {"llm_error"}
    assert gone(pid)


def test_the_child_is_by_itself_and_light(start: Any) -> None:
    core = min(os.sched_getaffinity(0))
    backend = start(cores=(core,))
    folder = Path(f"/proc/{backend.pid}")
    assert (folder / "comm").read_text().strip() == "corella-llm"
    assert os.sched_getaffinity(backend.pid) == {core}
    assert os.getpgid(backend.pid) != os.getpgid(0)
    maps = (folder / "maps").read_text()
    assert "libllama" in maps
    assert not re.search("onnxruntime|torch", maps)
    # Ctrl-C and a service manager's SIGTERM are the parent's to answer.
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(backend.pid, number)
    assert reasons(backend.submit([Prompt((10,), (11,))])) == {""}
    assert backend.stats()["restarts"] == 0.0


def test_the_child_imports_neither_the_crms_runtime_nor_the_server() -> None:
    code = "import sys, corella_edge_runtime.llm.backends.process.child; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnxruntime", "httpx", "starlette", "torch", "corella_edge_runtime.server"} & set(loaded)


PARENT = """
import sys, time
from pathlib import Path
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.process.backend import ProcessBackend
from corella_edge_runtime.llm.contract.settings import LlmSettings
backend = ProcessBackend(Path(sys.argv[1]), Tokens(int(sys.argv[2]), int(sys.argv[3]), None), LlmSettings())
backend.wait_ready()
print(backend.pid, flush=True)
time.sleep(60)
"""


def test_the_child_ends_with_its_parent(llama: Any) -> None:
    command = [sys.executable, "-c", PARENT, str(llama.path), str(llama.tokens.yes), str(llama.tokens.no)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid) or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z", 10)


def test_a_model_that_can_not_be_loaded_is_told_by_name(llama: Any, tmp_path: Path) -> None:
    broken = tmp_path / "llm.gguf"
    broken.write_bytes(llama.path.read_bytes()[:1000])
    for path in (broken, tmp_path / "none.gguf"):
        backend = ProcessBackend(path, llama.tokens, LlmSettings(), QUICK)
        with pytest.raises(BundleError, match=path.name):
            backend.wait_ready()
        backend.close()
        with pytest.raises(BundleError, match=path.name):
            open_backend("process", ModelSpec(path, llama.tokens, LlmSettings()))


def test_a_child_without_memory_has_not_started_and_a_damaged_model_is_an_error_of_the_bundle() -> None:
    assert type(process._error("NoContextError", "x")) is process.NotStartedError
    assert type(process._error("MemoryError", "x")) is process.NotStartedError
    assert type(process._error("BundleError", "x")) is BundleError


def test_cores_that_there_are_not_are_told(llama: Any) -> None:
    with pytest.raises(InputError, match=r"cores: \[4000\]"):
        open_backend("process", ModelSpec(llama.path, llama.tokens, LlmSettings(cores=(4000,))))


def test_a_child_that_can_not_be_started_is_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    backend = ProcessBackend(llama.path, llama.tokens, LlmSettings(), QUICK)
    with pytest.raises(BundleError, match="cannot be started"):
        backend.wait_ready()
    backend.close()


DYING = """#!{python}
import os, sys
from pathlib import Path
count = Path({count!r})
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) <= {deaths}:
    os.kill(os.getpid(), 9)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """dying(n): the first n children are killed at their start."""

    def make(deaths: int) -> None:
        fake = tmp_path / "python"
        fake.write_text(DYING.format(python=sys.executable, count=str(tmp_path / "starts"), deaths=deaths))
        fake.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(fake))

    return make


def test_a_child_that_dies_once_at_its_start_is_told_and_replaced(llama: Any, prompts: Any, dying: Any) -> None:
    dying(1)
    told: list[str] = []
    backend = open_backend("process", ModelSpec(llama.path, llama.tokens, LlmSettings()), warn=told.append)
    try:
        assert len(told) == 1
        assert "the LLM does not start (LLM process: gone, ended by SIGKILL (killed))" in told[0]
        until(lambda: backend.stats()["alive"] == 1.0)
        until(lambda: reasons(backend.submit(prompts(3, [1, 2]))) == {""})
    finally:
        backend.close()


def test_a_child_that_always_dies_costs_the_llms_scores_alone(llama: Any, prompts: Any, dying: Any) -> None:
    dying(10**6)
    told: list[str] = []
    backend = open_backend("process", ModelSpec(llama.path, llama.tokens, LlmSettings()), warn=told.append)
    try:
        until(lambda: backend.stats()["restarts"] >= 2.0)
        assert len(told) == 1
        assert reasons(backend.submit(prompts(3, [1, 2]))) == {"llm_error"}
    finally:
        backend.close()


def test_without_a_warning_to_give_it_is_an_error(llama: Any, dying: Any) -> None:
    dying(1)
    before = threading.active_count()
    with pytest.raises(BundleError, match="ended by SIGKILL"):
        open_backend("process", ModelSpec(llama.path, llama.tokens, LlmSettings()))
    assert threading.active_count() == before


def test_a_damaged_model_is_an_error_with_and_without_a_warning(llama: Any, tmp_path: Path) -> None:
    broken = tmp_path / "llm.gguf"
    broken.write_bytes(llama.path.read_bytes()[:-100])
    told: list[str] = []
    with pytest.raises(BundleError, match=r"llm\.gguf"):
        open_backend("process", ModelSpec(broken, llama.tokens, LlmSettings()), warn=told.append)
    assert told == []


ILLEGAL = """#!{python}
import os, sys
if '"extra": false' not in sys.argv[-1]:
    os.kill(os.getpid(), {number})
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGABRT"])
def test_a_child_that_dies_of_its_kernels_is_followed_by_one_with_plainer_ones(
    name: str, llama: Any, prompts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    fake = tmp_path / "python"
    fake.write_text(ILLEGAL.format(python=sys.executable, number=int(signal.Signals[name])))
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    told: list[str] = []
    backend = open_backend("process", ModelSpec(llama.path, llama.tokens, LlmSettings()), warn=told.append)
    try:
        assert f"LLM process: gone, ended by {name} (" in told[0]
        until(lambda: reasons(backend.submit(prompts(3, [1, 2]))) == {""})
        assert backend.stats()[f"exits:{name}"] == 1.0
        assert "from now on without AMX and repacked weights" in caplog.text
    finally:
        backend.close()


def test_an_end_that_was_wanted_is_not_counted(llama: Any) -> None:
    backend = ProcessBackend(llama.path, llama.tokens, LlmSettings(), QUICK)
    backend.wait_ready()
    assert backend.stats()["prompts"] == 1.0  # ready means that it has answered one
    backend.close()
    assert not [name for name in backend.stats() if name.startswith("exits:")]


def test_closing_before_the_model_is_loaded(llama: Any) -> None:
    backend = ProcessBackend(llama.path, llama.tokens, LlmSettings(), QUICK)
    assert reasons(backend.submit([Prompt((10,), (11,))])) == {"llm_error"}
    backend.close()
    with pytest.raises(BundleError):
        backend.wait_ready()


def test_what_a_child_says_is_logged_short(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b"ERROR llama: bad tensor\n" + b"x" * 5000 + b"\n\xff\n")
    with caplog.at_level(logging.WARNING):
        process._pass_on(os.fdopen(reading, "rb"))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "LLM process: ERROR llama: bad tensor"
    assert len(said[1]) < 450
    assert len(said) == 3


def test_pauses_double_up_to_the_longest() -> None:
    patience = Patience(first_pause=0.1, longest_pause=10.0)
    assert [pause(n, patience) for n in range(5)] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert pause(8, patience) == pause(10_000, patience) == 10.0
