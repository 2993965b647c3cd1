"""The two prompts: they differ in the words after the candidate, and their histories are equal token by token."""

from __future__ import annotations

from dataclasses import replace

from corella_edge.errors import ExportError
from corella_edge.prompt import PromptEncoder
from corella_edge.request import User
from harness.pairs import OURS

PAPER = "paper"
TAIL = (". Given the ratings above, will this person like the film enough to rate it four or five? "
        "Answer Yes or No only. The answer is:")  # fmt: skip
ITEMS = {OURS: "[{title}] {year} {genres}:", PAPER: "[{title}] {year} {genres}" + TAIL}
CONSTANT, TOLERANCE = 30, 3


class ShortLines(PromptEncoder):
    """Prompts whose history lines are ours, whatever the candidate's question is."""

    def __init__(self, asked: PromptEncoder) -> None:
        super().__init__(asked.template, asked.catalog, asked.tokenize, asked.tokens)
        short = replace(asked.template, item=ITEMS[OURS])
        self.lines = PromptEncoder(short, asked.catalog, asked.tokenize, asked.tokens)

    def prefix(self, user: User) -> list[int]:
        return self.lines.prefix(user)


def constant_tokens(ours: PromptEncoder, paper: PromptEncoder) -> dict[str, int]:
    """Form → tokens after the candidate's text, the same for every item.

    Raises:
        ExportError: the paper's are not about 30 in this tokenizer.
    """
    cue = len(ours.tokenize(":"))
    more = longer_by(ours, paper)
    if abs(more + cue - CONSTANT) > TOLERANCE:
        raise ExportError(f"the words after the candidate are {more + cue} tokens, not {CONSTANT}; change TAIL")
    return {OURS: cue, PAPER: more + cue}


def longer_by(ours: PromptEncoder, paper: PromptEncoder) -> int:
    """How many tokens the paper's question has more.

    Raises:
        ExportError: it is not the same number for every item.
    """
    pairs = ((ours.item(row), paper.item(row)) for row in range(len(ours.catalog)))
    found = {len(theirs) - len(own) for own, theirs in pairs if own is not None and theirs is not None}
    if len(found) != 1:
        raise ExportError(f"the questions differ by {sorted(found)} tokens, not by one number: change TAIL")
    return found.pop()
