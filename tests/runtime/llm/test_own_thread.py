"""llama.cpp computes in threads of its own: whatever else a caller's thread computes, and whoever calls."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles import make_bundle
from corella_edge.request import Candidate, Event, Request, User
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.backends.thread import ThreadBackend
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import binding, build, workers
from corella_edge_runtime.llm.llama.binding import Context
from corella_edge_runtime.llm.llama.own_thread import OwnThread, claim, claimed
from corella_edge_runtime.llm.llama.scorer import YesNoScorer

USER = User("u1", {}, tuple(Event(f"i{n}", 1.0 + n % 5) for n in range(8)))
REQUEST = Request(USER, tuple(Candidate(f"i{n}") for n in range(2)), threshold="ratio:1")


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread of each decode."""
    threads: list[int] = []
    compute = Context._compute

    def noted(self: Context) -> int:
        assert claimed()
        threads.append(threading.get_ident())
        return compute(self)

    monkeypatch.setattr(Context, "_compute", noted)
    return threads


def test_a_scorer_never_decodes_in_its_caller_s_thread(make_scorer, prompts, decoding: list[int]) -> None:
    first, second = make_scorer(), make_scorer()
    for _ in range(3):
        answers = [*first.score(prompts(3, [1, 2])), *second.score(prompts(4, [1]))]
        assert not any(answer.reason for answer in answers)
        first.forget()
        second.forget()
    assert len(set(decoding)) == 2  # one for each context
    assert threading.get_ident() not in decoding


def test_a_backend_decodes_in_its_one_thread(llama, model, prompts, decoding: list[int]) -> None:
    backend = ThreadBackend(lambda: YesNoScorer(model, llama.tokens))
    for _ in range(3):
        backend.submit(prompts(3, [1, 2])).result()
    assert set(decoding) == {backend._thread.ident}
    backend.close()


def test_a_caller_who_is_interrupted_waits_for_the_work() -> None:
    own, done, begun = OwnThread(), [], threading.Event()

    def work() -> None:
        begun.set()
        time.sleep(0.3)
        done.append(True)

    def interrupt() -> None:
        begun.wait()
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    class StopError(Exception):
        pass

    def raise_stop(number: int, frame: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGUSR1, raise_stop)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(StopError):
            own.run(work)
        assert done == [True]
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
        own.close()


def test_only_the_thread_that_says_so_is_claimed() -> None:
    assert not claimed()
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: (claim(), seen.append(claimed())))
    thread.start()
    thread.join()
    assert seen == [True]
    assert not claimed()


def tasks() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def busy(threads: set[int]) -> float:
    """Seconds that they have computed so far."""
    fields = [Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split() for thread in threads]
    return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif("OPENMP" in build.features(), reason="this build takes OpenMP's own threads")
def test_workers_stay_from_decode_to_decode_sleep_between_and_end_with_the_context(make_scorer, prompts) -> None:
    before = tasks()
    scorer = make_scorer(threads=2)
    scorer.score(prompts(3, [1]))
    made = tasks() - before
    assert len(made) == 2  # the one that decodes, and a worker
    for user in range(5):
        scorer.score(prompts(user, [1, 2]))
        assert tasks() - before == made
    spent = busy(made)
    time.sleep(0.5)
    assert busy(made) - spent <= 0.05
    scorer.close()
    deadline = time.monotonic() + 5.0
    while tasks() & made and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not tasks() & made


@pytest.mark.parametrize("missing", ["ggml_threadpool_new", "a struct it does not know"])
def test_a_llama_cpp_without_such_workers_answers_too(missing: str, make_scorer, prompts, monkeypatch) -> None:
    call = workers._call
    if missing == "ggml_threadpool_new":
        monkeypatch.setattr(workers, "_call", lambda name: None if name == missing else call(name))
    else:
        monkeypatch.setattr(workers, "_params", lambda threads: None)
    expected = [answer.probability for answer in make_scorer(threads=2).score(prompts(3, [1, 2]))]
    monkeypatch.undo()
    found = [answer.probability for answer in make_scorer(threads=2).score(prompts(3, [1, 2]))]
    assert found == expected


@pytest.fixture(scope="module", params=["Q8_0", "BF16"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    bundle = make_bundle(tmp_path_factory.mktemp("threads") / "bundle", llm_type=request.param)
    with Engine.open(bundle, require_llm=True, llm_threads=1, deterministic=True, tuned=False) as opened:
        yield opened


def test_torch_in_the_same_process_and_thread_changes_nothing(engine: Engine) -> None:
    """On a CPU with AMX, torch's product in bfloat16 releases the tiles of the thread that it runs in."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # its threads and llama.cpp's wait for each other where cores are scarce
    a, b = (torch.rand(256, 256).to(torch.bfloat16) for _ in range(2))
    product = a @ b
    expected = engine.rank(REQUEST).llm.tolist()
    assert all(0.0 < value < 1.0 for value in expected)
    for _ in range(100):
        assert torch.equal(a @ b, product)
        assert engine.rank(REQUEST).llm.tolist() == expected


def test_a_scorer_beside_torch(engine: Engine) -> None:
    """As `export` and the benchmarks use it: no backend, everything in one thread."""
    torch = pytest.importorskip("torch")
    a = torch.rand(256, 256).to(torch.bfloat16)
    assert engine.llm is not None
    assert engine.setup is not None
    model = binding.Model(engine.bundle.path(engine.setup.llm_file))
    scorer = YesNoScorer(model, engine.llm.prompts.tokens, LlmSettings(deterministic=True))
    encoder = engine.llm.prompts
    prefix = tuple(encoder.prefix(USER))
    asked = [Prompt(prefix, tuple(encoder.item(item) or ())) for item in range(4)]
    expected = [answer.probability for answer in scorer.score(asked)]
    for _ in range(20):
        _ = a @ a
        assert [answer.probability for answer in scorer.score(asked)] == expected
    scorer.close()
    model.close()
