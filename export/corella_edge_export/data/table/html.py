"""Texts that were cut out of web pages as a reader sees them: no tags, no entities, one blank between words."""

from __future__ import annotations

import html
import re

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
# A tag's name follows at once: "a < b" and "I <3 you" hold none.
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


def plain(text: str) -> str:
    """The text without HTML. Two rounds of entities are resolved: publishers escape what was escaped ("&amp;amp;")."""
    text = _TAG.sub(" ", _HIDDEN.sub(" ", text))
    return " ".join(html.unescape(html.unescape(text)).split())
