"""What every command has: -v, -q, options from the environment, "did you mean", tab completion; and the recipes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench_results import result
from corella_edge import __version__
from corella_edge.cli import cli, demo
from corella_edge.cli.recipe import toml
from corella_edge.errors import EXIT_CODES
from corella_edge_export.recipe import load_recipe, names, recipe_from, shipped
from sessions import serving, start


def commands(group: click.Group, context: click.Context) -> Iterator[click.Context]:
    """A context for every command that does something."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from commands(command, below)
        else:
            yield below


ROOT = click.Context(cli, info_name="corella-edge", **cli.context_settings)
COMMANDS = {found.command_path: found for found in commands(cli, ROOT)}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_can_be_quiet_or_verbose(path: str) -> None:
    flags = {opt for param in COMMANDS[path].command.params for opt in param.opts}
    assert {"-v", "--verbose", "-q", "--quiet"} <= flags


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_can_be_given_by_the_variable_of_its_name(path: str) -> None:
    context = COMMANDS[path]
    for option in context.command.params:
        if isinstance(option, click.Option):
            long = next(name for name in option.opts if name.startswith("--"))
            words = [*path.split(), *long.removeprefix("--").split("-")]
            variable = "_".join(words).replace("-", "_").upper()
            assert f"{context.auto_envvar_prefix}_{(option.name or '').upper()}" == variable, long
            assert option.help, long


def test_the_version_in_one_letter(corella) -> None:
    for flag in ("-V", "--version"):
        assert corella(flag).out == f"corella-edge, version {__version__}\n"


def test_a_variable_gives_what_the_command_line_leaves_out(corella, bundle, monkeypatch) -> None:
    monkeypatch.setenv("CORELLA_EDGE_INSPECT_JSON", "1")
    assert json.loads(corella("inspect", bundle).out)["problems"] == []
    monkeypatch.setenv("CORELLA_EDGE_INSPECT_JSON", "0")
    assert corella("inspect", bundle).out.startswith("bundle ")


def test_a_variable_of_a_command_in_a_group_and_the_command_line_first(corella, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CORELLA_EDGE_KEYS_ADD_NAME", "by the variable")
    monkeypatch.setenv("CORELLA_EDGE_KEYS_ADD_SCOPE", "rank users")
    assert corella("keys", "add", tmp_path / "keys").code == 0
    assert corella("keys", "add", tmp_path / "keys", "--name", "typed").code == 0
    first, second = corella("keys", "list", tmp_path / "keys").out.splitlines()
    assert first.endswith("by the variable")
    assert "rank,users" in first
    assert second.endswith("typed")


def test_a_bad_value_of_a_variable_names_the_variable(corella, bundle, monkeypatch) -> None:
    monkeypatch.setenv("CORELLA_EDGE_SERVE_PORT", "http")
    done = corella("serve", bundle)
    assert done.code == 2
    assert (
        "'--port': 'http' is not a valid integer range. (from the environment variable CORELLA_EDGE_SERVE_PORT)"
        in done.err
    )
    assert "environment variable" not in corella("serve", bundle, "--port", "http").err


@pytest.mark.parametrize("name", ["CORELLA_EDGE_VERSION", "CORELLA_EDGE_LLM_KEY"])
def test_variables_that_are_no_options_change_nothing(corella, bundle, monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, "1.2.3")
    assert corella("inspect", bundle).out.startswith("bundle ")


def test_a_variable_that_is_nearly_an_option_is_told(corella, bundle, monkeypatch) -> None:
    monkeypatch.setenv("CORELLA_EDGE_INSPECT_JSN", "1")
    monkeypatch.setenv("CORELLA_EDGE_INSPECT_SERVICE_HOST", "10.0.0.1")  # as Kubernetes names a service
    done = corella("inspect", bundle)
    assert (done.code, done.out[:7]) == (0, "bundle ")
    said = "the environment variable CORELLA_EDGE_INSPECT_JSN is no option of corella-edge inspect"
    assert done.err == f"corella-edge: warning: {said}; did you mean 'JSON'?\n"
    assert corella("inspect", bundle, "-q").err == ""


def test_a_variable_that_was_to_give_a_required_option_is_told(corella, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CORELLA_EDGE_PREPARE_OTU", str(tmp_path / "data"))
    done = corella("prepare", "synthetic")
    said = "the environment variable CORELLA_EDGE_PREPARE_OTU is no option of corella-edge prepare"
    assert (done.code, done.err.splitlines()[0]) == (2, f"corella-edge: warning: {said}; did you mean 'OUT'?")
    assert "Missing option '--out'" in done.err


def test_quiet_says_errors_and_the_result(corella, crm_bundle, requests, tmp_path) -> None:
    args = ["score", crm_bundle, requests, "--threshold", "ratio:1"]
    loud = corella(*args, "--out", tmp_path / "a")
    assert "warning: the bundle has no LLM" in loud.err
    assert "scored 30" in loud.err
    done = corella(*args, "--out", tmp_path / "b", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = corella(*args, "--out", tmp_path / "b", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Missing" not in done.err
    assert "scored 30" in corella(*args, "--out", tmp_path / "b", "--force").err  # a later command talks again


def test_quiet_verify_prints_the_verdict_and_what_is_wrong(corella, bundle, tmp_path) -> None:
    done = corella("verify", bundle, "-q")
    assert (done.code, done.out, done.err) == (0, "tiny@1: verified\n", "")
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "crm.onnx").write_bytes(b"other")
    done = corella("verify", tmp_path / "copy", "-q")
    assert (done.code, done.out.partition(":")[0], done.err.count("\n")) == (3, "crm.onnx", 1)


def test_llama_cpp_s_own_log_is_only_for_who_asks_twice(corella, bundle) -> None:
    level = logging.getLogger("corella_edge.llama").level
    once, twice = corella("verify", bundle, "-v"), corella("verify", bundle, "-vv")
    assert (once.code, twice.code) == (0, 0)
    assert "DEBUG corella_edge: done in " in once.err
    assert "corella_edge.llama" not in once.err
    assert "DEBUG corella_edge.llama: " in twice.err
    assert logging.getLogger("corella_edge.llama").level == level


def test_verbose_adds_debug_messages_and_the_trace_of_an_error(corella, bundle, requests, tmp_path) -> None:
    before = logging.getLogger("corella_edge").level, list(logging.getLogger().handlers)
    done = corella("score", bundle, requests, "--out", "-", "--no-llm", "-v")
    assert done.code == 0
    assert f"DEBUG corella_edge: corella-edge {__version__}, Python " in done.err
    assert "DEBUG corella_edge: tiny@1: threshold 0.6919 nats, " in done.err
    assert "DEBUG corella_edge: done in " in done.err
    assert len(done.out.splitlines()) == 30
    done = corella("inspect", tmp_path, "--verbose")
    assert done.code == 3
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("corella-edge: ")
    assert (logging.getLogger("corella_edge").level, list(logging.getLogger().handlers)) == before
    assert "Traceback" not in corella("inspect", tmp_path).err


@pytest.mark.parametrize("flag", ["-q", None])
def test_training_has_no_progress_bars_where_it_is_to_be_quiet(corella, tmp_path, monkeypatch, flag) -> None:
    stages = pytest.importorskip("corella_edge_export.training.stages")
    assert corella("prepare", "synthetic", "--out", tmp_path / "data", "-q").err == ""
    given = []
    monkeypatch.setattr(stages, "train", lambda *args: given.append(args[3]) or {})
    monkeypatch.setattr("corella_edge_export.report.report_if_possible", lambda folder: None)
    done = corella("train", "demo", "--data", tmp_path / "data", "--out", tmp_path / "run", *([flag] if flag else []))
    assert (done.code, given) == (0, [flag == "-q"])
    done = corella("demo", "--out", tmp_path, *([flag] if flag else []))  # there is no run to export
    assert given[1:] == [flag == "-q"]
    assert (done.err.count("\n") == 1) == (flag == "-q")


@pytest.mark.parametrize("flag", ["-q", None, "-v"])
def test_a_server_talks_as_it_is_told(crm_bundle, flag: str | None) -> None:
    with serving(start("serve", crm_bundle, "--port", 0, *([flag] if flag else []))) as served:
        assert served.url  # the address is the result: it is always told
        served.process.terminate()
        assert served.end() == 0
    assert ("warning: the bundle has no LLM" in served.errors) == (flag != "-q")
    assert ("is ready after" in served.errors) == (flag != "-q")
    assert ("DEBUG corella_edge" in served.errors) == (flag == "-v")
    assert flag != "-q" or served.errors == ""


def test_quiet_and_verbose_exclude_each_other(corella, bundle) -> None:
    done = corella("inspect", bundle, "-q", "-v")
    assert (done.code, "exclude each other" in done.err) == (2, True)


def test_a_library_s_warnings_are_as_loud_as_the_command(corella, bundle, monkeypatch) -> None:
    from corella_edge_runtime.site import describe

    whole = describe.describe

    def warns(root: Path) -> dict:
        logging.getLogger("corella_edge.engine").warning("of the library")
        logging.getLogger("corella_edge_runtime.server.guard.keys").warning("of the library")
        return whole(root)

    monkeypatch.setattr(describe, "describe", warns)
    assert "of the library" not in corella("inspect", bundle, "-q").err
    assert corella("inspect", bundle, "-v").err.count("of the library") == 2


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["benchmrk"], "'benchmark'"),
        (["Score"], "'score'"),
        (["deploy", "statsu"], "'status'"),
        (["recipe", "lst"], "'list'"),
        (["score", "--treshold", "1"], "'--threshold'"),
        (["keys", "add", "--nmae", "x"], "'--name'"),
        (["recipe", "show", "ml-1m-tinny"], "'ml-1m-tiny'"),
        (["prepare", "sythetic", "--out", "x"], "'synthetic'"),
    ],
)
def test_a_mistyped_name_is_met_with_the_one_that_was_meant(corella, args: list[str], meant: str) -> None:
    done = corella(*args)
    assert done.code == 2
    assert f"id you mean {meant}?" in done.err
    assert "Traceback" not in done.err


def test_a_name_like_no_other_gets_no_suggestion(corella) -> None:
    done = corella("xyzzy")
    assert (done.code, "No such command 'xyzzy'." in done.err) == (2, True)
    assert "did you mean" not in done.err


def complete(words: str, lacking: str = "") -> list[str]:
    """What bash is offered for the last word, in an install without that module."""
    asked = {"_CORELLA_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = f"import sys; sys.modules[{lacking!r}] = None; from corella_edge.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_tab_completes_commands_options_and_recipes() -> None:
    assert complete("corella-edge ins") == ["inspect"]
    assert complete("corella-edge deploy st") == ["status"]
    assert "--threshold" in complete("corella-edge score --")
    assert complete("corella-edge train ml-1m-t") == ["ml-1m-tiny"]
    assert complete("corella-edge prepare syn") == ["synthetic"]


def test_without_an_extra_its_names_are_not_completed_and_nothing_is_said() -> None:
    assert complete("corella-edge prepare ", lacking="polars") == []
    assert complete("corella-edge train ", lacking="corella_edge_export") == []


def test_the_help_tells_of_variables_completion_and_exit_codes(corella) -> None:
    text = " ".join(corella("-h").out.split())
    assert "CORELLA_EDGE_SERVE_PORT=9000 is `serve --port 9000`" in text
    lines = corella("-h").out.splitlines()
    assert '    eval "$(_CORELLA_EDGE_COMPLETE=bash_source corella-edge)"' in lines  # whole, to be pasted
    assert "    _CORELLA_EDGE_COMPLETE=fish_source corella-edge | source" in lines
    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text
    assert "conventional recommendation model" in text


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_is_shown_with_every_setting_and_read_back(corella, name: str) -> None:
    done = corella("recipe", "show", name)
    assert (done.code, done.err) == (0, "")
    assert recipe_from(tomllib.loads(done.out), name) == load_recipe(name)
    assert "gradient_checkpointing = " in done.out


def test_a_recipe_of_one_s_own_is_shown_over_its_base(corella, tmp_path) -> None:
    (tmp_path / "mine.toml").write_text('base = "demo"\nname = "mine"\n[joint]\nepochs = 3\n')
    shown = tomllib.loads(corella("recipe", "show", tmp_path / "mine.toml").out)
    assert (shown["name"], shown["joint"]["epochs"], shown["llm"]["layers"]) == ("mine", 3, 2)


def test_recipes_are_listed_with_their_purpose(corella) -> None:
    lines = corella("recipe", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == names()
    assert all(len(line.split()) > 3 and not line.endswith(",") for line in lines)


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3), max_leaves=6,
)  # fmt: skip
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4),
    lambda inner: st.dictionaries(KEYS, VALUES | inner, max_size=4), max_leaves=6,
)  # fmt: skip


@given(TABLES)
def test_any_table_is_written_as_toml_and_read_back(table: dict) -> None:
    assert tomllib.loads("\n".join(toml(table))) == table


def test_the_demo_ends_in_a_short_table_and_where_the_files_are(tmp_path) -> None:
    def at(ratio: float, gain: float) -> dict:
        return {"ratio": ratio, "auc": {"value": 0.7 + gain}, "gain": {"value": gain, "low": gain - 0.01, "high": 0.02}}

    quality = {
        "groups": {
            "all": {"rows": 1234, "users": 56, "at": [at(0.0, 0.0), at(0.01, 0.001), at(0.2, 0.015), at(1.0, -0.03)]}
        }
    }
    measured = result(requests=60, slower=2.0)
    single = [point for point in measured.points if point.scenario == "single"]
    timed = {point.ratio: point for point in single if (point.routing, point.users) == ("policy", "new")}
    measured = replace(measured, points=tuple(timed[ratio] for ratio in (0.0, 0.2, 1.0)))
    lines = list(demo._table({"evaluation": quality, "benchmark": measured}))
    assert lines[0].startswith("1,234 test rows of 56 users")
    assert [line.split()[0] for line in lines[2:]] == ["0", "0.2", "1"]
    disturbed = replace(measured, quiet=replace(measured.quiet, noisy=True, reasons=("others were there",)))
    *same, caution = demo._table({"evaluation": quality, "benchmark": disturbed})
    assert (same, caution.partition(".")[0]) == (lines, "NOISY machine")
    times = [f"{one.value:.2f}" for one in (timed[0.2].latency.p50, timed[0.2].latency.p99)]
    assert lines[3].split() == ["0.2", "0.7150", "+0.0150", "[+0.0050,", "+0.0200]", *times]
    (tmp_path / "bundle").mkdir()
    assert list(demo._files(tmp_path)) == [f"{tmp_path}/bundle  the bundle, verified"]
    (tmp_path / "answers.jsonl").touch()
    assert list(demo._files(tmp_path))[1].endswith(f"answers to the requests of {tmp_path}/data/requests.jsonl")


def test_the_demo_writes_nothing_beside_the_files_of_others(corella, tmp_path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = corella("demo", "--out", tmp_path)
    said = f"--out {tmp_path}: holds 'thesis.tex', which `demo` did not write; name another folder"
    assert (done.code, done.out, done.err) == (2, "", f"corella-edge: {said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
