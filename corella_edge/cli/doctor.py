"""`corella-edge doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import echo_json, json_option
from corella_edge.errors import CorellaError


@click.command(cls=Command)
@click.option("--threads", is_flag=True, help="Also show cores, CPU quota, and the threads planned for each model.")
@json_option
def doctor(threads: bool, json: bool) -> None:
    """Show what is installed, whether it loads, and whether llama.cpp computes right on this CPU.

    Missing extras are named, with the command that installs them. Ends in a verdict and the next step. Exit code 1:
    something installed does not work.
    """
    from corella_edge_runtime.doctor import examine

    found = examine()
    if json:
        echo_json({**found.to_json(), **({"threads": _threads_as_json()} if threads else {})})
    else:
        lines = [*found.lines, *(_thread_lines() if threads else ()), *(f"problem: {text}" for text in found.problems)]
        lines += ["", f"verdict: {found.verdict}", f"next: {found.next}"]
        click.echo("\n".join([*lines, *([f"optional: {'; '.join(found.optional)}"] if found.optional else [])]))
    if found.problems:
        raise CorellaError(f"{len(found.problems)} problem(s), named above")


def _thread_lines() -> Iterator[str]:
    from corella_edge_runtime.doctor import thread_lines
    from corella_edge_runtime.machine.threads import plan_threads, read_machine

    machine = read_machine()
    return thread_lines(machine, plan_threads(machine))


def _threads_as_json() -> dict[str, Any]:
    from corella_edge_runtime.machine.threads import plan_threads, read_machine

    machine = read_machine()
    return {"machine": asdict(machine), "plan": asdict(plan_threads(machine))}
