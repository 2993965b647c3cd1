"""What is asked and what is answered: one of each, and the columns of many. Knows no llama_cpp.

The columns are what travels from a request to the decode and back; a `Prompt` or an `LlmAnswer` is made of
them when one is looked at.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import ALONE, Weights
from corella_edge.routing.reasons import NoAnswer

TokenIds = tuple[int, ...]
IntArray = npt.NDArray[np.integer[Any]]
ID_BYTES = 4
# Why a prompt has no probability, by the code of its answer; 0: it has one.
REASONS = ("", *(reason.value for reason in NoAnswer))
_CODES = {reason: code for code, reason in enumerate(REASONS)}
_ROW = np.dtype(
    [("probability", "<f8"), ("mass", "<f8"), ("waited", "<f8"), ("evaluated", "<u4"), ("reused", "<u4"),
     ("reason", "u1")]
)  # fmt: skip
# A row: probability, mass, waited, evaluated, reused, code of the reason.
Row = tuple[float, float, float, int, int, int]


class BrokenError(RuntimeError):
    """The scorer can answer nobody any more, not even in a new context."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one sample: the part shared by the user's candidates, and the candidate's own.

    `whole`: the answers' share of the whole vocabulary is wanted, too.
    """

    prefix: TokenIds
    suffix: TokenIds
    whole: bool = False


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """P(Yes) of one prompt, or NaN and the reason why it is missing.

    Attributes:
        reason: one of `REASONS`.
        evaluated, reused: tokens computed for this prompt, and those an earlier one had left or shared.
        waited: seconds from its arrival in the queue to the first decode that held it.
        mass: log of the two answers' share of the whole vocabulary's probability; NaN unless it was asked for, and
            from a backend that does not tell.
    """

    probability: float
    reason: str = ""
    evaluated: int = field(default=0, compare=False)
    reused: int = field(default=0, compare=False)
    waited: float = field(default=0.0, compare=False)
    mass: float = field(default=math.nan, compare=False)


def no_answer(reason: str) -> Row:
    """The row of a prompt that has none."""
    return math.nan, math.nan, 0.0, 0, 0, _CODES[reason]


_MISSING = {reason: np.array(no_answer(reason), _ROW) for reason in REASONS}


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as big-endian int32: they sort as the ids do, and their hash is computed once.

    Raises:
        ValueError: an id that does not fit 32 bits.
    """
    try:
        return struct.pack(f">{len(ids)}i", *ids)
    except struct.error:
        raise ValueError("a token id does not fit 32 bits") from None


def unpack_ids(raw: bytes) -> TokenIds:
    """The ids that `pack_ids` packed."""
    return struct.unpack(f">{len(raw) // ID_BYTES}i", raw)


def lengths_of(packed: Sequence[bytes]) -> list[int]:
    """How many ids each of them holds."""
    return [size // ID_BYTES for size in map(len, packed)]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prompts(Sequence[Prompt]):
    """Prompts of one caller as columns.

    Attributes:
        prefixes: different ones, each asked by some prompt here or by one that was cut off.
        prefix: the place of each prompt's prefix there.
        suffixes: of each prompt, as `pack_ids` gives them.
        whole: as in `Prompt`.
        lengths: tokens of each suffix.
        adapters: of the LLM, by which all of them are answered.
    """

    prefixes: Sequence[TokenIds]
    prefix: Sequence[int]
    suffixes: Sequence[bytes]
    whole: Sequence[bool]
    lengths: list[int] = field(init=False)
    adapters: Weights = ALONE

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", lengths_of(self.suffixes))

    @classmethod
    def of_user(cls, prefix: TokenIds, suffixes: Sequence[bytes]) -> Prompts:
        """Prompts that share one prefix."""
        return cls((prefix,), [0] * len(suffixes), suffixes, [False] * len(suffixes))

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> Prompts:
        """Any prompts. A prefix that is the same object as the one before is not looked up again: that takes long."""
        if isinstance(prompts, Prompts):
            return prompts
        known: dict[TokenIds, int] = {}
        place, last, prefix = 0, None, []
        for prompt in prompts:
            if prompt.prefix is not last:
                last = prompt.prefix
                place = known.setdefault(tuple(last), len(known))
            prefix.append(place)
        suffixes = [pack_ids(prompt.suffix) for prompt in prompts]
        return cls(tuple(known), prefix, suffixes, [prompt.whole for prompt in prompts])

    def by(self, adapters: Weights) -> Prompts:
        """The same, answered by these adapters of the LLM."""
        return self if adapters == self.adapters else replace(self, adapters=adapters)

    @property
    def tokens(self) -> int:
        """What they cost at most: each prefix once, each suffix."""
        return sum(len(self.prefixes[place]) for place in set(self.prefix)) + sum(self.lengths)

    def __len__(self) -> int:
        return len(self.suffixes)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> Prompts: ...
    def __getitem__(self, place: int | slice) -> Prompt | Prompts:
        if isinstance(place, slice):
            rows = self.prefix[place], self.suffixes[place], self.whole[place]
            return Prompts(self.prefixes, *rows, self.adapters)
        return Prompt(self.prefixes[self.prefix[place]], unpack_ids(self.suffixes[place]), self.whole[place])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prompts):
            return NotImplemented
        return self.adapters == other.adapters and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Prompts.of({list(self)})" + (f".by({self.adapters})" if self.adapters else "")


class Answers(Sequence[LlmAnswer]):
    """Answers as columns, one row a prompt.

    Attributes:
        rows: a structured array [n] with the fields of `LlmAnswer`; its `reason` is a place in `REASONS`. What a frame
            between processes holds as it is.
    """

    __slots__ = ("rows",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, rows: npt.NDArray[np.void]) -> None:
        self.rows = rows

    @classmethod
    def none(cls, number: int, reason: str) -> Answers:
        """The same reason for all."""
        return cls(np.full(number, _MISSING[reason]))

    @classmethod
    def of(cls, answers: Iterable[LlmAnswer]) -> Answers:
        return cls.of_rows(
            [(a.probability, a.mass, a.waited, a.evaluated, a.reused, _CODES[a.reason]) for a in answers]
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> Answers:
        # Twice as quick as numpy's own reading of tuples.
        raw = struct.pack("<" + len(rows) * "dddIIB", *chain.from_iterable(rows))
        return cls(np.frombuffer(bytearray(raw), _ROW))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Answers:
        """The inverse of `rows.tobytes()`. Raises ValueError: damaged bytes, or an unknown reason."""
        rows = np.frombuffer(raw, _ROW)
        if len(rows) and rows["reason"].max() >= len(REASONS):
            raise ValueError("an unknown reason")
        return cls(rows)

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """float64 [n], NaN where it is missing."""
        found: npt.NDArray[np.float64] = self.rows["probability"]
        return found

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """bool [n]: those that have a probability."""
        found: npt.NDArray[np.bool_] = self.rows["reason"] == 0
        return found

    @property
    def reasons(self) -> list[str]:
        """Of each, empty where there is a probability."""
        return [REASONS[code] for code in self.rows["reason"].tolist()]

    def has(self, reason: str) -> bool:
        """Whether some have this reason."""
        return bool((self.rows["reason"] == _CODES[reason]).any())

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> LlmAnswer: ...
    @overload
    def __getitem__(self, place: slice) -> Answers: ...
    def __getitem__(self, place: int | slice) -> LlmAnswer | Answers:
        if isinstance(place, slice):
            return Answers(self.rows[place])
        return _answer(self.rows[place].item())

    def __iter__(self) -> Iterator[LlmAnswer]:
        return map(_answer, self.rows.tolist())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return f"Answers.of({list(self)})"


def _answer(row: Row) -> LlmAnswer:
    probability, mass, waited, evaluated, reused, code = row
    return LlmAnswer(probability, REASONS[code], evaluated, reused, waited, mass)
