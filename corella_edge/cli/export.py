"""`corella-edge export`: a finished run → a verified bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import (
    EXPORT_MODULES,
    Finite,
    ThreadCount,
    checkpoint_option,
    columns,
    figure,
    mib,
    need,
    need_export,
)
from corella_edge.routing.fusion import RULES

if TYPE_CHECKING:
    from corella_edge_export.llm.ready import ReadyLlm
    from corella_edge_export.recipe import Recipe

DEFAULT_TYPE = "Q8_0"


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="The prepared data; default: where the run found it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bundle folder; must be new.")
@click.option("--llm-type", multiple=True,
              help="llama.cpp file type of the LLM; repeat for variants, the first is the default. Default: "
              f"{DEFAULT_TYPE}.")  # fmt: skip
@click.option("--name", default="", help="Name in answers and metrics; default: the recipe's.")
@click.option("--bundle-version", default="1", show_default=True, help="Version in answers and metrics.")
@click.option("--crm-int8", is_flag=True, help="Also write crm.int8.onnx, the base model in 8-bit integers (optimum).")
@click.option("--fusion", type=click.Choice([*RULES, "best"]),
              help="How both scores of a routed candidate become one; `best`: whatever validation rows that fitted "
              "nothing like best, with maps of both models' probabilities. Default: the recipe's.")  # fmt: skip
@click.option("--measure", type=click.Choice(["entropy", "centred"]),
              help="What orders candidates: the entropy, or where positives are rare the entropy that is highest at "
              "the base rate. Default: the recipe's.")  # fmt: skip
@click.option("--no-sample", is_flag=True, help="Leave out sample.jsonl; reference.jsonl, for verify, stays.")
@click.option("--no-llm", is_flag=True, help="Leave the LLM out: a bundle of the base model alone, without llama.cpp.")
@click.option("--imatrix", is_flag=True,
              help="Weigh the errors of quantising by what training prompts use; some types need it.")  # fmt: skip
@click.option("--max-auc-drop", type=Finite(0),
              help="Fail where a type loses more AUC than this against f16, on the rows that the base model is least "
              "sure of.")  # fmt: skip
@click.option("--sweep", is_flag=True,
              help="Try the types of --llm-type (none given: all of llama.cpp's that can be written), print size, "
              "speed and quality of each, take the fastest that --max-auc-drop (default: 0.002) allows.")  # fmt: skip
@click.option("--llm-gguf", type=click.Path(path_type=Path),
              help="A ready GGUF file that is the bundle's LLM as it is; nothing of it is trained. With --checkpoint, "
              "the Hugging Face folder it was made of, the tokenizers are compared.")  # fmt: skip
@click.option("--llm-form", type=click.Choice(["plain", "chat"]), default="plain", show_default=True,
              help="How that file is asked: a text to continue, or a turn of its own chat template with an empty think "
              "block.")  # fmt: skip
@click.option("--adapter", type=click.Choice(["merged", "separate"]), default="merged", show_default=True,
              help="What LoRA training has learned becomes part of the LLM's weights, or a file beside an LLM that "
              "stays as it was before and may have several.")  # fmt: skip
@click.option("--add", metavar="NAME=RUN", multiple=True,
              help="With --adapter separate: also the adapter of another finished run with the same LLM and prompts, "
              "which requests ask for by its NAME. Repeat for more.")  # fmt: skip
@click.option("--recipe", help="Take the [export] section of this recipe (a name or file) instead of the run's, and "
              "with --llm-gguf the [prompt], which a trained LLM knows otherwise.")  # fmt: skip
@click.option("--llm-threads", type=ThreadCount(), help="Threads of the LLM. Default: all cores but one.")
@checkpoint_option
def export(
    run: Path, data: Path | None, out: Path, llm_type: tuple[str, ...], name: str, bundle_version: str,
    crm_int8: bool, fusion: str | None, measure: str | None, no_sample: bool, no_llm: bool, llm_threads: int | None,
    checkpoint: Path | None, llm_gguf: Path | None, llm_form: str, recipe: str | None,
    imatrix: bool, max_auc_drop: float | None, sweep: bool, adapter: str, add: tuple[str, ...],
) -> None:  # fmt: skip
    """Turn the finished training RUN into a bundle.

    The base model (CRM) becomes an ONNX file, the LLM a GGUF file; calibration and manifest stand beside them. Every
    file is compared with torch; the bundle appears complete and verified, or not at all.
    """
    ready = _ready(llm_gguf, llm_form, checkpoint, no_llm)
    if (ready or no_llm) and (llm_type or imatrix or sweep or max_auc_drop is not None):
        raise click.UsageError(
            "--llm-type, --imatrix, --sweep and --max-auc-drop are for an LLM that the run has trained"
        )
    separate, others = adapter == "separate", _by_name(add)
    if (others and not separate) or (separate and (ready or no_llm)):
        raise click.UsageError("--add goes with --adapter separate, which is for an LLM that the run has trained")
    llm_type = tuple(llm_type) or ((DEFAULT_TYPE,) if not sweep else ())
    if no_llm:
        need("export --no-llm", "export", *EXPORT_MODULES)
        need("export --no-llm", "cpu", "onnxruntime")
    else:
        need_export("export", *([] if ready else ["F16", *llm_type]))
    from corella_edge_export.bundling.write import ExportOptions
    from corella_edge_export.bundling.write import export as write
    from corella_edge_export.training.run import Run, data_of
    from corella_edge_runtime.machine.threads import llm_default

    threads = llm_threads or llm_default()
    runs = {name: Run.open(place, data_of(place, None), checkpoint) for name, place in others.items()}
    options = ExportOptions(
        llm_type or _all_types(), name, bundle_version, not no_sample, crm_int8, fusion, measure, threads, not no_llm,
        ready, imatrix, max_auc_drop, sweep, separate, runs,
    )  # fmt: skip
    opened = Run.open(run, data_of(run, data), None if ready else checkpoint)
    if recipe is not None:
        opened.recipe = _with_sections(opened.recipe, recipe, ready is not None)
    bundle = write(opened, out, options, lambda message: talk.say(f"{message} …"))
    size = sum(entry.size for entry in bundle.manifest.files.values())
    for note in opened.data.info.get("notes", []):
        click.echo(f"note: {note}")
    for line in _by_type(bundle.json("verification.json").get("types", []), sweep):
        click.echo(line)
    for line in _by_share(bundle.json("routing.json"), bundle.json("verification.json")["metrics"]):
        click.echo(line)
    click.echo(f"{out}: {bundle.label}, {len(bundle.manifest.files)} files, {mib(size)}, verified")
    talk.then("serve", out)


def _by_name(added: tuple[str, ...]) -> dict[str, Path]:
    """NAME=RUN of each --add. Raises UsageError."""
    pairs = [text.partition("=") for text in added]
    if not all(name and equals and place for name, equals, place in pairs):
        raise click.UsageError(f"--add {added[0]!r}: expected NAME=RUN, such as --add games=runs/games")
    found = {name: Path(place) for name, _, place in pairs}
    if len(found) < len(pairs):
        raise click.UsageError("--add: a name is given twice")
    return found


def _all_types() -> tuple[str, ...]:
    from corella_edge_runtime.llm.llama.binding import file_types

    return tuple(sorted(name for name in file_types() if not name.startswith("F32")))


def _by_type(rows: list[dict[str, Any]], sweep: bool) -> Iterator[str]:
    """What was found of file types on the rows that the base model is least sure of."""
    if not sweep or not rows:
        return
    from corella_edge_export.bundling.file_types import Tried, table

    yield "File types on the rows that the base model is least sure of, against f16:"
    yield from columns(list(table([Tried(**row) for row in rows])), right=True)


def _ready(file: Path | None, form: str, source: Path | None, no_llm: bool) -> ReadyLlm | None:
    """The ready LLM that was asked for, looked at before anything heavy is imported by its name."""
    if file is None and form == "chat":
        raise click.UsageError("--llm-form is for --llm-gguf: a trained LLM is asked as it was trained")
    if file is None:
        return None
    if no_llm:
        raise click.UsageError("--llm-gguf and --no-llm exclude each other")
    need_export("export --llm-gguf")
    from corella_edge_export.llm.ready import ReadyLlm
    from corella_edge_runtime.llm.llama import trust

    ready = ReadyLlm(file, "chat" if form == "chat" else "plain", source)
    trust.require(sorted(ready.check()))
    return ready


def _with_sections(own: Recipe, name: str, prompt: bool) -> Recipe:
    """The run's recipe with another one's section [export], and its [prompt] where no training depends on it."""
    from dataclasses import replace

    from corella_edge_export.recipe import load_recipe

    other = load_recipe(name)
    return replace(own, export=other.export, prompt=other.prompt if prompt else own.prompt)


def _by_fusion(table: list[dict[str, Any]]) -> Iterator[str]:
    """Every fusion rule behind every kind of map, judged by rows that fitted none of them."""
    if not table:
        return
    yield "Fusion rules at the bundle's own threshold, on rows that fitted none of them (ECE: calibration error):"
    cells = [["rule", "maps", "log-loss", "AUC", "ECE", "ECE, LLM asked", "ECE, not asked"]]
    for row in table:
        names = ("logloss", "auc", "ece", "ece_llm", "ece_alone")
        cells.append([row["rule"], row["maps"], *(figure(row[name]) for name in names)])
    yield from columns(cells)
    (best,) = (row for row in table if row["chosen"])
    yield f"Best by log-loss: {best['rule']}, maps: {best['maps']}"


def _by_share(routing: dict[str, Any], metrics: dict[str, Any]) -> Iterator[str]:
    """Quality on the calibration rows by the share that the LLM is asked about, and what follows for serving.

    `metrics` are those of each model alone.
    """
    own = routing["threshold"]
    if "llm_valid" not in metrics:
        yield f"On {routing['rows']:,} validation rows: AUC {figure(metrics['crm_valid']['auc'])}, no LLM in the bundle"
        return
    yield f"On {routing['rows']:,} validation rows, by the share that the LLM is asked about (ratio 0: never):"
    cells = [["ratio", "AUC", "log-loss", "accuracy"]]
    for row in routing["table"]:
        cells.append([f"{row['ratio']:g}", *(figure(row[name]) for name in ("auc", "logloss", "accuracy"))])
    yield from columns(cells, right=True)
    yield f"Alone: base model {figure(metrics['crm_valid']['auc'])}, LLM {figure(metrics['llm_valid']['auc'])} (AUC)"
    yield from _by_fusion(routing.get("fusions", []))
    if about := routing.get("fusion", {}).get("fit", {}).get("new_items"):
        yield f"Taken as the best; {about}"
    by_ratio = {f"ratio:{row['ratio']:g}": row for row in routing["table"]}
    losses = [by_ratio[name]["logloss"] for name in (own, "ratio:0") if name in by_ratio]
    if len(losses) == 2 and None not in losses and losses[0] > losses[1]:
        talk.warn(f"asking the LLM at the bundle's own threshold, {own}, raises the log-loss of these rows; "
                  "--threshold ratio:0 serves the base model alone")  # fmt: skip
