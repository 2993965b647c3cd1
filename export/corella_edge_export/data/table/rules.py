"""Rules that drop a row by one of its columns: a comparison with a number, or a regular expression."""

from __future__ import annotations

import re

_COMPARISON = re.compile(r"\s*(<=|>=|==|!=|<|>)\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")


def comparison(rule: str) -> tuple[str, float] | None:
    """(operator of SQL, number) of a rule such as "<=0"; None for a regular expression."""
    found = _COMPARISON.fullmatch(rule)
    return (found[1].replace("==", "="), float(found[2])) if found else None


def reason(column: str, rule: str) -> str:
    """The rule in words, for the ledger: "Quantity <=0", "InvoiceNo matches ^C"."""
    return f"{column} {rule.strip()}" if comparison(rule) else f"{column} matches {rule}"
