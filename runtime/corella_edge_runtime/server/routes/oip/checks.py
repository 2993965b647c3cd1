"""Checks of decoded JSON for messages that are no `corella_edge.messages`: those of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

from corella_edge.errors import InputError
from corella_edge.messages import shown as shown


def any_object(value: object, where: str) -> dict[str, Any]:
    """An object, whatever its fields."""
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object, got {shown(value)}")
    return value


def a_list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list, got {shown(value)}")
    return value


def a_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected text, got {shown(value)}")
    return value


def a_flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where}: expected true or false, got {shown(value)}")
    return value


def a_whole(value: object, where: str, below: int) -> int:
    """A whole number from 0, below a bound."""
    if type(value) is not int or not 0 <= value < below:
        raise InputError(f"{where}: expected a whole number from 0 to {below - 1}, got {shown(value)}")
    return value
