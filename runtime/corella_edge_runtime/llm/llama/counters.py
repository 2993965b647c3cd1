"""What the scorer of prompts has done since its start, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What was done since the start.

    Attributes:
        prompts: those that got a probability.
        evaluated_tokens: computed.
        reused_tokens: not computed, because an earlier decode had left the prefix or other prompts shared it.
        prefix_hits, prefix_misses: prefixes that were kept in whole, or not.
        aborted: decodes given up because nobody waited any more.
        errors: decodes that failed, or ended in NaN.
        renewals: new contexts, made because the one before was broken.
        switches: how often it went on with other adapters.
    """

    prompts: int = 0
    evaluated_tokens: int = 0
    reused_tokens: int = 0
    decodes: int = 0
    prefix_hits: int = 0
    prefix_misses: int = 0
    aborted: int = 0
    errors: int = 0
    renewals: int = 0
    switches: int = 0
    seconds: float = 0.0
