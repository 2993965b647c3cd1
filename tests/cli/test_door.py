"""Whatever stands in the way of a command's streams, paths and files is one line and a documented exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from corella_edge import errors
from corella_edge.cli import COMMANDS, cli
from corella_edge.errors import EXIT_CODES, CorellaError, as_line
from door import Door, opened

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"


# What the commands below load in their bodies: once, not once a case.
LOADED = (
    "corella_edge_runtime.engine", "corella_edge_runtime.server.run", "corella_edge_export.data.prepare",
    "corella_edge_runtime.bench.run", "corella_edge_runtime.calibrate.run",
)  # fmt: skip


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with opened(*LOADED) as found:
        yield found


@pytest.fixture(scope="module")
def light() -> Iterator[Door]:
    """Where a command finds only what every command loads."""
    with opened() as found:
        yield found


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command, as words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


@pytest.fixture(scope="module")
def place(door: Door, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a request, an item, a keys file and a site."""
    folder = tmp_path_factory.mktemp("place")
    row = json.loads((GOLDEN / "sample.jsonl").read_text().splitlines()[0])
    (folder / "requests.jsonl").write_text(json.dumps(row["request"]) + "\n")
    (folder / "items.jsonl").write_text('{"item": "new-1", "title": "A film"}\n')
    made = door.run([
        {"args": ["keys", "add", folder / "keys.json", "--name", "x"]},
        {"args": ["deploy", "init", folder / "site", GOLDEN, "--no-verify"]},
    ])  # fmt: skip
    assert [code for code, _ in made] == [0, 0], made
    return folder


def told(text: str) -> list[str]:
    """The lines that are no notes."""
    notes = r"corella-edge: (warning|note):|scored|threshold |asking the LLM costs |\S.* …$"
    return [line for line in text.splitlines() if not re.match(notes, line)]


OUTPUTS = {
    "full": (1, ["corella-edge: standard output: cannot be written: No space left on device"]),
    "closed": (1, ["corella-edge: standard output: cannot be written: it is closed"]),
    "gone": (141, []),
}


def writers(place: Path) -> list[list[str | Path]]:
    """Commands that print."""
    new = ["--out", place / "new"]
    return [
        *([*command, "--help"] for command in leaves(cli)),
        ["--version"],
        ["--help"],
        ["inspect", GOLDEN],
        ["inspect", GOLDEN, "--json"],
        ["keys", "list", place / "keys.json"],
        ["deploy", "status", place / "site"],
        ["score", GOLDEN, place / "requests.jsonl", "--no-llm", "--out", "-"],
        ["catalog", "update", GOLDEN, place / "items.jsonl", "--no-verify", *new],
    ]


@pytest.mark.parametrize("how", OUTPUTS)
def test_an_output_that_can_not_be_written_is_one_line(door: Door, place: Path, how: str) -> None:
    commands = writers(place)
    shutil.rmtree(place / "new", ignore_errors=True)
    cases = [{"args": command, "streams": {"1": how}} for command in commands]
    for command, (code, said) in zip(commands, door.run(cases), strict=True):
        assert (code, told(said)) == OUTPUTS[how], command


@pytest.mark.slow  # the self-test of llama.cpp takes seconds
def test_a_doctor_who_can_not_write_is_one_line(door: Door) -> None:
    ((code, said),) = door.run([{"args": ["doctor"], "streams": {"1": "full"}}])
    assert (code, told(said)) == OUTPUTS["full"]


@pytest.mark.parametrize("how", ["full", "closed", "gone"])
def test_messages_that_can_not_be_written_are_lost_and_nothing_else(door: Door, place: Path, how: str) -> None:
    out = place / f"answers-{how}"
    commands = {
        ("inspect", GOLDEN): 0,
        ("inspect", place / "none"): 2,
        ("keys", "list", place / "none"): 2,
        ("score", GOLDEN, place / "requests.jsonl", "--no-llm", "--out", out): 0,
    }
    cases = [{"args": args, "streams": {"2": how, "0": "closed"}} for args in commands]
    assert [code for code, _ in door.run(cases)] == list(commands.values())
    assert len(out.read_text().splitlines()) == 1


def test_a_closed_input_is_told(door: Door, place: Path) -> None:
    args = ["score", GOLDEN, "-", "--no-llm", "--out", place / "none-at-all"]
    ((code, said),) = door.run([{"args": args, "streams": {"0": "closed"}}])
    assert (code, told(said)) == (2, ["corella-edge: standard input: cannot be read: Bad file descriptor"])
    assert not (place / "none-at-all").exists()


@pytest.fixture(scope="module")
def broken(place: Path) -> dict[str, Path]:
    """Paths that lead nowhere, each in another way."""
    (place / "loop").symlink_to("loop")
    return {
        "missing": place / "none",
        "not a folder": place / "items.jsonl" / "x",
        "too long": place / ("x" * 300),
        "a loop": place / "loop",
        "no UTF-8": Path(os.fsdecode(os.fsencode(place) + b"/caf\xe9")),
        "two lines": place / "a\nb",
    }


def readers(bad: Path, place: Path) -> list[list[str | Path]]:
    """Light commands that are to read from `bad`."""
    new, requests = ["--out", place / "never"], place / "requests.jsonl"
    return [
        ["verify", bad],
        ["inspect", bad],
        ["sign", bad, "--key", bad],
        ["sign", GOLDEN, "--key", bad],
        ["score", bad, requests, "--no-llm", *new],
        ["score", GOLDEN, bad, "--no-llm", *new],
        ["score", GOLDEN, requests, "--no-llm", "--plan", bad, *new],
        ["catalog", "update", bad, requests, *new],
        ["catalog", "update", GOLDEN, bad, *new],
        ["deploy", "add", bad, GOLDEN],
        ["deploy", "add", place / "site", bad],
        ["deploy", "init", place / "never", bad],
        ["deploy", "status", bad],
        ["deploy", "use", bad, "x"],
        ["deploy", "rollback", bad],
        ["deploy", "canary", bad, "x"],
        ["deploy", "remove", bad, "x"],
        ["keys", "list", bad],
        ["keys", "revoke", bad, "x"],
        ["serve", bad, "--port", "0"],
        ["serve", GOLDEN, "--port", "0", "--no-llm", "--keys", bad],
        ["benchmark", bad, "--no-llm"],
        ["benchmark", GOLDEN, "--no-llm", "--requests", bad],
        ["tune", bad],
        ["calibrate", bad, "--log", requests, *new],
        ["calibrate", GOLDEN, "--log", bad, *new],
        ["replay", bad, "--policy", GOLDEN],
        ["plan", bad, "--slo", "p99=30ms", "--qps", "5", "--candidates", "5"],
        ["prepare", "ml-1m", "--source", bad, *new],
    ]


def writers_to(bad: Path, place: Path) -> list[list[str | Path]]:
    """Light commands that are to write into the folder `bad`."""
    requests = place / "requests.jsonl"
    return [
        ["score", GOLDEN, requests, "--no-llm", "--out", bad / "x"],
        ["catalog", "update", GOLDEN, place / "items.jsonl", "--no-verify", "--out", bad / "x"],
        ["deploy", "init", bad / "x", GOLDEN, "--no-verify"],
        ["keys", "add", bad / "x", "--name", "x"],
        ["sign", "--new-key", bad / "x", "--no-password"],
        ["serve", GOLDEN, "--port", "0", "--no-llm", "--store", bad / "x"],
        ["prepare", "synthetic", "--out", bad / "x"],
    ]


KINDS = ["missing", "not a folder", "too long", "a loop", "no UTF-8", "two lines"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_leads_nowhere_is_one_line(door: Door, place: Path, broken: dict[str, Path], kind: str) -> None:
    commands = readers(broken[kind], place)
    if kind in ("not a folder", "too long", "a loop"):  # the others are names that can be made
        commands += writers_to(broken[kind], place)
    for command, (code, said) in zip(commands, door.run([{"args": command} for command in commands]), strict=True):
        lines = told(said)
        assert code in EXIT_CODES, (command, code, said)
        assert code not in (0, 99), (command, said)
        assert len(lines) == 1, (command, said)
        assert lines[0].startswith("corella-edge: "), (command, said)
    assert not (place / "never").exists()


def test_a_path_that_is_no_utf_8_works(door: Door, place: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(place) + b"/[a] b#?%41\xe9"))
    shutil.copytree(GOLDEN, folder / "bundle")
    commands: list[list[str | Path]] = [
        ["inspect", folder / "bundle"],
        ["score", folder / "bundle", place / "requests.jsonl", "--no-llm", "--out", folder / "answers"],
        ["catalog", "update", folder / "bundle", place / "items.jsonl", "--no-verify", "--out", folder / "new"],
        ["deploy", "init", folder / "site", folder / "new", "--no-verify"],
        ["deploy", "status", folder / "site"],
        ["keys", "add", folder / "keys.json", "--name", "x"],
        ["prepare", "synthetic", "--out", folder / "data"],
        ["score", folder / "new", folder / "data" / "requests.jsonl", "--no-llm", "--out", folder / "more"],
    ]
    for command, (code, said) in zip(commands, door.run([{"args": command} for command in commands]), strict=True):
        assert code == 0, (command, said)
    from corella_edge_export.data.prepared import PreparedData

    assert len(PreparedData.open(folder / "data").split("train").users)


def test_a_disk_that_takes_no_more_is_one_line(door: Door, place: Path) -> None:
    folder = place / "small"
    folder.mkdir()
    commands = [command for command in writers_to(folder, place) if command[0] != "serve"]
    cases = [{"args": command, "limits": {"RLIMIT_FSIZE": 0}} for command in commands]
    for command, (code, said) in zip(commands, door.run(cases), strict=True):
        assert (code, len(told(said))) == (2, 1), (command, said)
        assert "File too large" in said, command
    assert not [path for path in folder.rglob("*") if path.stat().st_size]


@pytest.mark.parametrize("limit", [4, 8, 12, 20])
def test_too_few_descriptors_are_no_traceback(light: Door, place: Path, limit: int) -> None:
    commands = [["inspect", GOLDEN], ["keys", "list", place / "keys.json"], ["deploy", "status", place / "site"]]
    cases = [{"args": args, "limits": {"RLIMIT_NOFILE": limit}} for args in commands]
    for args, (code, said) in zip(commands, light.run(cases), strict=True):
        assert code in EXIT_CODES, (args, said)
        assert len(told(said)) <= 1, (args, said)


def test_a_nul_character_is_told(door: Door) -> None:
    ((code, said),) = door.run([{"args": ["inspect", "a\0b"]}])
    assert (code, said) == (2, "corella-edge: 'a\\x00b': holds a NUL character\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param({"LC_ALL": "POSIX"}, marks=pytest.mark.slow),
    ],
)
def test_any_locale_prints_any_text(door: Door, place: Path, environment: dict[str, str]) -> None:
    bundle = place / "日本 é"
    if not bundle.exists():
        (place / "odd.jsonl").write_text('{"item": "日本", "title": "Amélie → 日本"}\n', "utf-8")
        args = ["catalog", "update", GOLDEN, place / "odd.jsonl", "--no-verify", "--out", bundle]
        assert door.run([{"args": args}])[0][0] == 0
    for args in (["inspect", bundle], ["inspect", f"{bundle}-none"], ["serve", "--help"]):
        command = [sys.executable, "-m", "corella_edge", *map(str, args)]
        done = subprocess.run(command, capture_output=True, env={**os.environ, **environment})
        assert done.returncode == (2 if "none" in str(args[1]) else 0), done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["<&- >&- 2>&-", "<&- >&-", ">&-", "2>&-", "<&-"])
def test_closed_streams_at_the_start_of_a_process(how: str) -> None:
    line = f'"{sys.executable}" -m corella_edge inspect "{GOLDEN}" {how}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode == (1 if ">&-" in how.replace("2>&-", "") else 0)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_every_exit_code_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CorellaError)]
    assert {kind.exit_code for kind in kinds} | {0} == set(EXIT_CODES)


def test_errors_of_the_system_are_one_line() -> None:
    missing = FileNotFoundError(2, "No such file or directory", "a\nb")
    assert as_line(missing) == ("a\\nb: No such file or directory", 1)
    assert as_line(OSError(24, "Too many open files")) == ("Too many open files; raise the limit (ulimit -n)", 1)
    assert as_line(OSError(18, "Invalid cross-device link", "a", None, "b")) == ("a: b: Invalid cross-device link", 1)
    assert as_line(ValueError("a bug")) is None


def test_the_exit_codes_stand_in_the_page_of_commands() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    told = " ".join(page.partition("Exit codes:")[2].split())
    for code, meaning in EXIT_CODES.items():
        assert f" {code} {meaning}" in f" {told}"


def test_all_commands_are_tried() -> None:
    tried = {command[0] for command in [*readers(Path(), Path()), *writers_to(Path(), Path())]}
    heavy = {"init", "data", "train", "export", "study", "report", "evaluate", "demo", "wheel", "recipe", "llm"}
    assert tried | heavy | {"doctor"} == set(COMMANDS)
