"""`corella-edge export`: a finished run → a verified bundle."""

from __future__ import annotations

from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Threads, checkpoint_option, mib, need_export
from corella_edge.routing.fusion import RULES


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The prepared data; default: where the run found it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bundle folder; must be new.")
@click.option("--llm-type", multiple=True, default=["Q8_0"], show_default=True,
              help="llama.cpp file type of the LLM; repeat for variants, the first is the default.")  # fmt: skip
@click.option("--name", default="", help="Name in answers and metrics; default: the recipe's.")
@click.option("--bundle-version", default="1", show_default=True, help="Version in answers and metrics.")
@click.option("--crm-int8", is_flag=True, help="Also write crm.int8.onnx, the base model in 8-bit integers (optimum).")
@click.option("--fusion", type=click.Choice(RULES),
              help="How both scores of a routed candidate become one; default: the recipe's.")  # fmt: skip
@click.option("--no-sample", is_flag=True, help="Leave out sample.jsonl; reference.jsonl, for verify, stays.")
@click.option("--llm-threads", type=Threads(), help="Threads of the LLM. Default: all cores but one.")
@checkpoint_option
def export(
    run: Path, data: Path | None, out: Path, llm_type: tuple[str, ...], name: str, bundle_version: str,
    crm_int8: bool, fusion: str | None, no_sample: bool, llm_threads: int | None, checkpoint: Path | None,
) -> None:  # fmt: skip
    """Turn the finished training RUN into a bundle.

    The base model (CRM) becomes an ONNX file, the LLM a GGUF file; calibration and manifest stand beside them. Every
    file is compared with torch; the bundle appears complete and verified, or not at all.
    """
    need_export("export", "F16", *llm_type)
    from corella_edge_export.bundling.write import ExportOptions
    from corella_edge_export.bundling.write import export as write
    from corella_edge_export.training.run import Run, data_of
    from corella_edge_runtime.machine.threads import llm_default

    threads = llm_threads or llm_default()
    options = ExportOptions(llm_type, name, bundle_version, not no_sample, crm_int8, fusion, threads)
    opened = Run.open(run, data_of(run, data), checkpoint)
    bundle = write(opened, out, options, lambda message: talk.say(f"{message} …"))
    size = sum(entry.size for entry in bundle.manifest.files.values())
    click.echo(f"{out}: {bundle.label}, {len(bundle.manifest.files)} files, {mib(size)}, verified")
