"""`corella-edge deploy`: every step by the command line, without a server and with one that says what it does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles import make_bundle
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.layout import RunningVersion, Serving, VersionRefusal
from fake_versions import toy_bundle

WAIT = 20.0


@pytest.fixture
def toys(tmp_path: Path) -> list[Path]:
    return [toy_bundle(tmp_path / f"b{i}", str(i)) for i in range(3)]


@pytest.fixture
def site(tmp_path: Path, toys: list[Path]) -> Path:
    sites.create(tmp_path / "site", toys[0])
    return tmp_path / "site"


class Deploy:
    """The command, its steps without verification: toy bundles have no models."""

    def __init__(self, corella: Any, site: Path) -> None:
        self.corella, self.site = corella, site

    def __call__(self, step: str, *args: object) -> Any:
        quiet = ["--no-verify"] if step in ("init", "add", "push") else []
        return self.corella("deploy", step, self.site, *args, *quiet)

    def fine(self, step: str, *args: object) -> str:
        done = self(step, *args)
        assert done.code == 0, done
        return str(done.out)

    def refusal(self, step: str, *args: object, code: int = 2) -> str:
        done = self(step, *args)
        assert (done.code, done.err.count("\n")) == (code, 1), done
        return str(done.err)


@pytest.fixture
def deploy(corella: Any, site: Path) -> Deploy:
    return Deploy(corella, site)


class Server:
    """Holds a site's lock and answers every new deployment as `answer` says, in a thread."""

    def __init__(self, site: Path, answer: Callable[[Any], Serving | None]) -> None:
        self.site, self.answer = site, answer
        self.lock, self.stop = sites.server_lock(site), threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        seen = 0
        while not self.stop.wait(0.01):
            wanted = sites.read(self.site)
            if wanted.serial != seen and (state := self.answer(wanted)):
                seen = wanted.serial
                sites.write_serving(self.site, state)

    def end(self) -> None:
        self.stop.set()
        if threading.current_thread() is not self.thread:
            self.thread.join(WAIT)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


@pytest.fixture
def server(site: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(answer: Callable[[Any], Serving | None]) -> Server:
        started.append(Server(site, answer))
        return started[-1]

    yield start
    for one in started:
        one.end()


def willing(wanted: Any) -> Serving:
    return Serving(1, wanted.serial, RunningVersion(wanted.live, "toy", "2024-01-01"))


def test_from_init_to_remove_without_a_server(corella: Any, tmp_path: Path, toys: list[Path]) -> None:
    deploy = Deploy(corella, tmp_path / "new" / "site")
    ids = [sites.version_id(bundle) for bundle in toys]
    assert deploy.fine("init", toys[0]) == f"{deploy.site}: {ids[0]} is live\n"
    assert deploy.fine("add", toys[1]) == f"{deploy.site}: {ids[1]} is added\n"
    assert deploy.fine("add", toys[1]) == f"{deploy.site}: {ids[1]} was there already\n"
    assert sites.read(deploy.site).live == ids[0]
    done = deploy("use", "1+")
    assert (done.code, done.out) == (0, f"{deploy.site}: {ids[1]} is live\n")
    assert "no server runs" in done.err
    assert ids[2] in deploy.fine("push", toys[2], "--no-wait")
    assert sites.read(deploy.site).previous == ids[1]
    assert deploy.fine("rollback") == f"{deploy.site}: {ids[1]} is live\n"
    assert deploy.fine("canary", "2+", "--share", "0.25").endswith(f"{ids[2]} for 0.25 of the users\n")
    assert deploy.fine("canary", "--stop") == f"{deploy.site}: {ids[1]} is live\n"
    assert deploy.fine("push", toys[2], "--canary", "0.5").endswith(f"{ids[2]} for 0.5 of the users\n")
    assert deploy.fine("canary", "--stop") == f"{deploy.site}: {ids[1]} is live\n"
    assert deploy.fine("remove", ids[0][:8]) == f"{deploy.site}: {ids[0]} is removed\n"
    assert sites.versions(deploy.site) == ids[1:]


def test_the_status_is_text_or_json(deploy: Deploy, toys: list[Path], server: Any, site: Path) -> None:
    ids = [sites.read(site).live, sites.add(site, toys[1])[0]]
    lines = deploy.fine("status").splitlines()
    assert [line.split()[0] for line in lines[:2]] == ids
    assert (lines[0].endswith("live"), lines[1].endswith("MiB"), lines[2]) == (True, True, "no server runs here")
    refused = VersionRefusal(ids[1], 1, "2024-01-02", "crm.onnx: missing")
    server(lambda wanted: Serving(7, wanted.serial, RunningVersion(ids[0], "toy", "2024-01-01"), None, refused))
    sites.change(site, lambda now: now)
    deploy.fine("canary", ids[1], "--no-wait")
    text = deploy.fine("status")
    assert "canary (0.1 of the users)" in text
    while "server 7" not in text:
        text = deploy.fine("status")
    assert f"server 7: live {ids[0]} since 2024-01-01" in text
    assert f"refused {ids[1]} at 2024-01-02: crm.onnx: missing" in text
    found = json.loads(deploy.fine("status", "--json"))
    assert found["server"]["refused"]["reason"] == "crm.onnx: missing"
    assert found["canary"] == {"version": ids[1], "share": 0.1}


def test_a_server_that_takes_it_up_is_waited_for(deploy: Deploy, toys: list[Path], server: Any) -> None:
    server(willing)
    done = deploy("push", toys[1])
    assert (done.code, done.err) == (0, "")
    assert sites.outcome(sites.read_serving(deploy.site), sites.read(deploy.site)) == "serving"


def test_what_the_server_refuses_is_taken_back_and_told(
    deploy: Deploy, toys: list[Path], server: Any, site: Path
) -> None:
    live = sites.read(site).live
    bad = sites.version_id(toys[1])

    def unwilling(wanted: Any) -> Serving:
        refused = (
            VersionRefusal(bad, wanted.serial, "2024-01-01", "llm.gguf: no memory") if wanted.live == bad else None
        )
        return Serving(1, wanted.serial, RunningVersion(live, "toy@0", "2024-01-01"), None, refused)

    server(unwilling)
    line = deploy.refusal("push", toys[1], code=3)
    assert line == f"corella-edge: {site}: the server refuses {bad}: llm.gguf: no memory; all is as before\n"
    now = sites.read(site)
    assert (now.live, now.previous, now.serial) == (live, None, 3)


def test_a_server_that_ends_or_says_nothing_is_told(deploy: Deploy, toys: list[Path], server: Any, site: Path) -> None:
    mute = server(lambda wanted: None)
    assert "has not taken this up after 0.3 s" in deploy.refusal("push", toys[1], "--timeout", "0.3", code=1)
    threading.Timer(0.3, mute.end).start()
    assert "the server ended before it took this up" in deploy.refusal("rollback", code=1)
    assert sites.read(site).serial == 3


def test_a_later_deploy_of_somebody_else_is_told(deploy: Deploy, toys: list[Path], server: Any) -> None:
    server(lambda wanted: Serving(1, 9, RunningVersion(wanted.live, "toy", "")) if wanted.serial > 1 else None)
    done = deploy("push", toys[1])
    assert done.code == 0
    assert "somebody has deployed" in done.err


def test_mistakes_are_one_line_and_change_nothing(deploy: Deploy, toys: list[Path], site: Path, tmp_path: Path) -> None:
    before = (site / "deployment.json").read_bytes()
    (toys[1] / "crm.onnx").write_bytes(b"?????")
    assert "b1: crm.onnx: its contents differ" in deploy.refusal("push", toys[1], code=3)
    assert "not a bundle" in deploy.refusal("add", tmp_path, code=3)
    assert "no version here" in deploy.refusal("use", "nothing")
    assert "nothing to roll back to" in deploy.refusal("rollback")
    assert "--share 1" in deploy.refusal("canary", sites.add(site, toys[2])[0], "--share", "1")
    assert "is live already" in deploy.refusal("canary", "0+")
    assert "is the live version" in deploy.refusal("remove", "0+")
    assert "is a site already; `deploy push` adds to it" in deploy.refusal("init", toys[0])
    for args in ((), ("2+", "--stop")):
        assert "one of the two" in deploy("canary", *args).err
    deploy.site = tmp_path / "nowhere"
    for step, *args in (
        ("add", toys[0]),
        ("use", "x"),
        ("rollback",),
        ("remove", "x"),
        ("status",),
        ("canary", "--stop"),
    ):
        assert "not a site" in deploy.refusal(step, *args)
    assert (site / "deployment.json").read_bytes() == before


def test_two_versions_of_one_name_are_told(deploy: Deploy, tmp_path: Path) -> None:
    done = deploy("add", toy_bundle(tmp_path / "again", "0", model=b"other"))
    assert done.code == 0
    assert "has the same name and version" in done.err


def test_reference_rows_are_repeated_before_a_version_is_taken_in(
    corella: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corella_edge_runtime import reference

    good = make_bundle(tmp_path / "good")
    site = tmp_path / "site"
    assert corella("deploy", "init", site, good).code == 0
    other = make_bundle(tmp_path / "other", version="2", seed=1)
    monkeypatch.setattr(reference, "tolerance", lambda _: reference.Tolerance(-1.0, 1.0))
    done = corella("deploy", "push", site, other)
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "tiny@2: differs from the trained models" in done.err
    assert len(sites.versions(site)) == 1
    assert corella("deploy", "push", site, other, "--no-verify").code == 0
