"""docs/data.md, "Ten rows to a ranking": its blocks as they stand, in an empty folder, and what they print."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pages import BLOCK, read, section
from sessions import call, serving, start, succeed

BLOCKS: list[tuple[str, str]] = BLOCK.findall(section(read("data.md"), "Ten rows to a ranking"))


def plain(text: str) -> str:
    """Without what depends on the machine: seconds, sizes, decimals of figures."""
    return re.sub(r"\d+\.\d+(?!\d*%)", "#", text).rstrip()


def absent(shown: str, *printed: str) -> Iterator[str]:
    """The lines shown that stand in neither stream, each read once from its top. `…` stands for any lines."""
    streams = [[plain(line) for line in text.splitlines()] for text in printed]
    for line in filter(None, map(plain, shown.replace("…", "").splitlines())):
        found = next((stream for stream in streams if line in stream), None)
        if found is None:
            yield line
        else:
            del found[: found.index(line) + 1]


def test_the_page_from_ten_rows_to_a_ranking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    commands, out, err = [], "", ""
    for language, text in BLOCKS[:-2]:
        if language == "csv":
            Path("ten.csv").write_text(text, "utf-8")
        elif language == "bash":
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "corella-edge"
                commands.append(arguments[0])
                done = succeed(*arguments)
                out, err = out + done.out, err + done.err
        else:
            streams = [Path("data.toml").read_text("utf-8")] if language == "toml" else [out, err]
            assert list(absent(text, *streams)) == []
    assert commands == ["init", "prepare", "prepare", "train", "export"]
    serve_and_ask(*BLOCKS[-2:])


def serve_and_ask(session: tuple[str, str], answer: tuple[str, str]) -> None:
    """The last two blocks: the server and a request; the items of the answer, in the order of their ranks."""
    (asked, lines), (kind, shown) = session, answer
    assert (asked, kind) == ("bash", "json")
    serve, request = lines.splitlines()
    with serving(start(*shlex.split(serve)[1:], "--port", "0")) as served:
        found = call(request, served.url)
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.errors
    expected = json.loads(shown)
    assert found["bundle"] == expected["bundle"]
    # Five rows decide no order between two items: a CPU's rounding does.
    assert {row["item"] for row in found["candidates"]} == {row["item"] for row in expected["candidates"]}
    assert [row["rank"] for row in found["candidates"]] == [row["rank"] for row in expected["candidates"]]
    assert set(expected["candidates"][0]) < set(found["candidates"][0])
