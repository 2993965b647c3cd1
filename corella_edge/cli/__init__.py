"""The `corella-edge` command: click only; each command's module is imported when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from corella_edge import __version__
from corella_edge.cli import streams
from corella_edge.cli.base import PREFIX, Group
from corella_edge.errors import EXIT_CODES, InputError, InterruptedRunError, ReaderGoneError, as_line

# name → (module in this folder, one line for --help); the order is the order of work.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Run the whole path on synthetic data: prepare, train, export, verify, score, measure."),
    "data": ("data", "Fetch public data sets from their publishers, and write what is known of their files."),
    "init": ("init", "Look at your own files and describe them in a data.toml."),
    "prepare": ("prepare", "Turn your own table, or a publisher's files, into training data."),
    "recipe": ("recipe", "List the shipped recipes, or show one with all its settings."),
    "train": ("train", "Train the base model (CRM) and the LLM of a recipe."),
    "llm": ("llm", "List language models, check what one can be used for, or fetch one by pip."),
    "report": ("report", "Write one HTML page with plots of what a training run logged."),
    "export": ("export", "Turn a finished run into a verified bundle (ONNX + GGUF + manifest)."),
    "verify": ("verify", "Check every file of a bundle and repeat its reference scores."),
    "inspect": ("inspect", "Show what a bundle or prepared data hold."),
    "sign": ("sign", "Sign a bundle, or make a key to sign with."),
    "score": ("score", "Score requests from a file of JSON lines, or from standard input."),
    "evaluate": ("evaluate", "Measure AUC, log-loss and accuracy of both models and of routing on a data split."),
    "calibrate": ("calibrate", "Fit the routing policy on a log of your own, and write a new bundle with it."),
    "replay": ("replay", "Decide the rows of a log of decisions again by another policy, without any model."),
    "study": ("study", "Repeat the study of a recipe: routing curves, groups, ablations, over training seeds."),
    "catalog": ("catalog", "Add or change a bundle's items without a new export."),
    "deploy": ("deploy", "Keep versions side by side in a site: swap, roll back, try on a share of the users."),
    "serve": ("serve", "Serve a bundle over HTTP."),
    "keys": ("keys", "Add, list and revoke the API keys of a server."),
    "benchmark": ("benchmark", "Measure latency and AUC by the share of candidates that the LLM is asked about."),
    "plan": ("plan", "Say which share of the candidates keeps a latency objective on this machine."),
    "tune": ("tune", "Measure what runs a bundle best on this machine, and keep it as its plan."),
    "wheel": ("wheel", "Build llama.cpp as one wheel for all boxes of an architecture; no compiler is needed."),
    "doctor": ("doctor", "Say what is installed, whether it works, and what to do next."),
}


class LazyGroup(Group):
    """Knows its commands by name; imports one only when it runs, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"corella_edge.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Ctrl-C in a command that does not handle it is an expected end, not a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Options from the environment"):
            formatter.write_text(_ENVIRONMENT)
        with formatter.section("Tab completion"):
            for name, (place, line) in _COMPLETION.items():
                formatter.write(f"  {name}, in {place}:\n    {line}\n")  # whole, since a wrapped line cannot be pasted
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


_ENVIRONMENT = (
    f"{PREFIX}_COMMAND_OPTION gives an option that the command line leaves out: {PREFIX}_SERVE_PORT=9000 is `serve "
    f"--port 9000`, {PREFIX}_DEPLOY_ADD_TRUST=KEY is `deploy add --trust KEY`. A switch takes 1 or 0: "
    f"{PREFIX}_SERVE_LLM=0 is `--no-llm`. Several values are separated by spaces, several paths by colons."
)
_COMPLETION = {
    "bash": ("~/.bashrc", 'eval "$(_CORELLA_EDGE_COMPLETE=bash_source corella-edge)"'),
    "zsh": ("~/.zshrc", 'eval "$(_CORELLA_EDGE_COMPLETE=zsh_source corella-edge)"'),
    "fish": ("~/.config/fish/config.fish", "_CORELLA_EDGE_COMPLETE=fish_source corella-edge | source"),
}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX})
# Not from the environment: images like to set CORELLA_EDGE_VERSION, and every command would print its version.
@click.version_option(__version__, "-V", "--version", prog_name="corella-edge", allow_from_autoenv=False)
def cli() -> None:
    """Rank items for users on one small machine.

    A base model scores every candidate: the CRM, a conventional recommendation model (DCNv2). A small LLM is asked
    only about the candidates of which the base model is unsure.
    """


def main(args: list[str] | None = None) -> Any:
    """Entry point: an expected error is one line on stderr and a non-zero exit code (`errors.EXIT_CODES`)."""
    given = sys.argv[1:] if args is None else args
    _settle_signals(given)
    streams.occupy()
    with streams.guarded(), _told(), _interruptible():
        _check(given)
        try:
            return cli.main(args=args, prog_name="corella-edge", standalone_mode=True)
        finally:
            sys.stdout.flush()


@contextmanager
def _told() -> Iterator[None]:
    """An expected error ends the process with its line on stderr; any other is a fault of ours and keeps its trace."""
    try:
        yield
    except Exception as error:
        if (found := as_line(error)) is None:
            raise
        text, code = found
        if not isinstance(error, ReaderGoneError):
            click.echo(f"corella-edge: {text}", err=True)
        sys.exit(code)


def _check(args: list[str]) -> None:
    """Raises InputError for a text that no path and no value of the system's can be."""
    if bad := next((text for text in args if "\0" in text), None):
        raise InputError(f"{bad!r}: holds a NUL character")


# What managers and tools send to have something done, such as a reload. It must not end a server that knows nothing to
# do at it, or not yet: a site is followed at SIGHUP once it is loaded.
_HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _settle_signals(args: list[str]) -> None:
    """Before anything is imported that takes a while. What else a process inherits as ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        return
    # If the parent process ignores it, we would not see our own children end.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # polars sets a handler of its own when it is imported, whatever was there.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    if args[:1] == ["serve"]:
        for number in _HARMLESS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once with one line: every file of ours is whole or not there at any moment.

    An exception instead would break imports, callbacks from C and Rust, and be turned into their errors. Commands
    with something to finish (`train`, `serve`) set a handler of their own.
    """
    ours = threading.current_thread() is threading.main_thread()
    # A background process of a script ignores the signal; then it stays ignored.
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _stop_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # nobody may read it
        os.write(2, b"\ncorella-edge: interrupted; run the same command again to resume\n")
    os._exit(InterruptedRunError.exit_code)
