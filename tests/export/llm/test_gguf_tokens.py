"""llama.cpp splits every text as the trainer's tokenizer does, whatever the tokenizer, or the export refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2 as spm
from tokenizers import Tokenizer, models

from checkpoints import (
    BARE,
    TEXTS,
    copy_tokenizer,
    data_folder,
    random_llama,
    random_texts,
    save_scratch_tokenizer,
    save_tiktoken_tokenizer,
)
from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request import Event, User
from corella_edge_export.llm import to_gguf
from corella_edge_export.llm.from_gguf import GgufModel
from corella_edge_export.llm.to_gguf import check_tokens
from corella_edge_export.llm.tokenizer import load_tokenizer, resolve_answers, segment_tokenizer, train_tokenizer
from corella_edge_runtime.llm.llama.binding import Model

KINDS = ["scratch", "smollm2", "llama2", "qwen2.5", "tiktoken"]
MANY = pytest.mark.parametrize("many", [400, pytest.param(2000, marks=pytest.mark.slow)])
OWN = {"scratch": save_scratch_tokenizer, "tiktoken": save_tiktoken_tokenizer}


class Pair:
    """One tokenizer twice: as the trainer has it, and as llama.cpp reads it from a GGUF file."""

    def __init__(self, folder: Path, count: int) -> None:
        self.trainer = load_tokenizer(folder)
        spm = folder / "tokenizer.model"
        self.config = random_llama(count + 3).config
        to_gguf.write_vocabulary(self.config, self.trainer, folder / "v.gguf", spm if spm.is_file() else None)
        self.model = Model(folder / "v.gguf", vocabulary_only=True)
        self.tokenize = segment_tokenizer(self.trainer)

    def encoder(self, template: Template, titles: list[str]) -> PromptEncoder:
        catalog = Catalog([str(i) for i in range(len(titles))], [{"title": title} for title in titles])
        tokens = resolve_answers(self.tokenize, template, self.trainer.bos_token_id)
        return PromptEncoder(template, catalog, self.tokenize, tokens)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def get(kind: str) -> Pair:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            count = OWN[kind](folder) if kind in OWN else copy_tokenizer(kind, folder)
            made[kind] = Pair(folder, count)
        return made[kind]

    return get


@MANY
@pytest.mark.parametrize("kind", KINDS)
def test_texts_split_alike(pair: Callable[[str], Pair], kind: str, many: int) -> None:
    chosen = pair(kind)
    nothing, tokens = Catalog([], []), Tokens(0, 1, None)
    trainer = PromptEncoder(Template(), nothing, chosen.tokenize, tokens)
    runtime = PromptEncoder(Template(), nothing, chosen.model.tokenize, tokens)
    differing = [t for t in TEXTS + random_texts(many) if trainer.tokenize(t) != runtime.tokenize(t)]
    assert differing == []


def test_answers_that_are_rare_among_the_texts_split_alike(tmp_path: Path) -> None:
    """The merges that only they need come last here and there."""
    texts = ["Yesterday Yesss Nobody Noel", *random_texts(300)]
    trained = train_tokenizer(Template(), Catalog([], []), [], 290, texts)
    trained.save_pretrained(tmp_path)
    chosen = Pair(tmp_path, len(trained))
    assert len(trained) > 290
    answers = resolve_answers(chosen.model.tokenize, Template(), None)
    assert answers == resolve_answers(chosen.tokenize, Template(), None)
    told = [" Yes", " No", " Yesterday Noel", "Yes No", " YesNo Yes Yess", *texts, *TEXTS]
    assert [t for t in told if chosen.tokenize(t) != chosen.model.tokenize(t)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_text(pair: Callable[[str], Pair], kind: str) -> None:
    chosen = pair(kind)
    special = set(chosen.trainer.all_special_ids)
    for text in ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "a </s>b"):
        assert not special & set(chosen.tokenize(text)), text
        assert not special & set(chosen.model.tokenize(text)), text


@pytest.mark.parametrize("kind", KINDS)
def test_a_decomposed_title_has_the_ids_of_the_composed_one(pair: Callable[[str], Pair], kind: str) -> None:
    encoder = pair(kind).encoder(BARE if kind == "llama2" else Template(), ["Misérables", "Mise\u0301rables"])
    assert encoder.item(0) == encoder.item(1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_movielens_catalogue(pair: Callable[[str], Pair], kind: str) -> None:
    lines = (data_folder("ml-1m") / "movies.dat").read_text("latin-1").splitlines()
    titles = [line.split("::")[1] for line in lines]
    chosen = pair(kind)
    encoder = chosen.encoder(BARE if kind == "llama2" else Template(), titles)
    users = [User("u", {}, tuple(Event("1", rating) for rating in (None, 1.0, 4.5, 5.0)))]
    assert check_tokens(chosen.model, encoder, users) == len(titles) + 1 + 4 + 2


def test_rows_beyond_the_tokenizer_are_unused_tokens(pair: Callable[[str], Pair]) -> None:
    chosen = pair("scratch")
    assert chosen.model.vocab_size == len(chosen.trainer) + 3


@pytest.mark.parametrize(("kind", "wrong"), [("scratch", "smollm"), ("smollm2", "falcon"), ("qwen2.5", "gpt-2")])
def test_a_wrong_pre_tokenizer_is_found(
    pair: Callable[[str], Pair], kind: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = pair(kind)
    encoder = chosen.encoder(Template(), ["Postino, Il (The Postman) (1994)", "I'LL DO ANYTHING", *TEXTS])
    real = to_gguf.pre_tokenizer_name
    monkeypatch.setattr(to_gguf, "pre_tokenizer_name", lambda pre: real(pre) and wrong)
    monkeypatch.setattr(to_gguf, "_check_merges", lambda *_: None)
    to_gguf.write_vocabulary(chosen.config, chosen.trainer, tmp_path / "w.gguf")
    model = Model(tmp_path / "w.gguf", vocabulary_only=True)
    with pytest.raises(ExportError, match="tokenisation differs for"):
        check_tokens(model, encoder, [User("u", {}, (Event("1", 5.0),))])


def test_sentencepiece_answers_lose_their_space(pair: Callable[[str], Pair]) -> None:
    chosen = pair("llama2")
    with pytest.raises(ExportError, match=r"' Yes' is 2 tokens.*write yes = 'Yes' and no = 'No'.*rating"):
        resolve_answers(chosen.tokenize, Template(), 1)
    tokens = resolve_answers(chosen.tokenize, BARE, 1)
    assert chosen.trainer.convert_ids_to_tokens([tokens.yes, tokens.no]) == ["▁Yes", "▁No"]


def test_answers_of_several_tokens_or_the_same() -> None:
    def letters(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    with pytest.raises(ExportError, match="choose two other words"):
        resolve_answers(letters, Template(), None)
    with pytest.raises(ExportError, match="write yes = 'Y' and no = 'N'"):
        resolve_answers(letters, Template(yes=" Y", no=" N"), None)
    with pytest.raises(ExportError, match="same token"):
        resolve_answers(letters, Template(yes="Y", no="Y"), None)


def test_sentencepiece_that_drops_a_leading_space_is_held_against_the_template(tmp_path: Path) -> None:
    """`legacy = false`: transformers adds no space before one, llama.cpp always does."""
    copy_tokenizer("llama2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))
    chosen = Pair(tmp_path, 32000)
    safe = [text for text in TEXTS + random_texts(500) if text[:1] not in (" ", "▁")]
    assert [t for t in safe if chosen.tokenize(t) != chosen.model.tokenize(t)] == []
    assert check_tokens(chosen.model, chosen.encoder(BARE, ["Heat"]), [User("u", {}, (Event("1", 5.0),))])
    spaced = chosen.encoder(Template(yes="Yes", no="No"), ["Heat"])
    with pytest.raises(ExportError, match="tokenisation differs for ' 5"):
        check_tokens(chosen.model, spaced, [User("u", {}, (Event("1", 5.0),))])


def test_a_tokenizer_json_that_cuts_and_pads_does_not_reach_prompts(pair: Callable[[str], Pair]) -> None:
    fast = pair("scratch").trainer.backend_tokenizer
    fast.enable_truncation(2)
    fast.enable_padding(length=50)
    assert len(segment_tokenizer(pair("scratch").trainer)("Schindler's List")) not in (2, 50)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("normalizer", {"type": "Lowercase"}, r"normalizer \['Lowercase'\]"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre-tokenizer has no counterpart"),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}, "pre-tokenizer has no counterpart"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": []}, "pre-tokenizer has no counterpart"),
        ("pre_tokenizer", None, "pre-tokenizer has no counterpart"),
        ("model.ignore_merges", True, "ignore_merges"),
        ("model.byte_fallback", True, r"steps ByteLevel have no counterpart"),
        ("model.type", "WordPiece", r"neither a byte-level BPE nor one of SentencePiece's with bytes"),
    ],
)
def test_tokenizers_without_a_counterpart_are_refused(
    pair: Callable[[str], Pair], tmp_path: Path, part: str, value: Any, message: str
) -> None:
    chosen = pair("scratch")
    description = json.loads(chosen.trainer.backend_tokenizer.to_str())
    place = description
    for key in part.split(".")[:-1]:
        place = place[key]
    place[part.split(".")[-1]] = value

    class Changed:
        backend_tokenizer = type("Backend", (), {"to_str": lambda self: json.dumps(description)})()
        __len__ = lambda self: len(chosen.trainer)  # noqa: E731

    with pytest.raises(ExportError, match=message):
        to_gguf.write_vocabulary(chosen.config, Changed(), tmp_path / "x.gguf")


def test_a_tokenizer_without_a_fast_form() -> None:
    with pytest.raises(InputError, match="no fast form"):
        segment_tokenizer(object())


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_a_rules_name_names_that_rule(name: str) -> None:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = to_gguf.pre_tokenizer_of(name)
    assert to_gguf.pre_tokenizer_name(json.loads(made.to_str())["pre_tokenizer"]) == name


def test_sentencepiece_without_its_own_file_splits_alike(tmp_path: Path) -> None:
    """As newer checkpoints are saved: tokenizer.json alone."""
    copy_tokenizer("llama2", tmp_path)
    load_tokenizer(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    chosen = Pair(tmp_path, 32000)
    texts = TEXTS + random_texts(2000)
    assert [t for t in texts if chosen.tokenize(t) != chosen.model.tokenize(t)] == []


def test_sentencepiece_that_puts_no_space_first_splits_alike(tmp_path: Path) -> None:
    """As Gemma's: no dummy prefix, and pieces that people defined."""
    copy_tokenizer("llama2", tmp_path)
    proto = spm.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    proto.pieces[500].type = spm.ModelProto.SentencePiece.USER_DEFINED
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    settings = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    chosen = Pair(tmp_path, 32000)
    texts = [text for text in TEXTS + random_texts(2000) if "<0x" not in text]
    assert [t for t in texts if chosen.tokenize(t) != chosen.model.tokenize(t)] == []


def test_another_kind_of_sentencepiece_is_refused(tmp_path: Path) -> None:
    copy_tokenizer("llama2", tmp_path)
    chosen = load_tokenizer(tmp_path)
    proto = spm.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    proto.trainer_spec.model_type = spm.TrainerSpec.UNIGRAM
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match=r"tokenizer\.model is no BPE"):
        to_gguf.write_vocabulary(random_llama(32000).config, chosen, tmp_path / "x.gguf", tmp_path / "tokenizer.model")


@MANY
@pytest.mark.parametrize("first", [True, False])
def test_pieces_of_a_gguf_are_joined_as_llama_cpp_joins_them(tmp_path: Path, first: bool, many: int) -> None:
    """The GGUF is all that there is of the tokenizer: adapters may be trained on a Llama 2 or Gemma of that form."""
    copy_tokenizer("llama2", tmp_path)
    proto = spm.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = first
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    model = random_llama(32000)
    to_gguf.write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x", tmp_path / "tokenizer.model")
    read, opened = GgufModel(tmp_path / "x.gguf").tokenizer(), Model(tmp_path / "x.gguf", vocabulary_only=True)
    tokenize, texts = segment_tokenizer(read), TEXTS + random_texts(many)
    assert [t for t in texts if tokenize(t) != opened.tokenize(t)] == []
    assert (read.bos_token_id, read.eos_token_id, read.unk_token_id) == (1, 2, 0)
    to_gguf.write_vocabulary(model.config, read, tmp_path / "again.gguf")
    again = Model(tmp_path / "again.gguf", vocabulary_only=True)
    assert [t for t in texts if again.tokenize(t) != opened.tokenize(t)] == []


@pytest.mark.parametrize("settings", [None, {"padding_side": "left"}])
def test_a_folder_that_names_no_class_is_read_as_its_tokenizer_json_says(
    tmp_path: Path, settings: dict[str, Any] | None
) -> None:
    """transformers would take the class of Llama, which adds three tokens and cuts texts as SentencePiece does."""
    copy_tokenizer("smollm2", tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}))
    read, described = load_tokenizer(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(read) == described.get_vocab_size() == 49152
    assert (read.bos_token, read.eos_token) == ("<|im_start|>", "<|im_end|>")  # of config.json
    assert all(read.encode(text, add_special_tokens=False) == described.encode(text, add_special_tokens=False).ids
               for text in TEXTS)  # fmt: skip
    read.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").eos_token == "<|im_end|>"


def test_a_class_that_config_json_names_is_taken(tmp_path: Path) -> None:
    copy_tokenizer("smollm2", tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "tokenizer_class": "GPT2Tokenizer"}))
    assert type(load_tokenizer(tmp_path)).__name__ == "GPT2TokenizerFast"
