"""Checks of decoded JSON beside those of `corella_edge.request`, where null is not the same as left out."""

from __future__ import annotations

from typing import Any

from corella_edge.errors import InputError


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


def shown(value: object) -> str:
    """A value as an error quotes it; of containers the kind alone, they may be deep."""
    kinds = {type(None): "nothing", dict: "an object", list: "a list"}
    if type(value) in kinds:
        return kinds[type(value)]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
