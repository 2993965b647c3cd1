"""The errors a user may see. Each is one sentence that names the file, field or value, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

# What the exit code of a command says.
EXIT_CODES = {
    0: "done",
    1: "the operating system refused something (a full disk, no permission, a closed output), or the command found the "
    "problem that it names",
    2: "a wrong option, or bad input: a request, a data file, a recipe, a bundle that is not there, an --out that "
    "cannot be written",
    3: "a bundle is damaged, is not signed, or gives other scores than the trained models",
    4: "a model cannot be exported, or the export differs from what was trained",
    5: "an extra is not installed; the message says which",
    6: "the user store cannot do what was asked",
    7: "llama.cpp does not compute on this machine, or an LLM that is required does not answer",
    8: "a benchmark is slower than the one it is compared with, by more than the limit",
    9: "benchmarks cannot be compared, or one of them must not be used: a noisy machine, a failed parity gate",
    130: "interrupted (Ctrl-C); run the same command again to resume",
    141: "the reader of standard output has closed it, as `head` does; nothing is printed",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
_HINTS = {
    **dict.fromkeys(FULL, "make room there, then run the same command again"),
    errno.EMFILE: "raise the limit (ulimit -n)",
}


class CorellaError(Exception):
    """Base of every expected failure; the CLI prints it as one line and exits with ``exit_code``."""

    exit_code = 1


class InputError(CorellaError):
    """Bad data from outside: a request, a data file, an option's value."""

    exit_code = 2


class UnknownValueError(InputError):
    """A request has a value that training has not seen, of a field for which the bundle refuses such values.

    Attributes:
        field: "user", "item" or an attribute, as in an answer's `unknown`.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class RecipeError(InputError):
    """A recipe has an unknown key or an impossible value."""


class BundleError(CorellaError):
    """A bundle is damaged, incomplete, or of an unknown format."""

    exit_code = 3


class NoBundleError(BundleError):
    """The place that was named for a bundle is no folder at all, as after a slip in typing: bad input, not damage."""

    exit_code = 2


class ExportError(CorellaError):
    """A model cannot be exported, or what was exported differs from what was trained."""

    exit_code = 4


class MissingExtraError(CorellaError):
    """A command needs an extra that is not installed."""

    exit_code = 5

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}]: {installing(extra)}")
        self.extra = extra


class StoreError(CorellaError):
    """The user store cannot do what was asked; what it holds is as it was."""

    exit_code = 6


class StoreFullError(StoreError):
    """The user store cannot be written: the disk is full or read-only. The same works once there is room."""


class OutputError(CorellaError):
    """Standard output cannot be written: it is closed, or its disk is full."""


class ReaderGoneError(OutputError):
    """Who read standard output has left, as `head` does: no failure, and nobody is told."""

    exit_code = 141  # 128 and the number of SIGPIPE, what a shell shows of a program that the signal ends


class StoreGoneError(StoreError):
    """The user store's file was moved, deleted or replaced while it was in use. Nothing is taken until it is back."""


class ComputeError(CorellaError):
    """The installed llama.cpp does not compute on this machine, or the LLM does not answer."""

    exit_code = 7


class RegressionError(CorellaError):
    """A benchmark is slower than the one it is compared with, by more than the limit that was given."""

    exit_code = 8


class VoidError(CorellaError):
    """Benchmarks cannot be compared, or one of them must not be used."""

    exit_code = 9


class InterruptedRunError(CorellaError):
    """The user asked to stop; what was done is kept, and the same command resumes."""

    exit_code = 130


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a mistyped word: the known name that it most resembles, or nothing."""
    from difflib import get_close_matches

    by_case = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), by_case, 1)
    return f"; did you mean {by_case[near[0]]!r}?" if near else ""


def installing(extra: str) -> str:
    """How an extra is installed."""
    if extra != "llm":
        return f"pip install 'corella-edge[{extra}]'"
    # By itself pip would compile a llama.cpp for the machine at hand alone.
    return (
        "build its wheel with `corella-edge wheel --out DIR` (extra [build]), then "
        "pip install --find-links DIR --only-binary llama-cpp-python 'corella-edge[llm]'"
    )


def told(error: OSError) -> str:
    """What the system says, and what to do where that is known."""
    text = error.strerror or str(error) or type(error).__name__
    hint = _HINTS.get(error.errno or 0)
    return f"{text}; {hint}" if hint else text


def as_line(error: BaseException) -> tuple[str, int] | None:
    """What a person is told of an error, in one line, and the exit code; None for a fault of the program's own."""
    if isinstance(error, CorellaError):
        text, code = str(error), error.exit_code
    elif isinstance(error, OSError):
        names = [os.fspath(name) for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
        text, code = ": ".join([*names, told(error)]), CorellaError.exit_code
    elif isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of Path.resolve
        text, code = str(error), CorellaError.exit_code
    elif isinstance(error, UnicodeEncodeError):
        text, code = f"{error.object[:500]!r} cannot be written as {error.encoding}; name it otherwise", 2
    else:
        return None
    return text.replace("\n", "\\n").replace("\r", "\\r"), code
