"""What is loaded and how it is run: wishes before the plan, the plan before the machine."""

from __future__ import annotations

import pytest

from corella_edge.errors import InputError
from corella_edge.plan import Fingerprint, Plan
from corella_edge_runtime.llm.settings import LlmSettings
from corella_edge_runtime.setup import Setup, Wishes, decide
from corella_edge_runtime.threads import Machine

FOUR = Machine(((0,), (1,), (2,), (3,)))
LLM = {"threads": 2, "cores": [2, 3], "batch": 256}
PLAN = Plan("0" * 64, "b@1", "", Fingerprint("", (), None, {}), "crm.int8.onnx", 2, (0, 1), "llm.BF16.gguf", LLM)


def test_without_wish_or_plan_the_machine_decides() -> None:
    assert decide(Wishes(), None, FOUR) == Setup(
        "crm.onnx", 1, (0,), "llm.gguf", LlmSettings(threads=3, cores=(1, 2, 3))
    )


def test_a_plan_comes_before_the_machine() -> None:
    found = decide(Wishes(), PLAN, FOUR)
    assert found == Setup("crm.int8.onnx", 2, (0, 1), "llm.BF16.gguf", LlmSettings.from_json(LLM, "here"))


def test_a_wish_comes_before_a_plan_and_keeps_the_rest_of_it() -> None:
    found = decide(Wishes(llm_threads=1, llm_file="llm.gguf", deterministic=True), PLAN, FOUR)
    assert (found.crm_file, found.llm_file) == ("crm.int8.onnx", "llm.gguf")
    assert (found.llm.threads, found.llm.batch, found.llm.deterministic) == (1, 256, True)
    assert not set(found.llm.cores) & set(found.crm_cores)


@pytest.mark.parametrize("machine", [Machine(((0,),)), Machine(((0,), (1,)), quota=1.2)])
def test_too_little_for_two_binds_nothing(machine: Machine) -> None:
    found = decide(Wishes(), None, machine)
    assert (found.crm_threads, found.llm.threads, found.crm_cores, found.llm.cores) == (1, 1, (), ())


def test_more_threads_than_cores_share_them() -> None:
    found = decide(Wishes(crm_threads=3, llm_threads=4), None, FOUR)
    assert (found.crm_threads, found.llm.threads, found.crm_cores, found.llm.cores) == (3, 4, (), ())


def test_a_plan_without_an_llm_leaves_it_to_the_machine() -> None:
    plan = Plan("0" * 64, "b@1", "", Fingerprint("", (), None, {}), "crm.onnx", 1, (0,))
    found = decide(Wishes(), plan, FOUR)
    assert (found.llm_file, found.llm.threads) == ("llm.gguf", 3)


def test_a_queue_that_no_frame_would_hold_is_refused() -> None:
    assert LlmSettings(queue_tokens=2**23).queue_tokens == 2**23
    with pytest.raises(InputError, match="queue_tokens: 8388609 is above 8388608"):
        LlmSettings(queue_tokens=2**23 + 1)


def test_llama_cpps_bound_on_sequences_is_named() -> None:
    with pytest.raises(InputError, match="sequences: 256 is above 255"):
        LlmSettings(sequences=256)
