"""The tree of a decode, the packing of decodes and the kept prefixes: plain data, no llama.cpp."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import plain_packing as plain
from corella_edge.adapters import Weights
from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Prompt, TokenIds, pack_ids, unpack_ids
from corella_edge_runtime.llm.llama import packing
from corella_edge_runtime.llm.llama.kept import KeptPrefixes, Spare, State, size_class, whole_of
from corella_edge_runtime.llm.llama.packing import HORIZON, SAFETY, STRANGERS, Base, Room, in_time, line_up
from corella_edge_runtime.llm.llama.tree import Branches, Leaves, TokenRows, common_length, unfold
from plain_packing import Ask, Target

IDS = st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple)
DEADLINES = st.lists(st.none() | st.floats(0, 5), max_size=12)


@given(IDS, IDS)
def test_common_length(a: TokenIds, b: TokenIds) -> None:
    n = common_length(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def branches_of(prompts: Sequence[Prompt], own: Sequence[int]) -> Branches:
    """A decode of different prompts. `own`: of each prefix as it is sorted, what could be taken from kept cells."""
    prompts = list(prompts)
    known = list(dict.fromkeys(prompt.prefix for prompt in prompts))
    at, places = dict(zip(sorted(known), own, strict=True)), [known.index(prompt.prefix) for prompt in prompts]
    suffixes = [pack_ids(prompt.suffix) for prompt in prompts]
    branches, sequence = Branches.of(known, {i: at[prefix] for i, prefix in enumerate(known)}, places, suffixes)
    assert [branches.suffixes[k] for k in sequence] == suffixes
    assert branches.prefixes == sorted(known)
    assert [branches.prefixes[group_of(branches, k)] for k in sequence] == [prompt.prefix for prompt in prompts]
    for group in branches.groups:
        assert sorted(branches.suffixes[group.start : group.stop]) == branches.suffixes[group.start : group.stop]
    return branches


def group_of(branches: Branches, k: int) -> int:
    return next(place for place, group in enumerate(branches.groups) if k in group)


def tokens_of(branches: Branches, k: int) -> TokenIds:
    """Of one prompt."""
    return branches.prefixes[group_of(branches, k)] + unpack_ids(branches.suffixes[k])


SHORT = st.lists(st.integers(0, 2), max_size=5).map(tuple)


@st.composite
def decodes(draw: st.DrawFn) -> Branches:
    prompts = draw(st.sets(st.builds(Prompt, SHORT, IDS), min_size=1, max_size=10))
    return branches_of(prompts, [draw(st.integers(0, len(p))) for p in sorted({p.prefix for p in prompts})])


def read(k: int, branches: Branches, leaves: Leaves, rows: TokenRows) -> list[int]:
    """The tokens that sequence k holds: what it has before, and its rows in order."""
    group = group_of(branches, k)
    held = leaves.held[group]
    before = tokens_of(branches, k)[:held]
    if leaves.follows[group] or k > branches.groups[group].start:
        assert list(before) == read(k - 1, branches, leaves, rows)[:held]
    else:
        assert held == branches.own[group]
    mine = (rows.first <= k) & (k < rows.first + rows.count)
    assert rows.positions[mine].tolist() == list(range(held, held + mine.sum()))
    return [*before, *rows.tokens[mine].tolist()]


@given(decodes())
def test_every_prompt_is_what_its_cells_and_rows_say(branches: Branches) -> None:
    leaves, rows = unfold(branches)
    for k in range(len(branches.suffixes)):
        prompt, last = tokens_of(branches, k), leaves.last[k]
        assert read(k, branches, leaves, rows) == list(prompt)
        assert rows.wanted[last] == 1
        assert rows.positions[last] == len(prompt) - 1
        assert rows.first[last] <= k < rows.first[last] + rows.count[last]
    assert rows.wanted.sum() == len(set(leaves.last))


@given(decodes())
def test_without_kept_cells_each_token_is_computed_once(branches: Branches) -> None:
    prompts = [tokens_of(branches, k) for k in range(len(branches.suffixes))]
    _, rows = unfold(replace(branches, own=[0] * len(branches.prefixes)))
    beginnings = {prompt[:n] for prompt in prompts for n in range(1, len(prompt) + 1)}
    # Prompts stand user by user: what one user's end has in common with another's beginning is seen between neighbours.
    assert len(beginnings) <= len(rows) <= sum(map(len, prompts))
    if prompts == sorted(prompts):
        assert len(rows) == len(beginnings)


@given(decodes(), st.integers(0, 3))
def test_rows_are_those_of_the_plain_tree(branches: Branches, first: int) -> None:
    prompts = [tokens_of(branches, k) for k in range(len(branches.suffixes))]
    places = [group_of(branches, k) for k in range(len(prompts))]
    own = [branches.own[place] for place in places]
    pairs = zip(places, branches.suffixes, strict=True)
    targets = [Target(branches.prefixes[place], unpack_ids(suffix)) for place, suffix in pairs]
    wanted, expected = plain.unfold(prompts, own, plain.shared_with_the_one_before(targets), first)
    leaves, rows = unfold(branches, first)
    assert [leaves.held[place] for place in places] == [leaf.held for leaf in wanted]
    heads = [group.start for group in branches.groups]
    assert leaves.follows == [wanted[head].follows for head in heads]
    assert all(leaf.follows for k, leaf in enumerate(wanted) if k not in heads)
    assert leaves.length == list(map(len, prompts))
    assert leaves.start == [leaf.start for leaf in wanted]
    assert leaves.last == [leaf.last for leaf in wanted]
    for name in TokenRows.__slots__:
        assert getattr(rows, name).tolist() == getattr(expected, name).tolist(), name


@given(st.sets(st.lists(st.integers(0, 2), max_size=6).map(tuple), min_size=1, max_size=8), st.integers(0, 3))
def test_what_a_prompt_has_in_common_with_the_one_before_is_not_computed(rows: set[TokenIds], prefix: int) -> None:
    suffixes = sorted(rows, key=pack_ids)
    branches = Branches([(7,) * (1 + prefix)], [0], [range(len(rows))], list(map(pack_ids, suffixes)))
    expected = [1 + prefix + common_length(a, b) for a, b in pairwise(suffixes)]
    assert unfold(branches)[0].start == [0, *expected]


@given(st.lists(st.integers(0, 2**31 - 1), max_size=6).map(tuple), IDS)
def test_packed_ids_are_ids_and_sort_as_they_do(a: TokenIds, b: TokenIds) -> None:
    assert unpack_ids(pack_ids(a)) == a
    assert (pack_ids(a) < pack_ids(b)) == (a < b)


def test_twenty_candidates_of_one_user() -> None:
    prefix = tuple(range(200))
    leaves, rows = unfold(branches_of([Prompt(prefix, (1000 + i, 7)) for i in range(20)], [0]), first=1)
    assert len(rows) == 200 + 40
    assert rows.count[:200].tolist() == [20] * 200
    assert np.flatnonzero(rows.wanted).tolist() == leaves.last


def jobs_of(asks: Sequence[Ask]) -> list[Job]:
    """A caller an ask."""
    jobs = [Job([ask.prompt], ask.deadline) for ask in asks]
    for job, ask in zip(jobs, asks, strict=True):
        job.alone |= {0} if ask.alone else set()
    return jobs


def pack(asks: list[Ask], base: Callable[[TokenIds], Base], room: Room, most: float = math.inf) -> list[Target]:
    """What the columns decide, as plain prompts."""
    waiting = line_up(jobs_of(asks), len(asks))
    found = packing.pack(waiting, base, room, most)
    if found.piece:
        assert not len(found.targets)
        return [Target(found.piece, ())]
    targets = [Target(asks[i].prompt.prefix, asks[i].prompt.suffix) for i in found.targets]
    for who, what in zip(found.who, found.what, strict=True):
        targets[what].asks.append(asks[who])
    return targets


def hopeless(asks: list[Ask], base: Callable[[TokenIds], Base], room: Room, cost: Cost, now: float) -> list[Ask]:
    """Whom the columns give up."""
    return [asks[i] for i in packing.hopeless(line_up(jobs_of(asks), len(asks)), base, room, cost, now)]


CALLERS = st.lists(
    st.tuples(
        st.lists(st.builds(Prompt, SHORT, IDS), max_size=6), st.none() | st.floats(0, 9), st.sets(st.integers(0, 5))
    ), min_size=1, max_size=5,
)  # fmt: skip
ROOMS = st.builds(Room, st.integers(1, 30), st.integers(1, 6), st.integers(1, 60))
COSTS = st.tuples(st.floats(0, 1), st.floats(0, 0.2))


MOST = st.just(math.inf) | st.floats(0, 40)


@given(CALLERS, ROOMS, COSTS, st.integers(0, 4), MOST, st.integers(1, 40), st.booleans())
def test_the_columns_decide_what_is_decided_prompt_by_prompt(
    callers: list[tuple[list[Prompt], float | None, set[int]]], room: Room, costs: tuple[float, float], known: int,
    most: float, looked_at: int, kept: bool,
) -> None:  # fmt: skip
    def base(prefix: TokenIds) -> Base:
        length = min(known, len(prefix))
        return Base(length, (*prefix[:length], 9) if kept else ())

    jobs, asks = [], list[Ask]()
    for prompts, deadline, suspects in callers:
        jobs.append(Job(prompts, deadline))
        jobs[-1].alone |= suspects & set(range(len(prompts)))
        asks += [Ask(prompt, deadline, i in suspects) for i, prompt in enumerate(prompts)]
    waiting, asks = line_up(jobs, looked_at), asks[:looked_at]
    assert len(waiting) == len(asks)
    late = packing.hopeless(waiting, base, room, cost(*costs), 0.0)
    assert [asks[i] for i in late] == plain.hopeless(asks, base, room, cost(*costs), 0.0)
    left = [i for i in range(len(asks)) if i not in late]
    waiting, asks = waiting.at(left), [asks[i] for i in left]
    expected, found = plain.pack(asks, base, room, most), packing.pack(waiting, base, room, most)
    if found.piece or not len(found.targets):
        assert [target.tokens for target in expected] == [found.piece] * bool(found.piece)
        return
    assert [(t.prefix, t.suffix) for t in expected] == [
        (waiting.prefixes[waiting.prefix[i]], unpack_ids(waiting.suffix[i])) for i in found.targets
    ]
    members = sorted((asks.index(ask), what) for what, target in enumerate(expected) for ask in target.asks)
    assert sorted(zip(found.who, found.what, strict=True)) == members


ASKS = st.lists(st.tuples(st.integers(0, 3), IDS), min_size=1, max_size=12)


@given(ASKS, st.integers(1, 30), st.integers(1, 6), st.integers(1, 60), st.integers(0, 3))
def test_packing_takes_from_the_front_and_stays_in_the_room(
    rows: list[tuple[int, TokenIds]], tokens: int, prompts: int, cells: int, known: int
) -> None:
    asks = [Ask(Prompt((7,) * user, suffix)) for user, suffix in rows]
    targets = pack(asks, lambda prefix: Base(min(known, len(prefix))), Room(tokens, prompts, cells))
    assert targets
    assert len(targets) <= prompts
    if not targets[0].asks:  # a beginning of a prefix that does not fit, and some of it is new
        assert asks[0].prompt.prefix[: len(targets[0].tokens)] == targets[0].tokens
        assert known < len(targets[0].tokens) <= known + tokens
        return
    news = [len(prefix) - min(known, len(prefix)) for prefix in {t.prefix for t in targets}]
    size = sum(news) + sum(len(t.suffix) for t in targets)
    assert size <= tokens or len(targets) == 1  # a suffix is never cut
    taken = {id(ask) for target in targets for ask in target.asks}
    # Who asks the same as one before, and is near enough to be seen, gets the same answer.
    assert next(ask.prompt for ask in asks if id(ask) in taken) == asks[0].prompt
    assert all(ask.prompt == Prompt(t.prefix, t.suffix) for t in targets for ask in t.asks)
    places = [next(i for i, ask in enumerate(asks) if ask in t.asks) for t in targets]
    assert places == sorted(places)


def test_decodes_are_of_even_size() -> None:
    asks = [Ask(Prompt(tuple(range(200)), (1000 + i,) * 40)) for i in range(20)]
    sizes, base = [], Base(0)
    while asks:
        targets = pack(asks, lambda _, base=base: base, Room(512, 64, 10_000))  # type: ignore[misc]
        sizes.append(200 - base.length + sum(len(t.suffix) for t in targets))
        base, asks = Base(200), asks[len(targets) :]
    assert sizes == [520 - 40, 280, 240]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200)), min_size=1, max_size=30))
def test_users_share_a_decode_only_while_it_is_small(sizes: list[tuple[int, int]]) -> None:
    prompts = [Prompt((user,) * 90, (100 + i,) * size) for i, (user, size) in enumerate(sizes)]
    targets = pack([Ask(prompt) for prompt in prompts], lambda _: Base(0), Room(512, 64, 10_000))
    prefixes = {target.prefix for target in targets}
    tokens = 90 * len(prefixes) + sum(len(target.suffix) for target in targets)
    assert tokens <= (512 if len(prefixes) == 1 else STRANGERS)


def _due(deadline: float | None) -> float:
    return math.inf if deadline is None else deadline


def cost(per_decode: float, per_token: float) -> Cost:
    known = Cost()
    known.per_decode, known.per_token = per_decode, per_token
    return known


@pytest.mark.parametrize(
    ("known", "deadlines", "most"),
    [(cost(0.0, 0.0), [1.0], math.inf), (cost(0.0, 1e-3), [None], math.inf), (cost(0.0, 1e-3), [9.0], 0.0),
     (cost(0.0, 1e-3), [10.4, None, 10.2], 200 / SAFETY), (cost(0.05, 1e-3), [10.2], 200 / SAFETY - 50)],
)  # fmt: skip
def test_a_decode_is_sized_to_the_nearest_deadline(known: Cost, deadlines: list[float], most: float) -> None:
    found = in_time(known, [Job([Prompt((), (1,))], deadline) for deadline in deadlines], 10.0)
    assert found == pytest.approx(most)


def test_after_the_first_prompt_a_decode_takes_no_more_than_there_is_time_for() -> None:
    asks = [Ask(Prompt((1,) * 10, (i,) * 5)) for i in range(9)]
    room = Room(100, 10, 100)
    assert [len(pack(asks, lambda _: Base(0), room, most)) for most in (0, 15, 19, 20, 55, 1000)] == [1, 1, 1, 2, 9, 9]


def test_who_can_not_be_answered_in_time_makes_room_for_the_next() -> None:
    # Ten tokens a second, the prefix for nothing: half a second each, after what it begins with.
    deadlines = [10.0, 10.59, 10.61, 11.0, None, 11.8 + 0.05, 10.1]
    asks = [Ask(Prompt((1,) * 10, (i,) * 5), deadline) for i, deadline in enumerate(deadlines)]
    late = hopeless(asks, lambda _: Base(10), Room(100, 10, 100), cost(0.0, 0.1), 10.0)
    assert SAFETY == 1.2
    assert [deadlines[asks.index(ask)] for ask in late] == [10.0, 10.59, 11.0, 10.1]


@given(DEADLINES, st.floats(0, 1), st.floats(0, 0.1), st.integers(1, 20))
def test_whoever_is_left_is_answered_in_time_if_the_cost_is_right(
    deadlines: list[float | None], per_decode: float, per_token: float, length: int
) -> None:
    known, room = cost(per_decode, per_token), Room(40, 4, 1000)
    asks = [
        Ask(Prompt((i % 3,) * length, (i,) * 3), deadline) for i, deadline in enumerate(sorted(deadlines, key=_due))
    ]
    late = hopeless(asks, lambda _: Base(0), room, known, 0.0)
    tokens, seen = 0, set()
    for count, ask in enumerate((ask for ask in asks if ask not in late), 1):
        tokens += 3 + (0 if ask.prompt.prefix in seen else length)
        seen.add(ask.prompt.prefix)
        decodes = max(1.0, tokens / room.tokens, count / room.prompts)
        assert _due(ask.deadline) >= SAFETY * known.seconds(decodes, tokens) or tokens > HORIZON * room.tokens


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 240)), min_size=1, max_size=4), st.floats(0, 0.01))
def test_nobody_is_told_late_whom_the_packing_answers_in_time(users: list[tuple[int, int]], per_token: float) -> None:
    known, room = cost(1.0, per_token), Room(512, 64, 10_000)
    asks = [Ask(Prompt((i,) * prefix, (n,) * 10)) for i, (count, prefix) in enumerate(users, 1) for n in range(count)]
    waiting, decodes, tokens = asks, 0, 0
    seen: set[TokenIds] = set()

    def base(prefix: TokenIds) -> Base:
        return Base(len(prefix) if prefix in seen else 0)

    while waiting:
        targets = pack(waiting, base, room)
        news = {target.prefix for target in targets} - seen
        tokens += sum(map(len, news)) + 10 * len(targets)
        seen |= news
        decodes += 1
        for ask in waiting[: len(targets)]:
            # One decode more than it takes: the estimate deals in parts of decodes.
            ask.deadline = SAFETY * known.seconds(decodes + 1, tokens) * 1.000001
        waiting = waiting[len(targets) :]
    assert hopeless(asks, lambda _: Base(0), room, known, 0.0) == []


def test_a_prompt_that_several_ask_takes_the_time_of_one() -> None:
    prompts = [Prompt((1,) * 10, (i,) * 5) for i in range(3)]
    asks = [Ask(prompt, 10.0 + SAFETY * 2.5 + 0.001) for prompt in prompts * 2]
    known, room = cost(0.0, 0.1), Room(100, 4, 100)
    assert hopeless(asks, lambda _: Base(0), room, known, 10.0) == []
    assert len(pack(asks, lambda _: Base(0), room)) == 3
    # Who asks for the first again has its answer when the first has, whatever came between.
    again = [*asks, Ask(prompts[0], 10.0 + SAFETY * 1.5 + 0.001), Ask(Prompt((1,) * 10, (9,)), asks[0].deadline)]
    assert hopeless(again, lambda _: Base(0), room, known, 10.0) == again[-1:]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300)), max_size=12), st.integers(1, 400))
def test_decodes_of_many_are_what_one_after_the_other_takes(rows: list[tuple[int, int]], most: int) -> None:
    packed, taken = packing.Packed(most), 0.0
    for prefix, size in rows:
        taken = packed.decodes(prefix, size)
        packed.add(prefix, size)
    assert packing.decodes_in([p for p, _ in rows], [n for _, n in rows], most) == pytest.approx(taken)


def test_a_suspect_is_tried_alone() -> None:
    asks = [Ask(Prompt((1,), (i,))) for i in range(4)]
    asks[2].alone = True
    room = Room(100, 10, 100)
    assert len(pack(asks, lambda _: Base(0), room)) == 2
    assert [t.asks for t in pack(asks[2:], lambda _: Base(0), room)] == [[asks[2]]]


WEIGHTS = st.sampled_from([(), (("a", 1.0),), (("a", 0.5), ("b", 0.5)), (("b", 1.0),)])
OPERATIONS = st.lists(st.tuples(st.booleans(), IDS, WEIGHTS), max_size=40)


@given(OPERATIONS, st.integers(1, 30))
def test_kept_prefixes_stay_within_the_budget_and_find_the_longest(
    operations: list[tuple[bool, TokenIds, Weights]], budget: int
) -> None:
    """Of what the same adapters have computed: for others, the same tokens are not there."""
    kept, known = KeptPrefixes(budget), {}
    for put, tokens, adapters in operations:
        kept.adapters = adapters
        if put:
            state = np.zeros(len(tokens), np.uint8)
            kept.put(tokens, state)
            known.setdefault((adapters, tokens), state)
        known = {key: s for key, s in known.items() if key in kept._states}
        assert kept.tokens == sum(len(t) for _, t in known) <= budget
        assert kept.bytes == kept.tokens
        assert kept._sorted == sorted(kept._states)
        found, length = kept.find(tokens)
        own = [other for by, other in known if by == adapters]
        assert length == max((common_length(other, tokens) for other in own), default=0)
        if length:
            assert found in own
            assert kept.take(found) is known[adapters, found]


def test_the_least_recently_used_leaves_first() -> None:
    kept = KeptPrefixes(6)
    for tokens in ((1, 1), (2, 2), (3, 3)):
        kept.put(tokens, np.zeros(1, np.uint8))
    kept.take((1, 1))
    kept.put((4, 4), np.zeros(1, np.uint8))
    assert sorted(tokens for _, tokens in kept._states) == [(1, 1), (3, 3), (4, 4)]
    assert kept.evictions == 1
    kept.put((5,) * 7, np.zeros(1, np.uint8))
    assert len(kept) == 3


@pytest.mark.parametrize("longer", [(1, 2, 3), (1, 2, 3, 4)])
def test_a_longer_history_replaces_the_shorter(longer: TokenIds) -> None:
    kept = KeptPrefixes(100)
    kept.put((1, 2), np.zeros(1, np.uint8))
    kept.put(longer, np.zeros(1, np.uint8))
    assert kept._sorted == [((), longer)]


@example([((0,), False), ((1, 0, 0, 0, 0), False), ((0, 0, 0, 0, 0), False), ((0,) * 6, True)], 5)
@given(st.lists(st.tuples(IDS, st.booleans()), max_size=40), st.integers(1, 30))
def test_states_in_used_memory_are_what_was_put(puts: list[tuple[TokenIds, bool]], budget: int) -> None:
    kept, most = KeptPrefixes(budget), 0
    for number, (tokens, forget) in enumerate(puts):
        if forget:
            kept.clear()
        if len(tokens) <= budget and not kept.touch(tokens):
            most = max(most, kept.bytes + 40 * len(tokens))
            state = kept.room(40 * len(tokens))
            assert len(state) == 40 * len(tokens)
            state[:] = number
            kept.put(tokens, state)
        for (_, own), state in kept._states.items():
            assert len(state) == 40 * len(own)
            assert len(set(state.tolist())) == 1
        assert len({state[0] for state in kept._states.values()}) == len(kept)
        assert kept.bytes + kept._spare._bytes <= 1.125 * most


def test_a_prefix_that_comes_takes_the_memory_of_one_that_left() -> None:
    kept, seen = KeptPrefixes(20), set()
    for start in range(0, 100, 10):
        state = kept.room(4000 + start % 30)
        seen.add(state.ctypes.data)
        kept.put(tuple(range(start, start + 10)), state)
    assert kept.evictions == 8
    assert len(seen) == 3


def test_what_is_erased_is_overwritten_even_where_it_was_spare_or_let_go() -> None:
    kept, seen = KeptPrefixes(20), dict[int, State]()
    for start, size in enumerate([5000, 5001, 5200, 4000, 9000, 300]):
        state = kept.room(size)
        seen[state.ctypes.data] = whole_of(state)
        state[:] = 7
        kept.put((start,) * 9, state)
    assert len(kept) == 2 < len(seen)
    kept.erase()
    assert not any(whole.any() for whole in seen.values())
    assert (len(kept), kept.tokens, kept.bytes, kept._spare._bytes) == (0, 0, 0, 0)
    fresh = kept.room(5000)
    assert fresh.ctypes.data not in seen


def test_what_is_let_go_is_overwritten() -> None:
    spare = Spare()
    state = spare.take(1000)
    state[:] = 7
    spare.give(state)
    spare.used(0)
    assert spare._bytes == 0
    assert not state.any()


def test_who_keeps_prefixes_without_states_keeps_nothing_of_those_that_left() -> None:
    kept, state = KeptPrefixes(20), np.empty(0, np.uint8)
    before = sys.getrefcount(state)
    for start in range(0, 1000, 10):
        kept.put(tuple(range(start, start + 10)), state)
    assert kept.evictions == 98
    assert sys.getrefcount(state) == before + len(kept)
    kept.clear()
    assert sys.getrefcount(state) == before


@given(st.integers(1, 10**9))
def test_memory_is_rounded_up_by_less_than_an_eighth(size: int) -> None:
    assert size <= size_class(size) < size * 9 / 8 + 1
    assert size_class(size_class(size)) == size_class(size)


def test_what_is_spare_leaves_when_it_is_too_much() -> None:
    spare, size = Spare(), size_class(1000)
    states = [spare.take(1000) for _ in range(4)]
    spare.used(4 * size)
    for state in states:
        spare.give(state)
    spare.used(0)
    assert spare._bytes == 4 * size
    spare.used(3 * size)
    assert spare._bytes == size
    spare.used(4 * size)
    assert spare._bytes == 0
