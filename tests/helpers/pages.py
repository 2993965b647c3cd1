"""README.md and the pages of docs/, for the tests that hold them against the product."""

from __future__ import annotations

import re

from sessions import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    """A page of docs/."""
    return (DOCS / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    (found,) = re.finditer(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    rest = BLOCK.sub(lambda block: block[0].replace("\n#", "\n\0"), text[found.end() :])
    return re.split(rf"^#{{1,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0].replace("\n\0", "\n#")


def blocks(text: str, language: str | None = None) -> list[str]:
    """Contents of code blocks, in order."""
    return [body for found, body in BLOCK.findall(text) if language in (None, found)]
