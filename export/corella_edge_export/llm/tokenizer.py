"""Tokenizers: a byte-level BPE trained on the catalogue and prompts, or a checkpoint's own."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import Template, Tokenize, Tokens
from corella_edge.request import Event, User
from corella_edge_export.llm.from_gguf import SUFFIX, GgufModel

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(
    template: Template, catalog: Catalog, users: list[User], vocab_size: int, texts: Iterable[str] = (),
    whole: Iterable[str] = (),
) -> Any:  # fmt: skip
    """A `PreTrainedTokenizerFast` whose answers, a word each, are single tokens; deterministic for the same input.

    Answers too rare among the texts for a token of their own get one beyond `vocab_size`.

    Args:
        texts: plain text to learn words from, besides the prompts'.
        whole: texts that get a token each, beyond `vocab_size`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(_corpus(template, catalog, users), texts), trainer)
    for answer in (template.yes, template.no):
        _merge_whole(tokenizer, answer)
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in dict.fromkeys(whole) if t and t not in known])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def _merge_whole(tokenizer: Any, word: str) -> None:
    """Last merges that leave one token of the word; of other words only those with the same pieces side by side change.

    Where the words of a text end, no merge goes: an answer of several is left as it is.
    """
    from tokenizers import models

    if len(tokenizer.pre_tokenizer.pre_tokenize_str(word)) != 1:
        return
    while len(tokens := tokenizer.encode(word, add_special_tokens=False).tokens) > 1:
        model = json.loads(tokenizer.to_str())["model"]
        vocab = {**model["vocab"]}
        vocab.setdefault(tokens[0] + tokens[1], max(tokenizer.get_vocab().values()) + 1)
        merges = [(first, second) for first, second in (*model["merges"], tokens[:2])]
        tokenizer.model = models.BPE(vocab=vocab, merges=merges)


def _corpus(template: Template, catalog: Catalog, users: list[User]) -> Iterator[str]:
    """Every item once, and the words around them often enough to become whole tokens."""
    for attributes in catalog.attributes:
        text = template.item_text(attributes)
        if text is not None:
            yield text
    for user in users:
        yield template.header(user)
    answers = [template.yes, template.no, template.tail(Event("", 3.0)), template.tail(Event("", None))]
    yield from answers * (len(catalog) + 1)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write `folder`, complete or not at all: a killed run leaves no half of a tokenizer. Raises InputError."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    except Exception as error:  # the Rust tokenizers raise bare exceptions
        shutil.rmtree(partial, ignore_errors=True)
        text = f"{folder}: writing failed ({_first_line(error)}); make room there, then run the same command again"
        raise InputError(text) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local checkpoint: a directory, or a GGUF file.

    Raises:
        InputError: no tokenizer there, or one that this transformers release does not know.
    """
    from transformers import AutoTokenizer

    if folder.suffix == SUFFIX:
        return GgufModel(folder).tokenizer()
    if not folder.is_dir():
        raise InputError(f"{folder}: not a checkpoint directory")
    try:
        if _describes_itself(folder):
            return _from_description(folder)
        # The flag only silences a warning about Mistral that every vocabulary this large gets.
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, fix_mistral_regex=False)
    except Exception as error:  # noqa: BLE001 - the Rust tokenizers raise bare exceptions
        raise InputError(f"{folder}: its tokenizer cannot be read ({_first_line(error)})") from None


def _settings_of(folder: Path, name: str = "tokenizer_config.json") -> dict[str, Any]:
    path = folder / name
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _describes_itself(folder: Path) -> bool:
    """Whether tokenizer.json alone is to be read: transformers 5 saved it, whose classes are others, or no file names
    a class; transformers would then guess one by the model, which may cut the text otherwise and add tokens."""
    settings = _settings_of(folder)
    named = settings.get("tokenizer_class") or _settings_of(folder, "config.json").get("tokenizer_class")
    new = named == "TokenizersBackend" or "backend" in settings
    return (new or not named) and (folder / "tokenizer.json").is_file()


def _from_description(folder: Path) -> Any:
    """A tokenizer of tokenizer.json alone, with the special tokens that tokenizer_config.json names, or config.json."""
    from transformers import PreTrainedTokenizerFast

    special = {}
    for kind in ("bos", "eos", "unk", "pad"):
        token = _settings_of(folder).get(f"{kind}_token")
        if token is not None:
            special[f"{kind}_token"] = token["content"] if isinstance(token, dict) else token
    made = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
    ids = {} if special else _settings_of(folder, "config.json")
    for kind in ("bos", "eos", "pad"):
        if isinstance(number := ids.get(f"{kind}_token_id"), int):
            setattr(made, f"{kind}_token", made.convert_ids_to_tokens(number))
    return made


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def segment_tokenizer(tokenizer: Any) -> Tokenize:
    """Text → ids with special tokens off: neither added nor recognised in the text."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise InputError("the checkpoint's tokenizer has no fast form (tokenizer.json); save one first")
    fast.encode_special_tokens = True
    fast.no_truncation()
    fast.no_padding()

    def tokenize(text: str) -> list[int]:
        ids: list[int] = fast.encode(text, add_special_tokens=False).ids
        return ids

    return tokenize


def whole_texts(
    template: Template, catalog: Catalog, items: Iterable[int], ratings: Iterable[float | None]
) -> list[str]:
    """The questions of the given catalogue rows, and what follows an answer with each of the ratings (None = none).

    A text that could overlap an earlier one is left out: where tokens overlap, transformers takes the first and
    llama.cpp the longest. Where one can only lie within the other, both take the outer one.
    """
    questions = [template.item_text(catalog.attributes[row]) for row in items]
    tails = [template.tail(Event("", rating)) for rating in ratings]
    texts = [unicodedata.normalize("NFC", text) for text in (*tails, *questions) if text]
    firsts, lasts = {text[0] for text in texts}, {text[-1] for text in texts}
    begins: set[str] = set()
    ends: set[str] = set()
    kept = []
    for text in dict.fromkeys(texts):
        begin = {text[:i] for i in range(1, len(text)) if text[i - 1] in lasts}
        end = {text[i:] for i in range(1, len(text)) if text[i] in firsts}
        if ends.isdisjoint(begin) and begins.isdisjoint(end):
            kept.append(text)
            begins |= begin
            ends |= end
    return kept


def speller(tokenizer: Any) -> Tokenize:
    """Text → ids of its words and their pieces, never of a text that has a token as a whole."""
    fast = tokenizer.backend_tokenizer

    def spell(text: str) -> list[int]:
        words = fast.pre_tokenizer.pre_tokenize_str(unicodedata.normalize("NFC", text))
        return [token.id for word, _ in words for token in fast.model.tokenize(word)]

    return spell


def resolve_answers(tokenize: Tokenize, template: Template, bos: int | None) -> Tokens:
    """The ids of the two answers.

    Raises:
        ExportError: an answer is not a single token, or both are the same.
    """
    yes, no = tokenize(template.yes), tokenize(template.no)
    for name, text, ids in (("yes", template.yes, yes), ("no", template.no, no)):
        if len(ids) != 1:
            raise ExportError(
                f"prompt.{name}: {text!r} is {len(ids)} tokens of this tokenizer ({ids}), it must be one; "
                + _proposal(tokenize, template)
            )
    if yes == no:
        raise ExportError(f"prompt.yes and prompt.no are the same token ({yes[0]}) of this tokenizer")
    return Tokens(yes[0], no[0], bos)


def _proposal(tokenize: Tokenize, template: Template) -> str:
    """What to write instead: the same words with or without their leading space, where that is one token each."""
    bare = [template.yes.lstrip(), template.no.lstrip()]
    for yes, no in (bare, [f" {word}" for word in bare]):
        found = [tokenize(yes), tokenize(no)]
        if [len(ids) for ids in found] == [1, 1] and found[0] != found[1]:
            more = "" if yes[0] == " " else " (if it puts a space before every text itself, drop that of rating, too)"
            return f"in the recipe's [prompt], write yes = {yes!r} and no = {no!r}{more}"
    return "choose two other words"
