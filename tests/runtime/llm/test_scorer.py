from __future__ import annotations

import math
import time
import unicodedata
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.binding import DecodeError
from corella_edge_runtime.llm.llama.packing import SAFETY

ALONE = 2e-3  # published tolerance in P(Yes): f16, one prompt a decode, against float32
EVERY_TYPE = pytest.mark.parametrize("model", ["F16", "Q8_0"], indirect=True, scope="session")
LIMIT = 900
BATCH, SEQUENCES = LlmSettings().batch, LlmSettings().sequences


def filler(length: int, seed: int = 0) -> tuple[int, ...]:
    """Some token ids."""
    return tuple(10 + (seed * 31 + i * 7) % 200 for i in range(length))


def cost(per_decode: float = 0.0, per_token: float = 0.0) -> Cost:
    """Learned a moment ago."""
    known = Cost()
    known.per_decode, known.per_token, known.learned = per_decode, per_token, time.monotonic()
    return known


def close(found: Any, prompts: list[Prompt], reference: Any, tolerance: float | None = None) -> None:
    """As near as is published for the model's type, or as is said."""
    tolerance = reference.tolerance if tolerance is None else tolerance
    assert len(found) == len(prompts)
    for answer, prompt in zip(found, prompts, strict=True):
        assert answer.reason == ""
        assert answer.probability == pytest.approx(reference.probability(prompt), abs=tolerance)


def test_scores_equal_transformers_in_float32(llama: Any, prompts: Any, make_scorer: Any) -> None:
    torch = pytest.importorskip("torch")
    rows = [prompt for user in range(15) for prompt in prompts(user, [user, user + 20])]
    scorer = make_scorer()
    found = [scorer.score([prompt])[0].probability for prompt in rows]
    for prompt, probability in zip(rows, found, strict=True):
        with torch.inference_mode():
            logits = llama.torch(torch.tensor([[*prompt.prefix, *prompt.suffix]])).logits[0, -1].double()
        yes, no = logits[llama.tokens.yes], logits[llama.tokens.no]
        assert probability == pytest.approx(float(torch.sigmoid(yes - no)), abs=ALONE)
    # The test means something only if the model tells the prompts apart.
    assert max(found) - min(found) > 0.2


def test_the_answers_share_of_the_whole_vocabulary_equals_transformers(
    llama: Any, prompts: Any, make_scorer: Any
) -> None:
    torch = pytest.importorskip("torch")
    rows = [replace(prompt, whole=number % 2 == 0) for number, prompt in enumerate(prompts(7, range(20)))]
    found = make_scorer(exact=True).score(rows)
    assert [math.isnan(answer.mass) for answer in found] == [not prompt.whole for prompt in rows]
    for prompt, answer in zip(rows[::2], found[::2], strict=True):
        with torch.inference_mode():
            logits = llama.torch(torch.tensor([[*prompt.prefix, *prompt.suffix]])).logits[0, -1].double()
        share = torch.softmax(logits, 0)[[llama.tokens.yes, llama.tokens.no]].sum()
        assert math.exp(answer.mass) == pytest.approx(float(share), rel=1e-2)


def test_tokens_equal_the_trainers(llama: Any, model: Any) -> None:
    texts = ["", " ", "Heat (1995), Action: Yes 5\n", "<s></s><pad>", "café 東京 🎬\u0000x", "a  b\n\n c", " Yes"]
    for text in texts:
        assert model.tokenize(text) == llama.encoder.tokenize(text), text
    assert llama.tokenizer.bos_token_id not in model.tokenize("<s>")
    assert model.bos == llama.tokens.bos


@given(st.text(max_size=30))
@settings(max_examples=50)
def test_any_text_is_tokenised_like_the_trainer_does(llama: Any, model: Any, text: str) -> None:
    clean = unicodedata.normalize("NFC", llama.encoder.template.text(text))
    assert model.tokenize(clean) == llama.encoder.tokenize(clean)


CHOSEN = st.lists(st.integers(0, 39), min_size=1, max_size=6)
USERS = st.lists(st.tuples(st.integers(0, 14), CHOSEN), min_size=1, max_size=4)


@pytest.fixture
def shared(make_scorer: Any) -> Any:
    """One scorer for all examples of a test: each finds the cache as the one before left it."""
    return make_scorer()


@EVERY_TYPE
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=USERS, order=st.randoms(use_true_random=False))
def test_scores_depend_on_the_prompt_alone(shared: Any, prompts: Any, reference: Any, users: Any, order: Any) -> None:
    rows = [prompt for user, items in users for prompt in prompts(user, items)]
    order.shuffle(rows)
    close(shared.score(rows), rows, reference)


PREFIXES = st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 3))


@EVERY_TYPE
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=st.lists(st.tuples(PREFIXES, st.integers(1, 12)), min_size=1, max_size=6))
def test_prefixes_that_begin_alike_do_not_mix(shared: Any, reference: Any, shapes: Any) -> None:
    rows = [Prompt(filler(common) + filler(own, seed), filler(n, seed + 1)) for (common, own, seed), n in shapes]
    close(shared.score(rows), rows, reference)


def test_a_prefix_is_decoded_once(make_scorer: Any, prompts: Any) -> None:
    scorer = make_scorer()
    rows = prompts(14, range(10))
    scorer.score(rows)
    wanted = len(rows[0].prefix) + sum(len(prompt.suffix) for prompt in rows)
    assert scorer.counters.evaluated_tokens == wanted
    scorer.score(rows)
    assert scorer.counters.evaluated_tokens == 2 * wanted - len(rows[0].prefix)
    assert scorer.counters.reused_tokens == (9 + 1 + 9) * len(rows[0].prefix)
    assert scorer.counters.prompts == 20


def test_computed_and_reused_tokens_are_all_tokens_of_the_answered_prompts(make_scorer: Any) -> None:
    scorer = make_scorer()
    rows = [Prompt(filler(30 + seed, seed % 2), filler(4 + i, i)) for seed in range(4) for i in range(3)]
    scorer.score(rows)
    scorer.score(rows[:1])
    total = sum(len(prompt.prefix) + len(prompt.suffix) for prompt in [*rows, rows[0]])
    assert scorer.counters.evaluated_tokens + scorer.counters.reused_tokens == total
    assert scorer.counters.prompts == 13


LENGTHS = st.tuples(st.sampled_from([0, 30, 31, 200, 600]), st.integers(0, 2), st.integers(1, 40), st.booleans())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(LENGTHS, min_size=1, max_size=7), min_size=1, max_size=4))
def test_what_the_answers_cost_adds_up_to_the_counters(shared: Any, rounds: Any) -> None:
    before, told = replace(shared.counters), []
    for shapes in rounds:
        rows = [Prompt(filler(length, seed), filler(n, seed + 1)) for length, seed, n, _ in shapes]
        rows += [row for row, (*_, twice) in zip(list(rows), shapes, strict=True) if twice]
        found = shared.score(rows)
        assert all(a.evaluated + a.reused == len(p.prefix) + len(p.suffix) for a, p in zip(found, rows, strict=True))
        told += found
    assert sum(answer.evaluated for answer in told) == shared.counters.evaluated_tokens - before.evaluated_tokens
    assert sum(answer.reused for answer in told) == shared.counters.reused_tokens - before.reused_tokens


def test_only_prompts_with_a_probability_are_counted(make_scorer: Any) -> None:
    scorer = make_scorer()
    prefix = filler(20)
    rows = [Prompt(prefix, filler(200, i)) for i in range(4)] + [Prompt(prefix, filler(LIMIT)), Prompt(prefix, ())]
    asked = iter([False, True])
    found = scorer.score(rows, asked.__next__)
    assert [answer.reason for answer in found] == ["", "", "deadline", "deadline", "too_long", "too_long"]
    assert (scorer.counters.prompts, scorer.counters.reused_tokens) == (2, len(prefix))


def test_an_unforeseen_error_leaves_the_cache_usable(
    make_scorer: Any, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Prompt(filler(30, seed), filler(4, i)) for seed in range(2) for i in range(3)]
    scorer = make_scorer()
    with monkeypatch.context() as patched:
        patched.setattr(scorer._context, "logits", lambda rows, tokens: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.score(rows)
    assert (scorer.counters.prompts, scorer.counters.errors) == (0, 1)
    close(scorer.score(rows[::-1]), rows[::-1], reference)


@EVERY_TYPE
def test_more_candidates_than_sequences(make_scorer: Any, reference: Any) -> None:
    rows = [Prompt(filler(30), filler(3 + i % 4, i)) for i in range(2 * SEQUENCES + 1)]
    scorer = make_scorer()
    close(scorer.score(rows), rows, reference)
    assert scorer.counters.decodes == 3


@EVERY_TYPE
def test_suffixes_of_more_tokens_than_a_decode(make_scorer: Any, reference: Any) -> None:
    rows = [Prompt(filler(20), filler(200, i)) for i in range(5)]
    close(make_scorer().score(rows), rows, reference)


@EVERY_TYPE
def test_a_prefix_longer_than_a_decode(make_scorer: Any, reference: Any) -> None:
    rows = [Prompt(filler(BATCH + 150), filler(9, i)) for i in range(3)]
    close(make_scorer().score(rows), rows, reference)


def test_an_empty_prefix(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    for rows in ([Prompt((), filler(5, i)) for i in range(3)], [Prompt(filler(8), filler(4))], [Prompt((), filler(7))]):
        close(scorer.score(rows), rows, reference)


def test_only_the_prompts_over_the_limit_are_refused(make_scorer: Any, reference: Any) -> None:
    prefix = filler(LIMIT - 20)
    rows = [Prompt(prefix, filler(n, n)) for n in (19, 21, 20, 300)] + [Prompt((), filler(BATCH + 1))]
    rows += [Prompt(filler(LIMIT, 2), filler(1)), Prompt(filler(5), ())]
    found = make_scorer().score(rows)
    assert [answer.reason for answer in found] == ["", "too_long", "", "too_long", "too_long", "too_long", "too_long"]
    close([found[0], found[2]], [rows[0], rows[2]], reference)
    assert all(math.isnan(answer.probability) for answer in found if answer.reason)


def test_a_prompt_that_fits_the_cells_only_alone(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer(cells=256)
    assert scorer._context.cells == 256
    rows = [Prompt(filler(200), filler(n, n)) for n in (56, 30, 30, 20, 40, 57, 5)]
    found = scorer.score(rows)
    assert [answer.reason for answer in found] == ["", "", "", "", "", "too_long", ""]
    close([*found[:5], *found[6:]], rows[:5] + rows[6:], reference)
    full = [Prompt(filler(255, 3), filler(1))]
    close(scorer.score(full), full, reference)


@EVERY_TYPE
def test_an_expired_deadline_leaves_the_cache_usable(make_scorer: Any, reference: Any) -> None:
    for patience in range(6):
        scorer = make_scorer()
        asked = iter([False] * patience + [True] * 100)
        rows = [Prompt(filler(BATCH + 40), filler(200, i)) for i in range(3)] + [Prompt(filler(9, 5), filler(3))]
        found = scorer.score(rows, asked.__next__)
        answered = [answer.reason == "" for answer in found]
        assert {answer.reason for answer in found} <= {"", "deadline"}
        assert answered == [True] * sum(answered) + [False] * (4 - sum(answered))
        assert sum(answered) == [0, 0, 2, 4, 4, 4][patience]
        close(found[: sum(answered)], rows[: sum(answered)], reference)
        close(scorer.score(rows), rows, reference)


@pytest.mark.parametrize("broken", range(6))
def test_a_failed_decode_costs_the_prompt_at_fault_alone(
    make_scorer: Any, reference: Any, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    rows = [Prompt(filler(30, seed), (*filler(4, i), 7 + 3 * seed + i)) for seed in range(3) for i in range(2)]
    scorer = make_scorer()
    decode = scorer._context.decode

    def failing(batch: Any) -> None:
        if rows[broken].suffix[-1] in batch.tokens[batch.wanted == 1]:
            raise DecodeError("out of luck")
        decode(batch)

    monkeypatch.setattr(scorer._context, "decode", failing)
    found = scorer.score(rows)
    assert [answer.reason for answer in found] == ["llm_error" if i == broken else "" for i in range(6)]
    assert scorer.counters.errors == 2  # with the others, and alone
    others = [i for i in range(6) if i != broken]
    close([found[i] for i in others], [rows[i] for i in others], reference)
    monkeypatch.undo()
    close(scorer.score(rows), rows, reference)


def test_a_token_outside_the_vocabulary_is_an_error_and_the_next_prompt_works(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    good = [Prompt(filler(10), filler(3))]
    assert scorer.score([Prompt(filler(10), (10**6,))])[0].reason == "llm_error"
    assert scorer.score([Prompt((-5,), (3,))])[0].reason == "llm_error"
    close(scorer.score(good), good, reference)


@pytest.mark.parametrize("logits", [(math.nan, 0.0), (0.0, math.nan), (math.inf, math.inf), (-math.inf, 0.0)])
def test_logits_that_are_no_numbers_are_an_error(
    make_scorer: Any, logits: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer()
    monkeypatch.setattr(scorer._context, "logits", lambda rows, tokens: [logits])
    assert scorer.score([Prompt(filler(3), filler(3))])[0].reason == "llm_error"


@pytest.mark.parametrize(("yes", "no", "p"), [(1e4, 0.0, 1.0), (0.0, 1e4, 0.0), (2.0, 2.0, 0.5)])
def test_far_logits_do_not_overflow(
    make_scorer: Any, yes: float, no: float, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer()
    monkeypatch.setattr(scorer._context, "logits", lambda rows, tokens: [(yes, no)])
    assert scorer.score([Prompt((), filler(3))])[0].probability == pytest.approx(p, abs=1e-300)


def test_nothing_asked_nothing_done(make_scorer: Any) -> None:
    scorer = make_scorer()
    assert len(scorer.score([])) == 0
    assert scorer.counters.decodes == 0


@EVERY_TYPE
def test_deterministic_scores_are_bit_equal_whatever_came_before(
    make_scorer: Any, prompts: Any, reference: Any
) -> None:
    rows = [prompt for user in range(8) for prompt in prompts(user, [user, 39 - user])]
    rows.append(Prompt(filler(BATCH + 100), filler(5)))
    first = make_scorer(deterministic=True).score(rows)
    busy = make_scorer(deterministic=True)
    busy.score([Prompt(filler(77), filler(9))])
    again = busy.score(rows[::-1] + rows)[len(rows) :]
    assert first == again
    assert busy.counters.reused_tokens == 0
    close(first, rows, reference, 1e-6)


@EVERY_TYPE
def test_a_prefix_left_for_other_users_is_not_computed_again(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    users = [Prompt(filler(100, user), filler(5, user)) for user in range(6)]
    scorer.score(users)
    computed = scorer.counters.evaluated_tokens
    again = [Prompt(user.prefix, filler(6, 40 + i)) for i, user in enumerate(users)]
    for prompt in again:
        close(scorer.score([prompt]), [prompt], reference)
    assert scorer.counters.evaluated_tokens == computed + 6 * 6
    assert scorer.stats()["kept_prefixes"] >= 5


@EVERY_TYPE
def test_a_new_event_costs_its_own_tokens_alone(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    scorer.score([Prompt(filler(100), filler(5, 1)), Prompt(filler(100, 3), filler(5, 2))])
    scorer.score([Prompt(filler(60, 5), filler(5, 2))])
    computed = scorer.counters.evaluated_tokens
    longer = [Prompt(filler(100) + filler(7, 9), filler(4, i)) for i in range(3)]
    close(scorer.score(longer), longer, reference)
    assert scorer.counters.evaluated_tokens == computed + 7 + 3 * 4


def test_no_budget_keeps_nothing_but_the_last(make_scorer: Any) -> None:
    scorer = make_scorer(kept_tokens=0)
    users = [Prompt(filler(50, user), filler(5, user)) for user in range(3)]
    for user in [*users, *users]:
        scorer.score([user])
    assert scorer.stats()["kept_prefixes"] == 0
    assert scorer.counters.reused_tokens <= 6 * 2  # what two users' beginnings happen to share


def test_a_decode_given_up_leaves_the_scorer_usable(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    rows = [Prompt(filler(80, seed), filler(5, i)) for seed in range(3) for i in range(4)]
    scorer.score(rows[:6])
    scorer.give_up()
    job = Job(rows)
    scorer.step([job])
    assert scorer.counters.aborted == 1
    assert job.open == list(range(len(rows)))
    scorer.go_on()
    close(scorer.score(rows), rows, reference)


def test_near_deadlines_make_small_decodes_and_the_same_scores(make_scorer: Any, reference: Any) -> None:
    scorer, start = make_scorer(), time.monotonic() + 10.0
    rows = [Prompt(filler(90), filler(40, i)) for i in range(6)] + [
        Prompt(filler(70, 3), filler(50, i)) for i in (1, 2)
    ]
    needed = list(accumulate([130, 40, 40, 40, 40, 40, 120, 50]))
    jobs = [Job([prompt], start + SAFETY * tokens) for prompt, tokens in zip(rows, needed, strict=True)]
    while waiting := [job for job in jobs if job.open]:
        scorer.step(waiting, cost(per_token=1.0))
    close([job.answers("busy")[0] for job in jobs], rows, reference)
    assert 3 <= scorer.counters.decodes < len(rows)
    assert scorer.counters.evaluated_tokens == needed[-1]


@pytest.mark.parametrize("broken", [10**6, -5])
def test_a_long_prefix_that_can_not_be_decoded_is_told(make_scorer: Any, reference: Any, broken: int) -> None:
    scorer = make_scorer()
    bad = Prompt((*filler(BATCH - 1), broken, *filler(80)), filler(4))
    good = [Prompt(filler(10), filler(3))]
    found = scorer.score([bad, *good])
    assert found[0].reason == "llm_error"
    close(found[1:], good, reference)


def test_what_was_computed_of_an_abandoned_prefix_is_not_taken_from_others(make_scorer: Any) -> None:
    scorer = make_scorer()
    scorer.step([Job([Prompt(filler(BATCH + 100), filler(3))])])  # a piece; nobody waits any longer
    scorer.score([Prompt(filler(20, 9), filler(3))])
    assert 0 <= scorer.counters.reused_tokens <= 2
    scorer.score([Prompt(filler(BATCH + 100), filler(3))])
    counters = scorer.counters
    assert counters.evaluated_tokens + counters.reused_tokens == BATCH + 103 + 23
    assert counters.prefix_hits == 0


def test_pieces_of_abandoned_prefixes_are_not_remembered_for_ever(make_scorer: Any) -> None:
    scorer = make_scorer(kept_tokens=2 * BATCH)
    for user in range(12):
        scorer.step([Job([Prompt(filler(BATCH + 100, user), filler(3))])])  # a piece; nobody waits any longer
    assert 1 <= len(scorer._ahead) <= 3


def test_an_erased_scorer_holds_nothing_of_the_prompts_and_scores_as_before(make_scorer: Any, reference: Any) -> None:
    scorer = make_scorer()
    rows = [Prompt(filler(50, user), filler(3)) for user in range(4)]
    scorer.score(rows)
    scorer.step([Job([Prompt(filler(BATCH + 100, 9), filler(3))])])
    states = list(scorer._kept._states.values())
    assert len(states) >= 4
    assert all(state.any() for state in states)
    scorer.erase()
    assert not any(state.any() for state in states)
    assert not any((scorer._bases, scorer._ahead, scorer._trunk, scorer._unfinished))
    close(scorer.score(rows), rows, reference)
    assert scorer.score(rows)[0].reused == 50


def test_deterministic_scores_do_not_see_what_was_left_half_done(make_scorer: Any) -> None:
    long = Prompt(filler(BATCH + 100), filler(5))
    fresh = make_scorer(deterministic=True).score([long])
    scorer = make_scorer(deterministic=True)
    scorer.step([Job([Prompt(filler(BATCH + 50), filler(9))], time.monotonic() + 60.0)], cost(per_token=1.0))
    job = Job([long], time.monotonic() + 60.0)
    while job.open:
        scorer.step([job], cost(per_token=1.0))
    assert job.answers("busy") == fresh


def test_a_returning_users_prefix_does_not_leave_for_the_one_before(make_scorer: Any) -> None:
    scorer = make_scorer(kept_tokens=300)
    users = [Prompt(filler(100, user), filler(5)) for user in range(4)]
    for user in users:
        scorer.score([user])
    computed = scorer.counters.evaluated_tokens
    scorer.score([users[0]])
    assert scorer.counters.evaluated_tokens == computed + 5
