"""Adapters beside one LLM: who asks others sees nothing of them, whatever was computed before, beside, or kept."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles import make_bundle, write_adapter, write_gguf
from corella_edge.adapters import Weights
from corella_edge.errors import BundleError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.process.backend import ProcessBackend
from corella_edge_runtime.llm.backends.thread import ThreadBackend, thread_side
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.adapter_file import base_of, check_adapter
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from corella_edge_runtime.llm.llama.tree import Branches, unfold

BLOCKS, WIDTH = 2, 32
FUZZ = Path(__file__).with_name("fuzz_gguf.py")
A: Weights = (("a", 1.0),)
B: Weights = (("b", 1.0),)
HALVES: Weights = (("a", 0.5), ("b", 0.5))
CHOICES: list[Weights] = [(), A, B, HALVES, (("a", -1.0),), (("b", 0.25),)]
CLOSE = 1e-4  # everything is float32 and computed exactly: what is left is the order of sums


class Files:
    """A model of random weights, two adapters of it, and its answers."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "llm.gguf"
        words = write_gguf(self.base, np.random.default_rng(3), WIDTH, blocks=BLOCKS)
        self.adapters = {
            name: write_adapter(
                folder / f"{name}.gguf", np.random.default_rng(seed), WIDTH, blocks=BLOCKS, kind=np.float32
            )
            for seed, name in enumerate("ab", 1)
        }
        self.tokens = Tokens(words.index("ĠYes"), words.index("ĠNo"), None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def model(files: Files) -> Iterator[Model]:
    opened = Model(files.base, adapters=files.adapters)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def plain(files: Files, model: Model) -> Iterator[Any]:
    """(prompt, adapters) → P(Yes) by the plainest use of llama.cpp: one context, cleared for every prompt."""
    context = Context(model, 512, 1, 512, 1, exact=True)

    def probability(prompt: Prompt, adapters: Weights) -> float:
        context.clear()
        context.adapt(adapters)
        leaves, rows = unfold(Branches.one((*prompt.prefix, *prompt.suffix)))
        context.decode(rows)
        yes, no = context.logits(leaves.last, (files.tokens.yes, files.tokens.no))[0]
        return 1.0 / (1.0 + math.exp(no - yes))

    yield probability
    context.close()


@pytest.fixture(scope="module")
def scorer(files: Files, model: Model) -> Iterator[YesNoScorer]:
    """One for all examples of a test: each finds what was kept, and whose adapters, as the one before left it."""
    made = YesNoScorer(model, files.tokens, LlmSettings(batch=64, kept_tokens=200), 512, exact=True)
    yield made
    made.close()


def user(number: int, items: list[int]) -> list[Prompt]:
    """The prompts of a user's candidates."""
    prefix = tuple(5 + (number * 37 + i * 11) % 240 for i in range(10 + 13 * number))
    return [Prompt(prefix, (20 + item, 30 + item % 3)) for item in items]


QUESTIONS = st.lists(
    st.tuples(st.sampled_from(CHOICES), st.integers(0, 5), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
    min_size=1, max_size=6,
)  # fmt: skip


def test_adapters_move_the_answers_and_each_otherwise(plain: Any) -> None:
    rows = user(2, [1, 2, 3])
    found = np.array([[plain(prompt, by) for prompt in rows] for by in CHOICES])
    apart = np.abs(found[:, None] - found[None]).max(-1)[~np.eye(len(CHOICES), dtype=bool)]
    assert apart.min() > 20 * CLOSE


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=QUESTIONS)
def test_questions_that_wait_together_are_answered_as_one_by_one(
    scorer: YesNoScorer, plain: Any, questions: list[tuple[Weights, int, list[int]]]
) -> None:
    jobs = [Job(Prompts.of(user(number, items)).by(by)) for by, number, items in questions]
    while waiting := [job for job in jobs if job.open]:
        scorer.step(waiting)
    for job, (by, number, items) in zip(jobs, questions, strict=True):
        expected = [plain(prompt, by) for prompt in user(number, items)]
        assert job.answers("deadline").probability.tolist() == pytest.approx(expected, abs=CLOSE)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=QUESTIONS)
def test_what_is_kept_of_a_user_is_of_the_adapters_that_computed_it(
    scorer: YesNoScorer, plain: Any, questions: list[tuple[Weights, int, list[int]]]
) -> None:
    for by, number, items in questions:
        found = scorer.score(Prompts.of(user(number, items)).by(by)).probability.tolist()
        assert found == pytest.approx([plain(prompt, by) for prompt in user(number, items)], abs=CLOSE)


def test_a_user_who_returns_to_the_same_adapters_finds_the_prefix_kept(files: Files, model: Model) -> None:
    scorer = YesNoScorer(model, files.tokens, LlmSettings(batch=64, kept_tokens=500), 512)
    rows, length = Prompts.of(user(3, [1, 2])), len(user(3, [1])[0].prefix)
    assert scorer.score(rows.by(A))[0].reused == 0
    assert scorer.score(rows.by(B))[0].reused == 0  # the same tokens, and another state
    assert scorer.score(rows.by(A))[0].reused == length
    assert scorer.score(rows.by(B))[0].reused == length
    assert scorer.stats()["switches"] == 4
    assert scorer.stats()["kept_prefixes"] >= 1
    scorer.close()


def test_one_decode_has_one_choice_of_adapters_and_others_of_it_join(files: Files, model: Model) -> None:
    scorer = YesNoScorer(model, files.tokens, LlmSettings(batch=256), 512)
    jobs = [Job(Prompts.of(user(0, [item])).by(by)) for item, by in enumerate([A, B, A, B, A])]
    scorer.step(jobs)
    assert [bool(job.open) for job in jobs] == [False, True, False, True, False]
    scorer.step([job for job in jobs if job.open])
    assert not any(job.open for job in jobs)
    assert scorer.counters.decodes == 2
    scorer.close()


def test_long_prefixes_of_two_choices_in_turns_are_right(files: Files, model: Model, plain: Any) -> None:
    """A prefix that takes several decodes is interrupted by another choice after each."""
    scorer = YesNoScorer(model, files.tokens, LlmSettings(batch=32, kept_tokens=500), 512, exact=True)
    jobs = [Job(Prompts.of(user(5, [1, 2])).by(by)) for by in (A, B)]
    for turn in range(40):
        waiting = [job for job in jobs if job.open]
        if not waiting:
            break
        scorer.step(waiting[:: -1 if turn % 2 else 1])
    for job, by in zip(jobs, (A, B), strict=True):
        expected = [plain(prompt, by) for prompt in user(5, [1, 2])]
        assert job.answers("deadline").probability.tolist() == pytest.approx(expected, abs=CLOSE)
    scorer.close()


def test_weight_zero_is_the_model_alone_and_one_after_the_other_adds_up(files: Files, model: Model) -> None:
    bare = Model(files.base)
    alone, with_adapters = (YesNoScorer(m, files.tokens, LlmSettings(), 512, exact=True) for m in (bare, model))
    rows = Prompts.of(user(1, [1, 2, 3]))
    assert with_adapters.score(rows).probability.tolist() == alone.score(rows).probability.tolist()
    zero = rows.by((("a", 0.0), ("b", 0.0)))
    assert with_adapters.score(zero).probability.tolist() == alone.score(rows).probability.tolist()
    for scorer in (alone, with_adapters):
        scorer.close()


def test_deterministic_scores_are_bit_equal_whatever_adapters_were_asked_between(files: Files, model: Model) -> None:
    def made() -> YesNoScorer:
        return YesNoScorer(model, files.tokens, LlmSettings(batch=64, deterministic=True), 512)

    fresh, used = made(), made()
    rows = Prompts.of(user(5, [1, 2, 3]))
    expected = fresh.score(rows.by(A)).probability.tolist()
    for by in (B, (), A, HALVES, A):
        found = used.score(rows.by(by)).probability.tolist()
        if by == A:
            assert found == expected
    for scorer in (fresh, used):
        scorer.close()


def test_adapters_that_are_not_there_are_an_error_of_that_question_alone(files: Files, model: Model) -> None:
    backend = ThreadBackend(lambda: YesNoScorer(model, files.tokens, LlmSettings(), 512))
    rows = Prompts.of(user(1, [1, 2]))
    other = backend.submit(rows.by(A))
    assert backend.submit(rows.by((("c", 1.0),))).result(30).reasons == ["llm_error"] * 2
    assert other.result(30).reasons == ["", ""]
    backend.close()


def test_a_context_that_is_made_anew_asks_the_adapters_again(files: Files, model: Model, plain: Any) -> None:
    scorer = YesNoScorer(model, files.tokens, LlmSettings(), 512, exact=True)
    rows = user(2, [1])
    scorer.score(Prompts.of(rows).by(A))
    sound = scorer._sound
    scorer._sound = iter([False, True]).__next__  # type: ignore[method-assign]
    scorer._mend()
    scorer._sound = sound  # type: ignore[method-assign]
    assert scorer.counters.renewals == 1
    for by in (A, (), B):
        assert scorer.score(Prompts.of(rows).by(by))[0].probability == pytest.approx(plain(rows[0], by), abs=CLOSE)
    scorer.close()


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_both_backends_answer_questions_of_several_adapters_at_once(files: Files, plain: Any, kind: str) -> None:
    settings = LlmSettings(batch=64)
    if kind == "thread":
        backend: Any = thread_side(ModelSpec(files.base, files.tokens, settings, adapters=files.adapters))
    else:
        backend = ProcessBackend(files.base, files.tokens, settings, adapters=files.adapters)
        backend.wait_ready()
    asked = [(by, number) for number in range(4) for by in CHOICES]
    waiting = [backend.submit(Prompts.of(user(number, [1, 2])).by(by), time.monotonic() + 60) for by, number in asked]
    for (by, number), future in zip(asked, waiting, strict=True):
        expected = [plain(prompt, by) for prompt in user(number, [1, 2])]
        assert future.result(60).probability.tolist() == pytest.approx(expected, abs=5e-3)
    assert backend.stats()["switches"] > 0
    backend.close()


def test_what_is_written_passes(files: Files, tmp_path: Path) -> None:
    base = base_of(files.base)
    assert check_adapter(files.adapters["a"], base) == {"F32"}
    other = write_adapter(tmp_path / "a.gguf", np.random.default_rng(1), WIDTH, blocks=1)
    assert check_adapter(other, base) == {"F16"}
    Model(files.base, adapters={"upper": other}).close()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another kind of file": ({"general.type": "model"}, "general.type is 'model'"),
    "another kind of adapter": ({"adapter.type": "dora"}, "adapter.type is 'dora'"),
    "a number for a text": ({"adapter.type": 3}, "adapter.type is 3"),
    "no type": ({"adapter.type": None}, "it lacks adapter.type"),
    "no scale": ({"adapter.lora.alpha": np.float32(0)}, "adapter.lora.alpha is 0.0"),
    "an endless scale": ({"adapter.lora.alpha": np.float32(np.inf)}, "adapter.lora.alpha is inf"),
    "a scale that could leave the numbers": (
        {"adapter.lora.alpha": np.float32(1e6)},
        "adapter.lora.alpha is 1000000.0",
    ),
    "a key with an end inside": ({"split.count\0": 2}, r"the name 'split\.count\\x00' holds a NUL"),
    "a whole number for the scale": ({"adapter.lora.alpha": 8}, "adapter.lora.alpha is 8"),
    "begins at certain tokens": ({"adapter.alora.invocation_tokens": 1}, "adapter.alora.invocation_tokens is 1"),
    "a part": ({"split.count": 2}, "split.count is 2"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG)
def test_keys_that_llama_cpp_would_misread_are_refused(
    files: Files, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = write_adapter(tmp_path / "a.gguf", np.random.default_rng(1), WIDTH, **values)
    with pytest.raises(BundleError, match=rf"a\.gguf: not an adapter that this release can run: {message}"):
        check_adapter(path, base_of(files.base))


def tensors(path: Path, given: dict[str, Any], architecture: str = "llama") -> Path:
    """An adapter of these tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for name, values in given.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


Q = "blk.0.attn_q.weight"
GOOD = {f"{Q}.lora_a": np.ones((2, WIDTH), np.float32), f"{Q}.lora_b": np.ones((WIDTH, 2), np.float32)}
TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "it holds no matrix"),
    "half a pair": ({f"{Q}.lora_a": GOOD[f"{Q}.lora_a"]}, f"'{Q}' has one factor of two"),
    "ranks that differ": ({**GOOD, f"{Q}.lora_b": np.ones((WIDTH, 3), np.float32)}, "have the shapes"),
    "three dimensions": ({**GOOD, f"{Q}.lora_b": np.ones((2, WIDTH, 2), np.float32)}, "have the shapes"),
    "another width": ({**GOOD, f"{Q}.lora_a": np.ones((2, 48), np.float32)}, r"is changed in \(48, 32\)"),
    "a block too many": ({name.replace("blk.0", "blk.9"): v for name, v in GOOD.items()}, "the model has None there"),
    "a norm": ({**GOOD, "blk.0.attn_norm.weight": np.ones(WIDTH, np.float32)}, "is of no known matrix"),
    "rows of the vocabulary": ({"token_embd.weight.lora_a": np.ones((2, WIDTH), np.float32)}, "is of no known matrix"),
    "not a number": ({**GOOD, f"{Q}.lora_a": np.full((2, WIDTH), np.nan, np.float32)}, "not finite"),
    "whole numbers": ({**GOOD, f"{Q}.lora_a": np.ones((2, WIDTH), np.int32)}, "is of the type 26, not F32 or F16"),
}


@pytest.mark.parametrize(("given", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_an_adapter_cannot_have_are_refused(
    files: Files, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    base = base_of(files.base)
    check_adapter(tensors(tmp_path / "good.gguf", GOOD), base)
    with pytest.raises(BundleError, match=message):
        check_adapter(tensors(tmp_path / "a.gguf", given), base)


def test_an_adapter_of_another_architecture_and_a_file_cut_off_are_refused(files: Files, tmp_path: Path) -> None:
    base, whole = base_of(files.base), files.adapters["a"].read_bytes()
    with pytest.raises(BundleError, match="its architecture is 'qwen2', the model's is 'llama'"):
        check_adapter(tensors(tmp_path / "a.gguf", GOOD, "qwen2"), base)
    for length in (0, 3, 30, 500, len(whole) - 1):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(BundleError, match=r"cut\.gguf"):
            check_adapter(tmp_path / "cut.gguf", base)


EDITS = st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=300)
@given(EDITS)
def test_any_adapter_passes_or_is_refused(files: Files, edits: list[tuple[int, bytes]]) -> None:
    raw, base, path = bytearray(files.adapters["a"].read_bytes()), base_of(files.base), files.base.with_name("any.gguf")
    for place, new in edits:
        raw[place : place + len(new)] = new
    path.write_bytes(raw)
    with suppress(BundleError):
        assert check_adapter(path, base) <= {"F16", "F32"}


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_changed_adapter_ends_the_process(files: Files, tmp_path: Path, count: int) -> None:
    command = [sys.executable, str(FUZZ), str(files.adapters["a"]), str(tmp_path), str(count), "7", str(files.base)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() <= {"refused", "not loaded", "scored"}, found
    assert found["refused"] > count / 3
    assert found.get("scored", 0) > 0


def test_a_bundle_with_adapters_opens(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", adapters=("a", "b"))
