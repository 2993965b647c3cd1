"""Adapters: small changes (LoRA) of one LLM that stand beside it, and by which of them a request is answered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from corella_edge.errors import BundleError, InputError
from corella_edge.request import Request
from corella_edge.selection import Left

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FOLDER, SUFFIX = "adapters/", ".gguf"
MAX_ADAPTERS = 256  # of one bundle
MAX_WEIGHT = 10.0  # of either sign: 1 is what was trained, 0 nothing of it
# Name and weight of each adapter that counts, sorted by name. Equal ones give equal scores, in one process to the last
# bit. Empty: the LLM alone.
Weights = tuple[tuple[str, float], ...]
ALONE: Weights = ()

# As a request says it.
AdapterName = Annotated[str, Meta(min_length=1, max_length=64)]
OneAdapter = Annotated[
    AdapterName | Left,
    Meta(
        description="An adapter of the bundle's LLM that is asked; the same as `adapters` with the weight 1, and "
        "never beside it."
    ),
]
AdapterWeights = Annotated[
    Annotated[dict[str, Annotated[float, Meta(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]], Meta(max_length=MAX_ADAPTERS)] | Left,
    Meta(
        description="Weights of adapters of the bundle's LLM, whose changes are added up: 1 is what was trained, 0 "
        "nothing of it. `{}`: the LLM without adapters. Left out: as the bundle says."
    ),
]


@dataclass(frozen=True, slots=True)
class Adapters:
    """Those of one bundle.

    Attributes:
        names: sorted.
        default: by what a request is answered that says nothing of them.
    """

    names: tuple[str, ...] = ()
    default: Weights = ALONE

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Adapters:
        """From the JSON of adapters.json. Raises BundleError."""
        names, default = data.get("adapters"), data.get("default")
        if not isinstance(names, list) or not names or not all(map(is_name, names)) or len(set(names)) != len(names):
            raise BundleError("adapters.json: adapters is not a list of different names of adapters")
        if not isinstance(default, dict) or not all(map(_is_weight, default.values())):
            raise BundleError(
                f"adapters.json: default is not an object of weights from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
            )
        found = cls(tuple(sorted(names)))
        try:
            return replace(found, default=found.weights(default))
        except InputError as error:
            raise BundleError(f"adapters.json: default: {error}") from None

    def to_json(self) -> dict[str, Any]:
        return {"adapters": list(self.names), "default": dict(self.default)}

    @property
    def files(self) -> dict[str, str]:
        """Name → the file in the bundle."""
        return {name: file_of(name) for name in self.names}

    def weights(self, wanted: Mapping[str, float] | None) -> Weights:
        """By what is answered; None: whatever the bundle says.

        Raises:
            InputError: a name that the bundle has not.
        """
        if wanted is None:
            return self.default
        for name in wanted:
            if name not in self.names:
                raise InputError(f"adapters: {name!r:.80} is no adapter of this bundle, {self._known()}")
        # As float32, which llama.cpp takes: what is zero there is left out.
        rounded = {name: float(np.float32(weight)) for name, weight in wanted.items()}
        return tuple(sorted((name, weight) for name, weight in rounded.items() if weight))

    def settled(self, request: Request) -> Request:
        """The request with the weights that it is answered by; without any where the bundle has no adapters.

        Raises:
            InputError: a name that the bundle has not.
        """
        if not self.names and request.adapters is None:
            return request
        weights = self.weights(request.adapters)
        return replace(request, adapters=dict(weights) if self.names else None)

    def _known(self) -> str:
        return f"which has {', '.join(self.names)}" if self.names else "which has none"


NONE = Adapters()


def is_name(value: object) -> bool:
    """Whether an adapter may be called so."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_weight(value: object) -> bool:
    return type(value) in (int, float) and -MAX_WEIGHT <= value <= MAX_WEIGHT  # type: ignore[operator]


def file_of(name: str) -> str:
    """An adapter's file in a bundle."""
    return f"{FOLDER}{name}{SUFFIX}"


def asked_for(adapter: str | Left, adapters: dict[str, float] | Left) -> dict[str, float] | None:
    """What a request with these two fields asks for; None = it leaves it to the bundle.

    Raises:
        InputError: both are given.
    """
    one, several = adapter if isinstance(adapter, str) else None, adapters if isinstance(adapters, dict) else None
    if one is not None and several is not None:
        raise InputError("adapter: give adapter or adapters, not both")
    return several if one is None else {one: 1.0}


def weights_of(wanted: Mapping[str, float] | None) -> Weights:
    """Of a settled request."""
    return ALONE if wanted is None else tuple(wanted.items())


def names_in(files: Iterable[str]) -> list[str]:
    """The adapters among a bundle's files."""
    return sorted(
        file[len(FOLDER) : -len(SUFFIX)] for file in files if file.startswith(FOLDER) and file.endswith(SUFFIX)
    )
