"""Messages: a type says what JSON is accepted, once for the parser, the checks and the published schema.

A message is a `msgspec.Struct`. `read` takes bytes, `check` what was decoded before; both accept and refuse the same,
in the same words: the place, what was expected there and what was found.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec import inspect as types

from corella_edge.errors import InputError
from corella_edge.formats.strict_json import JsonError, decode

MAX_ID_CHARS = 256
MAX_FEATURES = 256  # of one user or candidate
MAX_VALUES = 1024  # of one feature
MAX_TEXT_CHARS = 16_384  # of one value
MAX_PATH_CHARS = 200  # of a place in an error
MAX_WHOLE = 2**64  # of any whole number, and of its negative

T = TypeVar("T")
Text = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS)]
Whole = Annotated[int, Meta(extra_json_schema={"exclusiveMinimum": -MAX_WHOLE, "exclusiveMaximum": MAX_WHOLE})]
Id = Annotated[
    Text | Whole,
    Meta(description="Text, or an integer (written without a fraction: 7, not 7.0), read as its decimal digits."),
]
Scalar = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] | int | float | bool | None
Value = Scalar | Annotated[list[Scalar], Meta(max_length=MAX_VALUES)]
FeatureValues = Annotated[
    dict[str, Value],
    Meta(
        max_length=MAX_FEATURES,
        description="By field name; several values as a list. Fields the bundle does not know are ignored.",
    ),
]
OptionalId = Id | None | UnsetType
OptionalFeatures = FeatureValues | None | UnsetType

_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "an object", "null": "null",
}  # fmt: skip
_PARTS = {"str": ("character", "characters"), "array": ("entry", "entries"), "object": ("field", "fields")}
_FORM = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_LENGTH = re.compile(r"Expected `(\w+)` of length ([<>]?)=? ?(\d+)")
_BOUND = re.compile(r"Expected `(\w+)` ([<>]=?) (\S+)")
_KIND = re.compile(r"Expected `([^`]+)`")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_BOUNDS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below"}


def read(raw: bytes, kind: type[T], where: str) -> T:
    """The message in a JSON text.

    Args:
        where: what the whole is called in errors.

    Raises:
        JsonError: not strict JSON. InputError: another message; says where and why.
    """
    message = read_once(raw, kind, where)
    decode(raw)
    return message


def read_once(raw: bytes, kind: type[T], where: str) -> T:
    """`read`, but of a name that is given twice the last one counts; `check_names` has to follow."""
    try:
        message: T = _decoder(kind).decode(raw)  # type: ignore[arg-type]
    except (ValueError, RecursionError):
        return check(decode(raw), kind, where)
    return message


def check_names(raw: bytes, names: int, colons: Callable[[], int]) -> None:
    """Raises JsonError if a JSON text gives a name twice in an object.

    Args:
        names: how many there are in the message that was read of it, of which each has a colon.
        colons: how many more are inside the message's texts; asked if there are others than those of the names.
    """
    found = raw.count(b":")
    # A text with escapes may write a colon, or a name, in several ways.
    if b"\\" in raw or (found != names and found != names + colons()):
        decode(raw)


def check(value: object, kind: type[T], where: str) -> T:
    """The message that a decoded JSON value is.

    Raises:
        InputError: it is none; says where and why.
    """
    try:
        _check_numbers(value, "", where)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(_explained(str(error), value, kind, where)) from None
    except RecursionError:
        raise JsonError(f"{where}: nested too deeply") from None


def _check_numbers(value: object, path: str, where: str) -> None:
    """Raises InputError for a number that JSON does not have, or that no field takes."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_numbers(inner, f"{path}.{named(str(name))}", where)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            if type(inner) is not str:
                _check_numbers(inner, f"{path}[{i}]", where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{_place(path) or where}: {value} is not a finite number")
    elif isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise InputError(f"{_place(path) or where}: the number is too large")


def _place(path: str) -> str:
    """A path as an error quotes it; of one that leads deep into what nobody knows, the beginning and the end."""
    path = path.lstrip(".")
    return path if len(path) <= MAX_PATH_CHARS else f"{path[: MAX_PATH_CHARS // 2]}…{path[-MAX_PATH_CHARS // 2 :]}"


def check_features(features: Mapping[str, Any], path: str) -> None:
    """What a type cannot say of features: raises InputError for a whole number that is too large."""
    for name, value in features.items():
        listed = type(value) is list
        for i, entry in enumerate(value if listed else (value,)):
            if type(entry) is int and abs(entry) > MAX_WHOLE:
                raise InputError(f"{path}.{named(name)}{f'[{i}]' if listed else ''}: the number is too large")


def an_id(value: str | int, path: str) -> str:
    """An id as text. Raises InputError for an integer that is too large."""
    if type(value) is str:
        return value
    if abs(int(value)) >= MAX_WHOLE:
        raise InputError(f"{path}: the number is too large")
    return str(value)


def an_optional_id(value: str | int | UnsetType | None, path: str) -> str | None:
    return None if value is None or value is UNSET else an_id(value, path)


def given(value: T | UnsetType | None, default: T) -> T:
    """A field's value, or the default for null and for one left out."""
    return default if value is None or value is UNSET else value


@lru_cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@lru_cache
def _form(kind: Any) -> types.Type:
    return types.type_info(kind)


def _explained(text: str, value: object, kind: Any, where: str) -> str:
    """msgspec's message in plain words."""
    matched = _FORM.fullmatch(text)
    assert matched
    path, found = "", value
    form: types.Type | None = _form(kind)
    for name, place in _STEP.findall(matched["path"] or ""):
        step: Any = name or (... if place == "..." else int(place))
        found, step, form = _inside(found, step, form)
        path += f".{named(step)}" if isinstance(step, str) else f"[{step}]"
    return _sentence(matched["what"], path.lstrip("."), found, form, where)


def _inside(value: Any, step: Any, form: types.Type | None) -> tuple[Any, Any, types.Type | None]:
    """A step into a value: what is there, the step's own name, and the type wanted there."""
    inner = next(filter(None, [_inner(option, step) for option in _options(form)]), None)
    if step is ...:
        step = next((name for name, found in value.items() if not _fits(found, inner)), "...")
    try:
        return value[step], step, inner
    except (KeyError, IndexError, TypeError):
        return None, step, inner


def _options(form: types.Type | None) -> list[types.Type]:
    if isinstance(form, types.Metadata):
        return _options(form.type)
    if isinstance(form, types.UnionType):
        return [inner for option in form.types for inner in _options(option)]
    return [] if form is None else [form]


def _inner(form: types.Type, step: Any) -> types.Type | None:
    if isinstance(form, types.StructType):
        return next((field.type for field in form.fields if field.encode_name == step), None)
    if isinstance(form, types.ListType):
        return form.item_type
    return form.value_type if isinstance(form, types.DictType) else None


def _fits(value: object, form: types.Type | None) -> bool:
    """Whether a value of an object of texts, of numbers, or of features, is one; or an object, where the form has
    them."""
    if isinstance(form, types.StrType):
        return isinstance(value, str)
    if isinstance(form, types.FloatType):
        least, most = given(form.ge, -math.inf), given(form.le, math.inf)
        return type(value) in (int, float) and least <= value <= most  # type: ignore[operator]
    kinds = [option.cls for option in _options(form) if isinstance(option, types.StructType)]
    if kinds and value is None:
        return False
    try:
        msgspec.convert(value, kinds[0] if kinds and isinstance(value, dict) else Value)
    except msgspec.ValidationError:
        return False
    return True


def _sentence(what: str, path: str, found: object, form: types.Type | None, where: str) -> str:
    place = path or where
    if matched := _FIELD.fullmatch(what):
        if matched[1] == "missing required":
            return f"{path + '.' if path else ''}{named(matched[2])}: is missing"
        known = next((o.fields for o in _options(form) if isinstance(o, types.StructType)), ())
        names = ", ".join(sorted(field.encode_name for field in known))
        return f"{place}: unknown field {shown(matched[2])}; known fields: {names}"
    known_words = [word for option in _options(form) if isinstance(option, types.LiteralType) for word in option.values]
    if known_words and what.startswith("Invalid enum value"):
        return f"{place}: expected {' or '.join(map(repr, known_words))}, got {shown(found)}"
    if matched := _LENGTH.match(what):
        kind, sign, number = matched.groups()
        bound = {"<": "at most ", ">": "at least "}.get(sign, "")
        size = len(found) if isinstance(found, (str, list, dict)) else 0
        return f"{place}: expected {_WORDS[kind]} of {bound}{_many(number, kind)}, got {_many(size, kind)}"
    if matched := _BOUND.match(what):
        bound = f"{_BOUNDS[matched[2]]} {matched[3].removesuffix('.0')}"
        return f"{place}: expected {_WORDS[matched[1]]} {bound}, got {shown(found)}"
    if "matching regex" in what and isinstance(form, types.Metadata) and form.extra:
        return f"{place}: expected {form.extra['words']}, got {shown(found)}"
    if matched := _KIND.match(what):
        return f"{place}: expected {_any_of(matched[1])}, got {shown(found)}"
    return f"{place}: {what[:1].lower()}{what[1:]}"


def _any_of(names: str) -> str:
    """Null is not told: it is the same as leaving a field out."""
    kinds = [name for name in names.split(" | ") if name != "null"] or ["null"]
    words = [_WORDS.get(kind, kind) for kind in kinds if not (kind == "int" and "float" in kinds)]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _many(number: int | str, kind: str) -> str:
    one, several = _PARTS.get(kind, _PARTS["array"])
    return f"{number} {one if str(number) == '1' else several}"


def named(name: str) -> str:
    """A field's name as an error quotes it: the first 40 characters, in one line."""
    return name[:40] if name.isprintable() else repr(name[:40])


def shown(value: object) -> str:
    """A value as an error quotes it; of containers the kind alone, they may be deep."""
    kinds = {type(None): "nothing", dict: "an object", list: "a list", bool: "true" if value else "false"}
    if type(value) in kinds:
        return kinds[type(value)]
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        return "a number too large"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
