"""The errors a user may see. Each is one sentence that names the file, field or value, and what to do."""

from __future__ import annotations


class CorellaError(Exception):
    """Base of every expected failure; the CLI prints it as one line and exits with ``exit_code``."""

    exit_code = 1


class InputError(CorellaError):
    """Bad data from outside: a request, a data file, an option's value."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe has an unknown key or an impossible value."""


class BundleError(CorellaError):
    """A bundle is damaged, incomplete, or of an unknown format."""

    exit_code = 3


class ExportError(CorellaError):
    """A model can not be exported, or what was exported differs from what was trained."""

    exit_code = 4


class MissingExtraError(CorellaError):
    """A command needs an extra that is not installed."""

    exit_code = 5

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}]: pip install 'corella-edge[{extra}]'")
        self.extra = extra


class StoreError(CorellaError):
    """The user store can not do what was asked; what it holds is as it was."""

    exit_code = 6


class StoreFullError(StoreError):
    """The user store can not be written: the disk is full or read-only. The same works once there is room."""


class ComputeError(CorellaError):
    """The installed llama.cpp does not compute on this machine, or the LLM does not answer."""

    exit_code = 7


class InterruptedRunError(CorellaError):
    """The user asked to stop; what was done is kept and the same command goes on."""

    exit_code = 130
