"""Items with a token of their own: one token in transformers and llama.cpp, and every other text splits alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from corella_edge.catalog import Catalog
from corella_edge.features.schema import Schema
from corella_edge.prompt import PromptEncoder, Template
from corella_edge.request import Candidate, Event, User
from corella_edge_export.llm.to_gguf import check_tokens, write_vocabulary
from corella_edge_export.llm.tokenizer import (
    load_tokenizer,
    resolve_answers,
    save_tokenizer,
    segment_tokenizer,
    speller,
    train_tokenizer,
    whole_texts,
)
from corella_edge_runtime.attributes import UsedAttributes, remarks
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.site.catalog_update import merge

TITLES = [
    "Alien", "Alien: Resurrection", "Alien [Director's Cut]", "lien", "Misérables, Les", "Mise\u0301rables", "M*A*S*H",
    "千と千尋の神隠し", "[", "]", "[]", "a", "Yes", "No", " 5", "<s>", "$9.99", "Se7en", "Seven (a.k.a. Se7en)", "Ǆ ﬁ",
    "The Alien", "3: The Alien", "🎬",
]  # fmt: skip
COLD = ["Aliens", "Alien 3", "The [Alien]: again", "Unknown film", "Misérables", "]: [Alien"]
TEMPLATES = {
    "brackets": Template(item="[{title}]:"),
    "bare": Template(item="{title}:"),
    "plain": Template(item="{title}"),
}


class World:
    """A catalogue whose last items are not among the training rows, with both tokenizers."""

    def __init__(self, template: Template, folder: Path) -> None:
        from transformers import LlamaConfig

        titles = TITLES + COLD
        self.catalog = Catalog([str(i) for i in range(len(titles))], [{"title": title} for title in titles])
        self.whole = whole_texts(template, self.catalog, range(len(TITLES)), [1.0, 4.5, 5.0])
        trained = train_tokenizer(template, self.catalog, [User("u")], 400, ["plain words"], self.whole)
        save_tokenizer(trained, folder / "tokenizer")
        self.trainer = load_tokenizer(folder / "tokenizer")
        config = LlamaConfig(vocab_size=len(self.trainer), hidden_size=16, num_attention_heads=2, intermediate_size=16)
        write_vocabulary(config, self.trainer, folder / "v.gguf", None)
        self.model = Model(folder / "v.gguf", vocabulary_only=True)
        tokenize = segment_tokenizer(self.trainer)
        tokens = resolve_answers(tokenize, template, self.trainer.bos_token_id)
        self.ours = PromptEncoder(template, self.catalog, tokenize, tokens)
        self.theirs = PromptEncoder(template, self.catalog, self.model.tokenize, tokens)
        self.spell = speller(self.trainer)


@pytest.fixture(scope="module", params=list(TEMPLATES))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = World(TEMPLATES[request.param], tmp_path_factory.mktemp("vocabulary"))
    yield made
    made.model.close()


def text_of(world: World, row: int) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", world.ours.template.item_text(world.catalog.attributes[row]) or "")


def test_a_whole_item_is_one_token_for_both(world: World) -> None:
    added = world.trainer.get_added_vocab()
    chosen = [row for row in range(len(TITLES)) if text_of(world, row) in set(world.whole) & set(added) - {"<s>"}]
    assert len(chosen) > 10
    for row in chosen:
        assert world.ours.item(row) == world.theirs.item(row) == [added[text_of(world, row)]]
    for rating in (1.0, 4.5, 5.0):
        answered = world.ours.line([], Event("0", rating))
        assert len(answered) == 2  # the answer and its tail
        assert answered == world.theirs.line([], Event("0", rating))


def test_an_unknown_item_is_spelled_even_with_a_known_title_in_it(world: World) -> None:
    for row in range(len(TITLES), len(TITLES) + len(COLD)):
        assert world.ours.item(row) == world.theirs.item(row)
        if text_of(world, row) not in world.whole:
            assert world.ours.item(row) not in [[i] for i in world.trainer.get_added_vocab().values()]
    users = [User("u", {}, tuple(Event("1", rating) for rating in (None, 1.0, 4.5, 2.0)))]
    assert check_tokens(world.model, world.ours, users) == len(world.catalog) + 1 + 4 + 2


def test_an_item_that_gets_another_title_loses_its_token(world: World) -> None:
    row = next(row for row in range(len(TITLES)) if len(world.ours.item(row) or []) == 1 and len(TITLES[row]) > 3)
    changed = [Candidate(str(row), {"title": "Night of the unheard"}), Candidate("new", {"title": TITLES[row]})]
    catalog = merge(world.catalog, changed).catalog
    template, tokens = world.ours.template, world.ours.tokens
    after = PromptEncoder(template, catalog, world.model.tokenize, tokens)
    whole = set(world.trainer.get_added_vocab().values())
    assert not set(after.item(row) or []) & whole
    # Whatever reads as a known item is that item to the LLM: `catalog update` says so.
    assert after.item(catalog.row_of["new"]) == world.ours.item(row)
    said = remarks(UsedAttributes(Schema((), {}), template), world.catalog, catalog, ["new"], [str(row)])
    assert any("takes for others" in text and "(new)" in text for text in said)


def test_the_texts_are_nfc_and_single(world: World) -> None:
    assert len(set(world.whole)) == len(world.whole)
    assert world.ours.item(TITLES.index("Mise\u0301rables")) == world.ours.item(len(TITLES) + COLD.index("Misérables"))


def test_no_two_whole_texts_overlap(world: World) -> None:
    for a in world.whole:
        for b in world.whole:
            assert a == b or not any(a[-n:] == b[:n] for n in range(1, min(len(a), len(b)))), (a, b)


def test_what_could_overlap_is_left_out() -> None:
    catalog = Catalog(list("abcd"), [{"title": t} for t in ("x:y", "y:z", "y", "x:y:z")])
    # "y" lies within others, or at their edge; "y:z" could begin where "x:y" ends.
    assert whole_texts(Template(item="{title}"), catalog, range(4), []) == ["x:y", "y", "x:y:z"]
    assert whole_texts(Template(item="{title}"), catalog, [1, 0], []) == ["y:z"]
    assert whole_texts(Template(item="[{title}]"), catalog, [1, 0, 1], [5.0]) == [" 5\n", "[y:z]", "[x:y]"]


def pieces(world: World) -> st.SearchStrategy[str]:
    cuts = [t[i:j] for t in world.whole for i, j in ((0, None), (1, None), (0, -1), (0, 2), (-2, None))]
    return st.lists(st.sampled_from(sorted(set(cuts))) | st.text(max_size=4), max_size=6).map("".join)


@settings(max_examples=60)
@given(st.data())
def test_any_text_splits_alike(world: World, data: st.DataObject) -> None:
    text = data.draw(pieces(world))
    assert world.ours.tokenize(text) == world.theirs.tokenize(text), text
    candidate = Candidate("new", {"title": text})
    assert world.ours.suffix(candidate) == world.theirs.suffix(candidate)


@settings(max_examples=40)
@given(st.data())
def test_a_spelled_text_has_no_whole_token_and_comes_back(world: World, data: st.DataObject) -> None:
    import unicodedata

    text = unicodedata.normalize("NFC", data.draw(st.sampled_from(world.whole) | pieces(world)))
    ids = world.spell(text)
    assert not set(ids) & set(world.trainer.get_added_vocab().values())
    assert world.trainer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text
