"""The LLM's prompt: history as answered questions, the candidate as the next, unanswered one.

    {instruction}{profile}
    [Green tea, 250 g] tea: Yes 5           one line an event: item text, answer, rating
    [Blue mug] kitchen: No 2
    [Black tea, 100 g] tea:                 the candidate; the model's next token is the score

Everything a user's candidates share comes first, so it is decoded once; a candidate's own part (the suffix) is
its item text alone. A prompt is tokenised segment by segment with special tokens off: no title can change
another field, and the tokens of an item can be kept.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, RecipeError
from corella_edge.features.schema import value_key
from corella_edge.request import Candidate, Event, User

Tokenize = Callable[[str], list[int]]
Key = TypeVar("Key")
# Ratings and profiles come with requests: only so many of their texts are kept.
MAX_TEXTS = 1000
MOST = 20_000  # characters of a template and of one value in it, events of a history


@dataclass(frozen=True, slots=True)
class Template:
    """The words around the data; part of the recipe and, unchanged, of the bundle.

    Attributes:
        instruction: the constant first line.
        profile: user feature → text with one `{}` for its value; features a user lacks are left out.
        item: item text with `{title}` and attribute names in braces; ends with the answer's cue.
        yes, no: the two answers, each one token, as text following the cue.
        rating: text after the answer of an event that has a rating, with one `{}`; may be empty.
        history_lines, block: the prompt keeps between `history_lines` and `history_lines + block` events, so
            that `block` new events pass before its beginning changes.
        value_chars: longest text kept of any one value.
        like_above: an event whose rating is above this (or that has none) is answered with `yes`.
    """

    instruction: str = "Will the user like it? Yes or No.\n"
    profile: Mapping[str, str] = field(default_factory=dict)
    item: str = "{title}:"
    yes: str = " Yes"
    no: str = " No"
    rating: str = " {}"
    history_lines: int = 20
    block: int = 10
    value_chars: int = 120
    like_above: float = 3.0

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in self.profile.values()):
            raise RecipeError("prompt.profile: the text of every feature must be a text with one {}")
        if len("".join([self.instruction, self.item, self.yes, self.no, self.rating, *self.profile.values()])) > MOST:
            raise RecipeError(f"prompt: its texts have more than {MOST} characters")
        if "title" not in self.item_fields:
            raise RecipeError("prompt.item: the text must contain {title}")
        if not (0 <= self.history_lines <= MOST and 1 <= self.block <= MOST and 1 <= self.value_chars <= MOST):
            raise RecipeError(f"prompt: history_lines must be 0 to {MOST}, block and value_chars 1 to {MOST}")
        self._try()

    @property
    def item_fields(self) -> list[str]:
        """Names in braces of `item`, in order."""
        return _plain_fields("prompt.item", self.item)

    def _try(self) -> None:
        """Fill the formats once. Raises RecipeError if they ask for what there is not."""
        _plain_fields("prompt.rating", self.rating)
        try:
            self.item.format_map(dict.fromkeys(self.item_fields, "text"))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise RecipeError(f"prompt.item: {error!r}; only {{title}} and attribute names belong in braces") from None
        try:
            self.rating.format("4")
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise RecipeError(f"prompt.rating: {error!r}; it has one {{}} for the rating") from None

    def header(self, user: User) -> str:
        """Instruction and profile, the part before the history."""
        known = [(text, self.text(user.features.get(name))) for name, text in self.profile.items()]
        parts = [text.replace("{}", value) for text, value in known if value]
        return self.instruction + ("; ".join(parts) + "\n" if parts else "")

    def item_text(self, attributes: Mapping[str, Any]) -> str | None:
        """An item's question, or None when it has no title."""
        values = {name: self.text(attributes.get(name)) for name in self.item_fields}
        return self.item.format_map(values) if values["title"] else None

    def tail(self, event: Event) -> str:
        """What follows an event's answer."""
        return "\n" if event.rating is None or not self.rating else self.rating.format(f"{event.rating:g}") + "\n"

    def liked(self, event: Event) -> bool:
        return event.rating is None or event.rating > self.like_above

    def text(self, value: Any) -> str:
        """A value as one clean, short line: lists joined by spaces, control characters and breaks removed."""
        if value is None:
            return ""
        if isinstance(value, (list, tuple)):
            value = " ".join(value_key(entry) for entry in value if entry is not None)
        cut = value_key(value)[: self.value_chars]
        plain = cut if cut.isprintable() else "".join(" " if _is_control(c) else c for c in cut)
        return " ".join(plain.split())

    def first_event(self, count: int) -> int:
        """Which of `count` events (0 = oldest) the prompt starts with."""
        surplus = count - self.history_lines - self.block
        return 0 if surplus <= 0 else -(-surplus // self.block) * self.block

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "profile": dict(self.profile)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Template:
        usual = cls().to_json()
        if data.keys() != usual.keys():
            different = sorted(data.keys() ^ usual.keys())
            raise BundleError(f"prompt.json: template fields differ from this version's: {different}")
        for name, value in usual.items():
            if not isinstance(data[name], (float, int) if type(value) is float else type(value)):
                raise BundleError(f"prompt.json: the template's {name} is of the wrong type")
        try:
            return cls(**data)
        except RecipeError as error:
            raise BundleError(f"prompt.json: {error}") from None


def _plain_fields(where: str, text: str) -> list[str]:
    """Names in braces, in order. Raises RecipeError where more stands there: a width could fill the memory."""
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    if any(spec or how or {".", "["} & set(name) for name, spec, how in fields):
        raise RecipeError(f"{where}: only a name may stand in braces, without : ! . or [")
    return [name for name, _, _ in fields]


def _is_control(c: str) -> bool:
    """Control and format characters, line separators, and halves of surrogate pairs."""
    return not c.isprintable() and c != " "


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids every prompt needs: the two answers, and the begin token if the model wants one.

    Attributes:
        before, after: of a model that is asked in the form of a chat, what opens the person's turn, and what ends it
            behind the candidate's question and opens the model's. The answers asked for then begin a turn, without the
            space that they have behind a cue. Empty for a plain prompt.
    """

    yes: int
    no: int
    bos: int | None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def answers(self, template: Template) -> tuple[str, str]:
        """The texts of `yes` and `no`."""
        return (template.yes.strip(), template.no.strip()) if self.after else (template.yes, template.no)

    def to_json(self) -> dict[str, Any]:
        turns = {name: list(ids) for name in ("before", "after") if (ids := getattr(self, name))}
        return {"yes": self.yes, "no": self.no, "bos": self.bos, **turns}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tokens:
        optional, turns = data.get("bos"), {name: data[name] for name in ("before", "after") if name in data}
        ids = [data.get("yes"), data.get("no"), *([] if optional is None else [optional])]
        if data.keys() - turns != {"yes", "no", "bos"} or not _are_ids(ids):
            raise BundleError("prompt.json: tokens must be the ids yes, no and bos (or null)")
        if not all(isinstance(part, list) and len(part) <= MOST and _are_ids(part) for part in turns.values()):
            raise BundleError(f"prompt.json: tokens before and after must be lists of at most {MOST} ids")
        return cls(**{**data, **{name: tuple(part) for name, part in turns.items()}})


def _are_ids(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)


class PromptEncoder:
    """Samples → token ids, with any tokenizer (the trainer's or llama.cpp's) and the same result."""

    def __init__(self, template: Template, catalog: Catalog, tokenize: Tokenize, tokens: Tokens) -> None:
        self.template = template
        self.catalog = catalog
        self.tokens = tokens
        # One spelling of every accent: some tokenizers compose letters themselves, llama.cpp never does.
        self.tokenize: Tokenize = lambda text: tokenize(unicodedata.normalize("NFC", text))
        self._items: dict[int, list[int] | None] = {}
        self._endings: dict[float | str, list[int]] = {}
        self._headers: dict[str, list[int]] = {}

    def prefix(self, user: User) -> list[int]:
        """Ids of all that a user's candidates share: begin token, header, history."""
        ids, history = self.header(user), user.history
        for item, rating, _ in history[self.template.first_event(len(history)) :].rows():
            question = self.item(self.catalog.row_of.get(item))
            if question is not None:
                ids += question
                ids += self._ending(rating)
        return ids

    def header(self, user: User) -> list[int]:
        """Begin token, opening of a turn, instruction and profile."""
        text = self.template.header(user)
        known = self._headers.get(text)
        if known is None:
            begin = [] if self.tokens.bos is None else [self.tokens.bos]
            known = _keep(self._headers, text, [*begin, *self.tokens.before, *self.tokenize(text)])
        return known.copy()

    def line(self, question: list[int] | None, event: Event) -> list[int]:
        """Ids of one answered question; empty for an item without text."""
        if question is None:
            return []
        return [*question, *self._ending(event.rating)]

    def _ending(self, rating: float | None) -> list[int]:
        """Ids of what follows the question of an event with this rating: the answer and its tail."""
        key = rating or repr(rating)  # 0 and -0 are one key and two texts
        known = self._endings.get(key)
        if known is None:
            event = Event("", rating)
            answer = self._answer(self.template.liked(event))
            known = _keep(self._endings, key, [*answer, *self.tokenize(self.template.tail(event))])
        return known

    def _answer(self, liked: bool) -> list[int]:
        """Ids of an answer in the history: behind its cue, whatever begins the model's turn of a chat."""
        if self.tokens.after:
            return self.tokenize(self.template.yes if liked else self.template.no)
        return [self.tokens.yes if liked else self.tokens.no]

    def forget(self) -> None:
        """Drop what is kept of users' profiles."""
        self._headers.clear()

    def suffix(self, candidate: Candidate) -> list[int] | None:
        """Ids of all that is a candidate's own, or None when there is no text to ask about."""
        question = self._question(candidate)
        return [*question, *self.tokens.after] if question is not None and self.tokens.after else question

    def _question(self, candidate: Candidate) -> list[int] | None:
        row = self.catalog.row_of.get(candidate.item)
        if candidate.features is None:
            return self.item(row)
        known = self.catalog.attributes[row] if row is not None else {}
        text = self.template.item_text({**known, **candidate.features})
        return None if text is None else self.tokenize(text)

    def item(self, row: int | None) -> list[int] | None:
        """Ids of a catalogue item's question, kept after the first use."""
        if row is None:
            return None
        if row not in self._items:
            text = self.template.item_text(self.catalog.attributes[row])
            self._items[row] = None if text is None else self.tokenize(text)
        return self._items[row]


def _keep(kept: dict[Key, list[int]], key: Key, ids: list[int]) -> list[int]:
    """Ids that are likely to be wanted again; of too many, all are dropped."""
    if len(kept) >= MAX_TEXTS:
        kept.clear()
    kept[key] = ids
    return ids
