from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, RecipeError
from corella_edge.prompt import MAX_TEXTS, PromptEncoder, Template, Tokens
from corella_edge.request import Candidate, Event, User
from corella_edge_runtime.site.describe import render

YES, NO, BOS = 1_200_001, 1_200_002, 1_200_003
TEMPLATE = Template(
    instruction="Like it?\n", profile={"job": "{}", "age": "age {}"}, item="{title}, {genres}:",
    history_lines=4, block=3, value_chars=30,
)  # fmt: skip
WORDS = ["\n", "\r", "\u2028", "\x00", "\ud800", "\u202e", ": Yes", " No 5\n", "{title}", "{}", "<s>", "Like"]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=5).map("".join)
VALUES = TEXTS | st.lists(TEXTS | st.none() | st.integers(), max_size=4) | st.integers() | st.floats() | st.booleans()


def characters(text: str) -> list[int]:
    return [ord(c) for c in text]


def make(*attributes: dict[str, Any], template: Template = TEMPLATE) -> PromptEncoder:
    catalog = Catalog([f"i{n}" for n in range(len(attributes))], attributes)
    return PromptEncoder(template, catalog, characters, Tokens(YES, NO, BOS))


def shown(ids: list[int]) -> str:
    return "".join({YES: " Yes", NO: " No", BOS: "<s>"}.get(i) or chr(i) for i in ids)


HEAT = {"title": "Heat", "genres": ["Action", "Crime"]}


def test_the_prompt_as_a_person_reads_it() -> None:
    encoder = make(HEAT, {"title": "Babe", "genres": "Comedy"}, {"genres": ["Drama"]})
    history = (Event("i0", 5.0), Event("i1", 2.0), Event("i2", 5.0), Event("i9", 5.0), Event("i1", None))
    user = User("u", {"age": 25, "job": "clerk", "hat": "red"}, history)
    assert shown(encoder.prefix(user)) == (
        "<s>Like it?\nclerk; age 25\nHeat, Action Crime: Yes 5\nBabe, Comedy: No 2\nBabe, Comedy: Yes\n"
    )
    assert shown(encoder.suffix(Candidate("i0")) or []) == "Heat, Action Crime:"


@given(TEXTS, TEXTS, st.none() | st.dictionaries(st.sampled_from(["title", "genres"]), TEXTS))
def test_the_prompt_that_people_are_shown_is_the_models(title: str, job: str, features: dict[str, Any] | None) -> None:
    encoder = make(HEAT, {"title": "Cafe\u0301 " + title})
    user = User("u", {"job": job}, tuple(Event(f"i{n % 3}", float(n % 5)) for n in range(9)))
    for candidate in (Candidate("i1", features), Candidate("gone", features)):
        suffix = encoder.suffix(candidate)
        text = None if suffix is None else shown([*encoder.prefix(user), *suffix]).removeprefix("<s>")
        assert render(TEMPLATE, encoder.catalog, user, candidate) == text


@given(VALUES, VALUES)
def test_no_text_of_an_item_reaches_another_line(title: Any, genres: Any) -> None:
    odd = {"title": title, "genres": genres}
    history = tuple(Event(item, 5.0) for item in ("i0", "i1", "i0"))
    tokens = make(HEAT, odd).prefix(User("u", {}, history))
    before = make(HEAT, odd).prefix(User("u", {}, history[:1]))
    line = make(HEAT, odd).line(make(HEAT, odd).item(0), history[0])
    middle = tokens[len(before) : len(tokens) - len(line)]
    assert tokens == [*before, *middle, *line]
    if middle:
        question, answer, tail = middle[:-4], middle[-4], middle[-3:]
        assert (answer, tail) == (YES, characters(" 5\n"))
        assert not {YES, NO, BOS} & set(question)
        assert all(unicodedata.category(chr(c))[0] != "C" and chr(c) not in "\n\r\u2028\u2029" for c in question)


@given(VALUES, VALUES)
def test_no_profile_text_starts_a_line(job: Any, age: Any) -> None:
    header = TEMPLATE.header(User("u", {"job": job, "age": age}))
    assert header.startswith("Like it?\n")
    assert header.removeprefix("Like it?\n").count("\n") <= 1
    assert header.endswith("\n")
    assert len(header.splitlines()) == header.count("\n")
    without = TEMPLATE.header(User("u", {"age": age}))
    if TEMPLATE.text(job) and TEMPLATE.text(age):
        assert header == f"Like it?\n{TEMPLATE.text(job)}; {without.removeprefix('Like it?')[1:]}"


@given(VALUES)
def test_a_value_is_one_clean_short_line(value: Any) -> None:
    text = TEMPLATE.text(value)
    assert len(text) <= TEMPLATE.value_chars
    assert text == text.strip()
    assert text.isprintable()
    assert text.encode("utf-8").decode("utf-8") == text
    assert TEMPLATE.text(text) == text


@given(st.integers(0, 400), st.integers(0, 30), st.integers(1, 12))
def test_history_is_dropped_in_blocks(count: int, lines: int, block: int) -> None:
    first = Template(history_lines=lines, block=block).first_event
    kept = count - first(count)
    assert first(count) % block == 0
    assert kept <= lines + block
    assert kept == count or kept > lines
    # The prompt's beginning survives until `block` more events have come since it last changed.
    changed = min(n for n in range(count + 1) if first(n) == first(count))
    assert {first(n) for n in range(changed, changed + block)} == {first(count)}


@given(st.integers(0, 40), st.integers(1, 3))
def test_a_prefix_grows_or_starts_anew(count: int, more: int) -> None:
    encoder = make(HEAT, {"title": "Babe"})
    events = tuple(Event(f"i{n % 2}", float(n % 5)) for n in range(count + more))
    short, long = encoder.prefix(User("u", {}, events[:count])), encoder.prefix(User("u", {}, events))
    if TEMPLATE.first_event(count) == TEMPLATE.first_event(count + more):
        assert long[: len(short)] == short


@given(st.sampled_from(["i0", "i1", "gone"]), st.none() | st.dictionaries(st.sampled_from(["title", "genres"]), VALUES))
def test_a_suffix_is_the_line_the_item_has_later(item: str, features: dict[str, Any] | None) -> None:
    encoder = make(HEAT, {"title": "\n ", "genres": ["x"]})
    suffix = encoder.suffix(Candidate(item, features))
    known = {"i0": HEAT, "i1": {"title": "\n ", "genres": ["x"]}}.get(item, {})
    text = TEMPLATE.item_text({**known, **(features or {})})
    assert suffix == (None if text is None else characters(text))
    assert (suffix is None) == (not TEMPLATE.text({**known, **(features or {})}.get("title")))
    if features is None and suffix is not None:
        history = (Event(item, 5.0),)
        whole = encoder.prefix(User("u", {}, history))
        assert whole == [*encoder.prefix(User("u")), *suffix, YES, *characters(" 5\n")]


def test_an_item_is_tokenised_once() -> None:
    calls: list[str] = []
    encoder = PromptEncoder(
        TEMPLATE, Catalog(["i0"], [HEAT]), lambda text: calls.append(text) or characters(text), Tokens(YES, NO, None)
    )
    first = encoder.suffix(Candidate("i0"))
    encoder.prefix(User("u", {}, (Event("i0"),)))
    assert encoder.suffix(Candidate("i0")) == first
    assert calls.count("Heat, Action Crime:") == 1


def test_ratings_of_requests_do_not_fill_the_memory() -> None:
    encoder = make(HEAT)
    for n in range(2 * MAX_TEXTS):
        answer = YES if n / 4 > 3.0 else NO
        assert encoder.line([7], Event("i0", n / 4)) == [7, answer, *characters(f" {n / 4:g}\n")]
    assert len(encoder._endings) <= MAX_TEXTS
    # The latest are kept all the same.
    before = list(encoder._endings)
    encoder.line([7], Event("i0", MAX_TEXTS / 2 - 1 / 4))
    assert list(encoder._endings) == before


@given(st.lists(st.sampled_from([None, 0.0, -0.0, 1, 1.0, 3.0, 3.5, 1e-7]), max_size=8))
def test_what_is_kept_of_ratings_changes_no_prompt(ratings: list[float | None]) -> None:
    kept = make(HEAT)
    for rating in ratings:
        event = Event("i0", rating)
        assert kept.line([7], event) == make(HEAT).line([7], event)
        user = User("u", {}, (event,))
        assert kept.prefix(user) == [*kept.header(user), *kept.line(kept.item(0), event)]


def test_profiles_are_kept_apart_and_forgotten() -> None:
    encoder = make(HEAT, template=Template(profile={"job": "Job: {}. "}))
    for n in range(2 * MAX_TEXTS):
        encoder.header(User("u", {"job": f"secret {n}"}))
    assert len(encoder._headers) <= MAX_TEXTS
    assert not encoder._endings
    encoder.forget()
    assert not encoder._headers


@pytest.mark.parametrize(
    ("setting", "name"),
    [({"item": "{name}:"}, "title"), ({"item": "{title"}, "prompt.item"), ({"item": "{title:d}"}, "prompt.item"),
     ({"item": "{title} {year.x}"}, "prompt.item"), ({"item": "{title} {}"}, "prompt.item"),
     ({"rating": " {} {}"}, "prompt.rating"), ({"rating": " {x}"}, "prompt.rating"), ({"rating": "{"}, "prompt.rating"),
     ({"history_lines": -1}, "history_lines"), ({"block": 0}, "block"), ({"value_chars": 0}, "value_chars"),
     ({"profile": {"age": 3}}, "prompt.profile")],
)  # fmt: skip
def test_an_impossible_template_is_refused(setting: dict[str, Any], name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Template(**setting)
    assert name in str(caught.value)


def test_a_template_survives_json() -> None:
    assert Template.from_json(json.loads(json.dumps(TEMPLATE.to_json()))) == TEMPLATE


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(st.text(max_size=2), max_size=2)


@given(st.sampled_from(sorted(TEMPLATE.to_json())), JUNK | st.dictionaries(st.text(max_size=2), JUNK, max_size=2))
def test_any_value_in_a_bundle_gives_a_working_template_or_a_bundle_error(name: str, value: Any) -> None:
    try:
        template = Template.from_json({**TEMPLATE.to_json(), name: value})
    except BundleError as error:
        assert "prompt.json" in str(error)  # noqa: PT017 - both outcomes are right
        return
    encoder = make(HEAT, template=template)
    prefix = encoder.prefix(User("u", {"job": "x", "age": 3}, (Event("i0", 4.0), Event("i0"))))
    assert sum(prefix.count(answer) for answer in (YES, NO)) == min(2, template.history_lines + template.block)


@pytest.mark.parametrize("name", ["extra", "yes"])
def test_a_template_of_another_version_is_refused(name: str) -> None:
    data = TEMPLATE.to_json()
    with pytest.raises(BundleError, match=name):
        Template.from_json({**data, name: 1} if name not in data else {k: v for k, v in data.items() if k != name})


@pytest.mark.parametrize("data", [{}, {"yes": 1, "no": "2", "bos": 1}, {"yes": True, "no": 2, "bos": None},
                                  {"yes": 1, "no": 2}, {"yes": 1, "no": 2, "bos": 1, "eos": 2}])  # fmt: skip
def test_tokens_are_three_ids(data: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="tokens"):
        Tokens.from_json(data)
    assert Tokens.from_json({"yes": 1, "no": 2, "bos": None}) == Tokens(1, 2, None)


@pytest.mark.parametrize("turns", [{"before": 5}, {"after": ["x"]}, {"after": [True]}, {"before": [1] * 20_001}])
def test_the_turns_of_a_chat_are_lists_of_ids(turns: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="before and after"):
        Tokens.from_json({"yes": 1, "no": 2, "bos": None, **turns})


@given(st.lists(st.integers(0, 2**31 - 1), max_size=5), st.lists(st.integers(0, 2**31 - 1), max_size=5))
def test_tokens_survive_json(before: list[int], after: list[int]) -> None:
    tokens = Tokens(1, 2, 3, tuple(before), tuple(after))
    assert Tokens.from_json(json.loads(json.dumps(tokens.to_json()))) == tokens


def test_a_chat_opens_before_the_header_and_closes_behind_the_question() -> None:
    """The history's answers are text, and those that are asked for begin the model's turn."""
    catalog = Catalog(["i0"], [{"title": "Heat"}])
    tokens = Tokens(YES, NO, 7, (1001, 1002), (1003,))
    chat = PromptEncoder(Template(instruction="Like?\n"), catalog, characters, tokens)
    user = User("u", {}, (Event("i0", 4.0), Event("i0", 1.0)))
    prefix, suffix = chat.prefix(user), chat.suffix(Candidate("i0"))
    assert prefix[:3] == [7, 1001, 1002]
    assert "".join(map(chr, prefix[3:])) == "Like?\nHeat: Yes 4\nHeat: No 1\n"
    assert suffix == [*characters("Heat:"), 1003]
    assert chat.suffix(Candidate("i0")) == suffix
    assert tokens.answers(Template()) == ("Yes", "No")
    assert Tokens(YES, NO, 7).answers(Template()) == (" Yes", " No")
