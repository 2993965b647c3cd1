from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import Template, Tokens
from corella_edge.request import User

pytest.importorskip("transformers")

from corella_edge_export.llm import tokenizer as module
from corella_edge_export.llm.tokenizer import (
    load_tokenizer,
    resolve_answers,
    save_tokenizer,
    segment_tokenizer,
    train_tokenizer,
)
from disk import no_file_beyond

CATALOG = Catalog(["a", "b"], [{"title": "Red Sun"}, {"title": "Café del Río"}])


@pytest.fixture(scope="module")
def trained() -> Any:
    return train_tokenizer(Template(), CATALOG, [User("u")], 320)


def words(text: str) -> list[int]:
    """A tokenizer that knows two words and spells the rest."""
    return {" Yes": [7], " No": [8], " Nope": [8]}.get(text) or [ord(c) for c in text]


def test_answers_are_resolved_from_the_tokenizer(trained: Any) -> None:
    tokenize = segment_tokenizer(trained)
    found = resolve_answers(tokenize, Template(), trained.bos_token_id)
    assert [found.yes] == tokenize(" Yes")
    assert [found.no] == tokenize(" No")
    assert trained.convert_ids_to_tokens([found.yes, found.no]) == ["ĠYes", "ĠNo"]
    assert resolve_answers(words, Template(), None) == Tokens(7, 8, None)


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (Template(yes="Yes"), "prompt.yes: 'Yes' is 3 tokens"),
        (Template(no="Never"), "prompt.no: 'Never' is 5 tokens"),
        (Template(yes=" No"), "same token"),
        (Template(yes=" No", no=" Nope"), "same token"),
        (Template(no=""), "prompt.no: '' is 0 tokens"),
    ],
)
def test_answers_of_several_tokens_or_the_same_are_refused(template: Template, part: str) -> None:
    with pytest.raises(ExportError) as caught:
        resolve_answers(words, template, None)
    assert part in str(caught.value)


def test_training_repeats_and_survives_its_folder(trained: Any, tmp_path: Path) -> None:
    again = train_tokenizer(Template(), CATALOG, [User("u")], 320)
    assert again.get_vocab() == trained.get_vocab()
    assert 259 <= len(trained) <= 320
    save_tokenizer(trained, tmp_path / "kept")
    loaded = load_tokenizer(tmp_path / "kept")
    text = "Café del Río: Yes 5\n東京"
    assert segment_tokenizer(loaded)(text) == segment_tokenizer(trained)(text)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<s>", "</s>", "<pad>")


NONSENSE = ["".join(chr(97 + (7 * i + j * j) % 26) for j in range(6)) for i in range(400)]
TEXTS = [" ".join(["Yesterday", "Yesss", "Nobody", *NONSENSE])] * 3


@pytest.mark.parametrize("vocab_size", [1, 259, 300, 340])
def test_answers_that_are_rare_among_the_texts_are_single_tokens_all_the_same(vocab_size: int, tmp_path: Path) -> None:
    trained = train_tokenizer(Template(), CATALOG, [], vocab_size, TEXTS)
    save_tokenizer(trained, tmp_path / "kept")
    tokenize = segment_tokenizer(load_tokenizer(tmp_path / "kept"))
    found = resolve_answers(tokenize, Template(), trained.bos_token_id)
    assert trained.convert_ids_to_tokens([found.yes, found.no]) == ["ĠYes", "ĠNo"]
    assert not {"ĠYes", "ĠNo"} & set(trained.get_added_vocab())
    assert sorted(trained.get_vocab().values()) == list(range(len(trained)))
    assert len(trained) <= max(vocab_size, 259) + 6
    for text in (" Yes", " Yesterday No Nobody", "Yes", TEXTS[0]):
        assert trained.backend_tokenizer.decode(tokenize(text)) == text


def test_other_words_keep_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """With answers that the words hold already nothing is added; with rare ones, only what the words lack."""
    found = train_tokenizer(Template(), CATALOG, [], 300, TEXTS)
    common = train_tokenizer(Template(), CATALOG, [], 320)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_merge_whole", lambda tokenizer, word: None)
        before = train_tokenizer(Template(), CATALOG, [], 300, TEXTS)
        assert train_tokenizer(Template(), CATALOG, [], 320).backend_tokenizer.to_str() == (
            common.backend_tokenizer.to_str()
        )
    with pytest.raises(ExportError, match=r"prompt\.yes: ' Yes' is"):
        resolve_answers(segment_tokenizer(before), Template(), None)
    assert before.get_vocab().items() < found.get_vocab().items()
    words, same = segment_tokenizer(found), segment_tokenizer(before)
    assert [words(f" {text}") for text in NONSENSE] == [same(f" {text}") for text in NONSENSE]


def test_an_answer_of_several_words_is_no_single_token() -> None:
    template = Template(yes=" Yes indeed")
    tokenize = segment_tokenizer(train_tokenizer(template, CATALOG, [], 320))
    with pytest.raises(ExportError, match=r"prompt\.yes: ' Yes indeed' is 2 tokens"):
        resolve_answers(tokenize, template, None)


def test_a_tokenizer_that_the_disk_does_not_take_is_told(trained: Any, tmp_path: Path) -> None:
    with no_file_beyond(1000), pytest.raises(InputError, match=r"kept: writing failed \(.*\); make room there"):
        save_tokenizer(trained, tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


def test_half_a_tokenizer_is_never_there(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path) -> None:
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trained, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            save_tokenizer(trained, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    save_tokenizer(trained, tmp_path / "kept")
    assert len(load_tokenizer(tmp_path / "kept")) == len(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@given(st.text(max_size=20) | st.sampled_from(["<s>", "</s><pad>", "a<s>b"]))
def test_any_text_comes_back_and_names_no_special_token(trained: Any, text: str) -> None:
    ids = segment_tokenizer(trained)(text)
    assert trained.backend_tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not {trained.bos_token_id, trained.eos_token_id, trained.pad_token_id} & set(ids)


def test_what_is_no_tokenizer_is_told_so(tmp_path: Path, trained: Any) -> None:
    with pytest.raises(InputError, match="not a checkpoint directory"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(InputError, match="tokenizer cannot be read"):
        load_tokenizer(tmp_path)
    for name, content in (("tokenizer.json", "{"), ("tokenizer_config.json", "{"), ("tokenizer.json", '{"model": 3}')):
        trained.save_pretrained(tmp_path)
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="tokenizer cannot be read"):
            load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no fast form"):
        segment_tokenizer(object())
