"""Reading what peers and the system tell."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from harness.process import buffers_of, mapped
from harness.quiet import Watch, cpu_seconds, is_void, undisturbed
from peers.ceilings import best, speeds
from peers.llama_server import binary, body_of, yes_of

TOKENS = Tokens(3, 4, None)


def answer(key: str, rows: list[dict[str, float]]) -> dict[str, object]:
    return {"index": 0, "completion_probabilities": [{key: rows}]}


def test_lifted_answers_share_all_probability() -> None:
    found = yes_of(answer("top_probs", [{"id": 4, "prob": 0.6}, {"id": 3, "prob": 0.2}]), TOKENS, False)
    assert found == pytest.approx(0.25)


def test_logprobs_are_compared_with_each_other() -> None:
    rows = [{"id": 9, "logprob": -0.1}, {"id": 3, "logprob": -3.0}, {"id": 4, "logprob": -2.0}]
    assert yes_of(answer("top_logprobs", rows), TOKENS, True) == pytest.approx(1 / (1 + math.e))


def test_an_answer_that_is_not_among_the_shown_has_no_score() -> None:
    assert math.isnan(yes_of(answer("top_logprobs", [{"id": 3, "logprob": -1.0}]), TOKENS, True))


def test_only_the_best_form_lifts_the_answers() -> None:
    assert [token for token, _ in body_of(TOKENS, None, True)["logit_bias"]] == [3, 4]
    shown = body_of(TOKENS, 20, True)
    assert "logit_bias" not in shown
    assert shown["n_probs"] == 20


def test_a_binary_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORELLA_EDGE_LLAMA_SERVER", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"CORELLA_EDGE_LLAMA_SERVER.*peers/README"):
        binary("CORELLA_EDGE_LLAMA_SERVER")


def test_the_fastest_ubatch_of_llama_bench() -> None:
    rows = [{"n_ubatch": 60, "avg_ts": 500.0}, {"n_ubatch": 120, "avg_ts": 650.5}, {"n_ubatch": 240, "avg_ts": 600.0}]
    assert best(speeds(json.dumps(rows))) == (120, 650.5)


def test_buffers_are_read_from_the_log() -> None:
    log = [
        "llama_kv_cache:        CPU KV buffer size =    17.00 MiB",
        "load_tensors: CPU_Mapped model buffer size = 5.57",
        "load_tensors:   CPU_REPACK model buffer size =     4.25 MiB",
        "sched_reserve: CPU compute buffer size = 9.5 MiB",
    ]
    assert buffers_of(log) == [("CPU KV", 17.0), ("CPU_REPACK model", 4.25), ("CPU compute", 9.5)]


SMAPS = """7f00-7f10 r-xp 00000000 fe:00 11 /usr/lib/libx.so.1
Size:                 64 kB
Rss:                  40 kB
Anonymous:             8 kB
7f10-7f20 r--p 00000000 fe:00 12 /bundles/one/llm.gguf
Rss:                 900 kB
Anonymous:             0 kB
7f20-7f30 rw-p 00000000 00:00 0
Rss:                 500 kB
Anonymous:           500 kB
7f30-7f40 rw-p 00000000 00:00 0 [heap]
Rss:                 300 kB
Anonymous:           300 kB
"""


def test_only_pages_of_other_files_as_they_are_on_disk_count_as_libraries() -> None:
    assert mapped(SMAPS, Path("/bundles/one")) == 32 * 1024
    assert mapped(SMAPS, Path("/bundles/two")) == 932 * 1024


def test_this_process_maps_its_interpreter() -> None:
    assert mapped(Path("/proc/self/smaps").read_text(), Path("/no such folder")) > 1 << 20


def test_a_known_child_is_not_foreign() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        known, unknown = Watch([child.pid]), Watch()
        end = cpu_seconds(child.pid) + 0.3
        while cpu_seconds(child.pid) < end:
            time.sleep(0.01)
        found = known.read()["foreign"], unknown.read()["foreign"]
        child.kill()
    assert found[0] < found[1]


def test_a_twentieth_of_the_machine_is_the_limit() -> None:
    assert is_void({"foreign": 0.051, "steal": 0.0})
    assert is_void({"foreign": 0.0, "steal": 0.06})
    assert not is_void({"foreign": 0.05, "steal": 0.05})


@pytest.mark.parametrize(
    ("foreign", "found"),
    [([0.0, 0.0, 0.0], 0), ([0.06, 0.0, 0.0], 1), ([0.06, 0.06, 0.0], 2), ([0.06, 0.06, 0.06], 2)],
)
def test_a_disturbed_measurement_is_repeated_until_a_quiet_or_the_last_one(foreign: list[float], found: int) -> None:
    tries = iter(range(len(foreign)))
    assert undisturbed(lambda: next(tries), lambda one: {"foreign": foreign[one], "steal": 0.0}, 2) == found
    assert next(tries, None) == (found + 1 if found < 2 else None)
