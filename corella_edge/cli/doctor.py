"""`corella-edge doctor`."""

from __future__ import annotations

import click

from corella_edge.errors import CorellaError


@click.command()
@click.option("--threads", is_flag=True, help="Also show cores, CPU quota, and the threads planned for each model.")
def doctor(threads: bool) -> None:
    """Show what is installed, whether it loads, and whether llama.cpp computes right on this CPU.

    Missing extras are named, with the command that installs them. Exit code 1: something installed does not work.
    """
    from corella_edge_runtime.machine.doctor import examine, thread_lines
    from corella_edge_runtime.machine.threads import plan_threads, read_machine

    found = examine()
    lines = found.lines
    if threads:
        machine = read_machine()
        lines = [*lines, *thread_lines(machine, plan_threads(machine))]
    for line in (*lines, *(f"problem: {problem}" for problem in found.problems)):
        click.echo(line)
    if found.problems:
        raise CorellaError(f"{len(found.problems)} problem(s), named above")
