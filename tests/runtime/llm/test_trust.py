"""The self-test before trust: what its outcomes mean, what is kept of them, and when nothing kept is believed."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import BundleError, ComputeError
from corella_edge_runtime.llm.contract import endings
from corella_edge_runtime.llm.llama import binding, trust
from corella_edge_runtime.llm.llama.dangers import TYPES
from corella_edge_runtime.llm.llama.trust import NONE, OK, PLAIN, TrialOutcome, Verdict, decide, worst

KINDS = st.sampled_from(sorted(TYPES.values()))
OUTCOMES = st.builds(
    TrialOutcome,
    st.one_of(st.floats(0.0, 2.0), st.just(math.nan), st.just(math.inf)),
    st.sampled_from(["", "ended by SIGILL (illegal instruction)"]),
    st.booleans(),
)


def right(kind: str, outcome: TrialOutcome) -> bool:
    most = trust.TOLERANCE if kind in trust.FLOATS else trust.QUANTISED_TOLERANCE
    return not outcome.why and outcome.error <= most


@given(KINDS, OUTCOMES, OUTCOMES)
def test_only_what_computes_right_is_used(kind: str, plain: TrialOutcome, extra: TrialOutcome) -> None:
    found = decide(kind, plain, extra)
    assert (found.kernels == OK) == (right(kind, plain) and right(kind, extra))
    assert (found.kernels == NONE) == (not right(kind, plain))
    assert bool(found.why) == bool(found.sentence) == (found.kernels != OK)
    assert found.lasting == (plain.lasting and extra.lasting)
    if found.why:
        assert found.why.startswith(f"{kind}: ")
        assert "corella-edge wheel" in found.sentence


@given(KINDS, OUTCOMES, OUTCOMES, st.floats(0.0, 1.0))
def test_a_smaller_error_never_makes_it_worse(
    kind: str, plain: TrialOutcome, extra: TrialOutcome, share: float
) -> None:
    better = TrialOutcome(plain.error * share, plain.why), TrialOutcome(extra.error * share, extra.why)
    order = trust.KERNELS.index
    assert order(decide(kind, *better).kernels) <= order(decide(kind, plain, extra).kernels)


@given(st.lists(st.sampled_from(trust.KERNELS).map(Verdict)))
def test_a_file_is_as_good_as_its_worst_type(verdicts: list[Verdict]) -> None:
    assert worst(verdicts).kernels == max((v.kernels for v in verdicts), key=trust.KERNELS.index, default=OK)


FATES = st.sampled_from(["right", "wrong", "SIGILL", "hang"])


@given(st.lists(KINDS, unique=True, min_size=1, max_size=5), st.data())
def test_whatever_ends_the_process_every_type_has_a_verdict(kinds: list[str], data: st.DataObject) -> None:
    fates = {(kind, extra): data.draw(FATES) for kind in kinds for extra in (False, True)}
    runs: list[int] = []

    def run(steps: Sequence[trust.Step]) -> tuple[str, TrialOutcome | None]:
        """As a process would: line by line, until a step ends it."""
        runs.append(len(steps))
        said = ["something that a library prints", json.dumps({"variant": "haswell"})]
        for step in steps:
            said.append(json.dumps({"begin": list(step)}))
            fate = fates[step]
            if fate in ("SIGILL", "hang"):
                return "\n".join([*said, ""]), TrialOutcome(why=fate, lasting=fate != "hang")
            said.append(json.dumps({"error": 0.0 if fate == "right" else 1.0}))
        return "\n".join([*said, ""]), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "_run", run)
        found = trust.test(kinds)
    assert list(found) == kinds
    assert len(runs) <= 1 + sum(fate in ("SIGILL", "hang") for fate in fates.values())
    for kind, verdict in found.items():
        plain, extra = fates[kind, False], fates[kind, True]
        assert verdict.kernels == (NONE if plain != "right" else PLAIN if extra != "right" else OK)
        assert verdict.variant == "haswell"
        assert verdict.lasting == ("hang" not in (plain, extra))


@given(st.integers(-64, 255))
def test_every_end_has_a_name(status: int) -> None:
    assert endings.cause(status)
    assert endings.words(status).startswith("ended ")
    assert endings.words(status).count("\n") == 0


def test_the_names_of_ends() -> None:
    assert endings.words(-4) == "ended by SIGILL (illegal instruction)"
    assert endings.words(3) == "ended with exit status 3"
    assert (endings.cause(-11), endings.cause(0)) == ("SIGSEGV", "status 0")
    assert endings.crashed(-4)
    assert not endings.crashed(-9)


def test_the_matrix_type_of_a_file_type() -> None:
    assert trust.matrix_types("Q4_K_M") == ["Q4_K"]
    assert trust.matrix_types("Q8_0") == ["Q8_0"]
    assert trust.matrix_types("IQ2_XXS") == ["IQ2_XXS"]
    assert trust.matrix_types("no such type") == []
    assert all(trust.matrix_types(name)[0] in name for name in binding.file_types() if trust.matrix_types(name))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder, and nothing remembered by this process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_seen", {})
    return tmp_path / "state" / "corella-edge" / "llama.cpp"


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The types of each self-test; each finds that Q8_0 does not compute, and the others do."""
    made: list[list[str]] = []

    def test(kinds: Sequence[str]) -> dict[str, Verdict]:
        made.append(list(kinds))
        return {kind: Verdict(NONE, "x", "v") if kind == "Q8_0" else Verdict(OK, "", "v") for kind in kinds}

    monkeypatch.setattr(trust, "test", test)
    return made


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would begin."""
    monkeypatch.setattr(trust, "_seen", {})


def test_a_verdict_is_kept_for_the_next_process(state: Path, tests: list, monkeypatch) -> None:
    assert trust.judge(["F16", "Q8_0"]).kernels == NONE
    forget(monkeypatch)
    assert trust.judge(["F16"]) == Verdict(OK, "", "v")
    assert trust.judge(["Q8_0", "F16"]) == Verdict(NONE, "x", "v")
    assert tests == [["F16", "Q8_0"]]
    assert trust.judge(["F16", "Q4_0"]).kernels == OK
    assert tests[1:] == [["Q4_0"]]
    kept = [json.loads(path.read_text()) for path in state.iterdir()]
    assert {entry["type"]: entry["kernels"] for entry in kept} == {"F16": OK, "Q4_0": OK, "Q8_0": NONE}
    with pytest.raises(ComputeError, match="does not compute here: x"):
        trust.require(["Q8_0"])


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "another CPU": lambda patch: patch.setattr(trust, "cpu_model", lambda: "another"),
    "other flags": lambda patch: patch.setattr(trust, "cpu_flags", lambda: {"amx_int8"}),
    "another kernel": lambda patch: patch.setattr(trust.platform, "release", lambda: "9.9"),
    "another build": lambda patch: patch.setattr(trust, "build_id", lambda: "other"),
    "another setting": lambda patch: patch.setenv("GGML_CPU_TILED_MM", "0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_found_out_again_for(change: str, state: Path, tests: list, monkeypatch) -> None:
    trust.judge(["F16"])
    forget(monkeypatch)
    trust.judge(["F16"])
    assert len(tests) == 1
    CHANGES[change](monkeypatch)
    trust.judge(["F16"])
    assert len(tests) == 2


def test_another_build_is_told_by_its_files(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    seen = {trust.build_id()}
    for content in (b"", b"code"):
        (tmp_path / "libggml-cpu.so").write_bytes(content)
        seen.add(trust.build_id())
    os.utime(tmp_path / "libggml-cpu.so", (1, 1))
    assert len(seen | {trust.build_id()}) == 4


def test_the_same_wheel_installed_again_has_the_same_contents(tmp_path: Path, monkeypatch) -> None:
    code, found = bytes(range(256)) * 4096, []
    for name, content in (("a", code), ("b", code), ("c", code[1:] + code[:1])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "libggml-cpu.so").write_bytes(content)
        os.utime(folder / "libggml-cpu.so", (len(found), len(found)))
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(folder))
        found.append(trust.build_contents())
    assert found[0] == found[1]
    assert found[2] != found[0]
    (tmp_path / "b" / "libggml-cpu.so").write_bytes(code + b"x")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path / "b"))
    assert trust.build_contents() != found[0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kernels": "ok"}', "null"])
def test_what_is_damaged_is_found_out_again(content: str, state: Path, tests: list, monkeypatch) -> None:
    trust.judge(["F16"])
    (path,) = state.iterdir()
    good = path.read_text()
    for bad in (content, good.replace('"ok"', '"perfect"'), good.replace('"F16"', '"Q8_0"')):
        path.write_text(bad)
        forget(monkeypatch)
        assert trust.judge(["F16"]).kernels == OK
        assert path.read_text() == good
    assert len(tests) == 4


@pytest.mark.parametrize("home", ["file", "read-only", "none"])
def test_a_state_folder_that_can_not_be_written_costs_a_repeat(
    home: str, state: Path, tests: list, monkeypatch
) -> None:
    if home == "file":
        state.parents[1].write_text("")
    elif home == "read-only":
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/self/fd")
    else:
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    for _ in range(3):
        assert trust.judge(["F16"]).kernels == OK
    assert len(tests) == 1
    forget(monkeypatch)
    assert trust.judge(["F16"]).kernels == OK
    assert len(tests) == 2


def test_what_may_be_better_next_time_is_not_kept(state: Path, monkeypatch) -> None:
    monkeypatch.setattr(trust, "test", lambda kinds: {kind: Verdict(PLAIN, "slow", lasting=False) for kind in kinds})
    assert trust.judge(["F16"]).kernels == PLAIN
    assert not state.exists()
    monkeypatch.setattr(trust, "test", lambda kinds: {kind: Verdict(OK) for kind in kinds})
    assert trust.judge(["F16"]).kernels == OK  # a server that goes on does not keep it, either


def test_a_decode_that_hangs_is_ended_and_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import json, sys, time
from corella_edge_runtime.llm.llama.selftest import trial
from corella_edge_runtime.llm.llama import trust
trust.PATIENCE = 0.5
trial.error = lambda kind, extra: time.sleep(600 if kind == "Q8_0" and extra else 0.0) or 0.0
trial.main(json.loads(sys.argv[1]))
"""
    monkeypatch.setattr(trust, "_command", lambda steps: [sys.executable, "-c", code, json.dumps(steps)])
    found = trust.test(["F16", "Q8_0", "Q4_0"])
    assert {kind: verdict.kernels for kind, verdict in found.items()} == {"F16": OK, "Q8_0": PLAIN, "Q4_0": OK}
    assert (found["Q8_0"].why, found["Q8_0"].lasting) == ("Q8_0: no answer within 60 s", False)


def test_who_is_interrupted_leaves_no_self_test_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    code = f"import os, time; open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(trust, "_command", lambda steps: [sys.executable, "-c", code])

    def interrupt() -> None:
        while not (noted.exists() and noted.read_text()):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        trust.test(["F16"])
    thread.join()
    assert not running(int(noted.read_text()))


def running(pid: int) -> bool:
    """After up to ten seconds, in which it may end."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("verdict", "refused"),
    [
        (Verdict(OK, "", "haswell"), False),
        (Verdict(NONE, "F16: its numbers are wrong", "haswell"), False),  # other types may be right
        (Verdict(NONE, "F16: ended by SIGILL"), True),
        (Verdict(NONE, "F16: no answer within 60 s", lasting=False), False),
    ],
)
def test_what_ends_whoever_loads_it_is_not_loaded(verdict: Verdict, refused: bool, state: Path, monkeypatch) -> None:
    monkeypatch.setattr(trust, "test", lambda kinds: dict.fromkeys(kinds, verdict))
    with pytest.raises(ComputeError, match="SIGILL") if refused else nullcontext():
        trust.check_loads()
    for name, value in trust.EXPENDABLE.items():
        monkeypatch.setenv(name, value)
    trust.check_loads()  # in a process that is there to find out


def test_any_self_test_tells_whether_it_loads(state: Path, tests: list) -> None:
    trust.judge(["Q4_0"])
    trust.check_loads()
    assert tests == [["Q4_0"]]


def test_starts_at_the_same_time_agree(state: Path, tests: list) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: trust.judge(["F16", "Q8_0"]), range(32)))
    assert found == {Verdict(NONE, "x", "v")}
    assert len(list(state.iterdir())) == 2


@pytest.mark.parametrize(
    ("code", "why", "lasting"),
    [
        ("import os; os.abort()", "ended by SIGABRT (aborted)", True),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL (killed)", False),
        ("raise SystemExit('no memory')", "ended with exit status 1, no memory", False),
        ("import time; time.sleep(60)", "no answer within", False),
        ("pass", "the self-test stopped", False),
    ],
)
def test_a_process_that_does_not_end_well(code: str, why: str, lasting: bool, state: Path, monkeypatch) -> None:
    monkeypatch.setattr(trust, "_command", lambda steps: [sys.executable, "-c", code])
    monkeypatch.setattr(trust, "PATIENCE", 0.5 if "sleep" in code else 60.0)
    found = trust.judge(["F16", "Q8_0"])
    assert (found.kernels, found.lasting) == (NONE, lasting)
    assert why in found.why
    monkeypatch.setattr(trust, "_command", lambda steps: ["/no/such/program"])
    assert "cannot be started" in trust.judge(["Q4_0"]).why


def test_a_damaged_file_is_named_first(tmp_path: Path, state: Path, tests: list) -> None:
    (tmp_path / "llm.gguf").write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="its head is cut off"):
        trust.judge_file(tmp_path / "llm.gguf")
    assert tests == []
