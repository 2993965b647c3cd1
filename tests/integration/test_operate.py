"""docs/operate.md as it stands: the service is set up and run, its keys are tried, Prometheus' files are checked."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import pytest

from bundles import make_bundle
from corella_edge.cli import cli
from pages import blocks, read, section
from sessions import ONE, Served, serving, start

PAGE = read("operate.md")
SERVICE = section(PAGE, "Run it as a service")
(SETUP,), (UNIT,) = blocks(SERVICE, "sh"), blocks(SERVICE, "ini")
PROMETHEUS, RULES = blocks(section(PAGE, "What to watch"), "yaml")
PROGRAM = "/opt/corella/bin/corella-edge"
FOLDERS = ("/opt/corella", "/etc/corella", "/var/lib/corella", "/etc/prometheus")
# What only root may do: the user is not made, and files keep the owner of the tests.
STAND_INS = {
    "useradd": 'test "$1" = --system && test "${@: -1}" = corella',
    "sudo": 'test "$1 $2" = "-u corella" && exec "${@:3}"',
    "install": 'test "$1 $2 $3 $4 $5" = "-d -o corella -g corella" && exec /usr/bin/install -d "${@:6}"',
}
RANK = {"user": {"id": "u1"}, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": "ratio:1"}
EVENTS = {"user_id": "u1", "events": [{"item": "i1", "rating": 5}]}


@dataclass(frozen=True)
class Box:
    """A box whose root is a folder of the tests."""

    root: Path
    keys: tuple[str, str]

    def here(self, text: str) -> str:
        """The same text with the box's own folders below its root."""
        for folder in FOLDERS:
            text = text.replace(folder, f"{self.root}{folder}")
        return text

    def setting(self, name: str) -> str:
        """A value of the unit file."""
        return self.here("\n".join(re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)))


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n", "utf-8")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Box:
    """After the page's commands: a site, and the keys of the shop and of Prometheus."""
    box = Box(tmp_path_factory.mktemp("box"), ("", ""))
    script(box.root / PROGRAM[1:], f'exec {sys.executable} -m corella_edge "$@"')
    make_bundle(box.root / "opt/corella/my-bundle")
    for name, text in STAND_INS.items():
        script(box.root / "stand-ins" / name, text)
    path = {"PATH": f"{box.root / 'stand-ins'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", box.here(SETUP)], env={**os.environ, **path}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shop, prometheus = re.findall(r"^ce_\S+$", done.stdout, re.MULTILINE)
    return Box(box.root, (shop, prometheus))


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def before(box: Box) -> dict[Path, int]:
    """The box's files before the service starts."""
    return files(box.root)


@pytest.fixture(scope="module")
def service(box: Box, before: dict[Path, int]) -> Iterator[Served]:
    """The unit's command with the unit's environment, on a free port."""
    environment = dict(pair.split("=", 1) for pair in box.setting("Environment").split())
    command = [*shlex.split(box.setting("ExecStart")), "--port", "0", *ONE]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    with serving(process) as served:
        yield served


def status(service: Served, key: str, method: str, path: str, body: object = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.request(method, service.url + path, json=body, headers=headers, timeout=60).status_code


def test_the_keys_open_what_the_page_says(box: Box, service: Served) -> None:
    shop, prometheus = box.keys
    rank, events, metrics = ("POST", "/v1/rank", RANK), ("POST", "/v1/events", EVENTS), ("GET", "/metrics")
    assert [status(service, shop, *call) for call in (rank, events, metrics)] == [200, 200, 403]
    assert [status(service, prometheus, *call) for call in (rank, events, metrics)] == [403, 403, 200]
    assert [status(service, "", *call) for call in (rank, events, metrics)] == [401, 401, 401]


def test_the_service_reloads_stops_and_writes_only_where_the_unit_lets_it(
    box: Box, before: dict[Path, int], service: Served
) -> None:
    assert status(service, box.keys[0], "POST", "/v1/events", EVENTS) == 200
    assert box.setting("ExecReload") == "/bin/kill -HUP $MAINPID"
    service.process.send_signal(signal.SIGHUP)
    assert status(service, box.keys[0], "POST", "/v1/rank", RANK) == 200
    service.process.send_signal(signal.SIGTERM)
    assert service.end() == 0, service.errors
    changed = [path for path, time in files(box.root).items() if before.get(path) != time]
    allowed = Path(box.setting("ReadWritePaths"))
    assert (allowed / "users.db") in changed
    assert [path for path in changed if not path.is_relative_to(allowed)] == []
    assert any(path.is_relative_to(allowed / "state") for path in changed)


def test_the_unit_waits_longer_than_the_server_and_does_not_repeat_what_can_not_mend() -> None:
    serve = cli.get_command(click.Context(cli), "serve")
    assert serve is not None
    (grace,) = (option.default for option in serve.params if option.name == "grace")
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0]) > grace
    assert "RestartPreventExitStatus=2 3 5" in UNIT


def test_the_unit_file_is_one(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "corella-edge.service"
    path.write_text(UNIT.replace(PROGRAM, "/bin/true"), "utf-8")
    done = subprocess.run([analyze, "verify", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_container_serves_what_the_box_installs() -> None:
    (dockerfile,) = blocks(SERVICE, "dockerfile")
    on_the_box = blocks(section(PAGE, "Install"), "bash")[0]
    assert re.findall(r"'corella-edge\[.*?\]'", dockerfile) == re.findall(r"'corella-edge\[.*?\]'", on_the_box)
    entry, command = (json.loads(found) for found in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", dockerfile, re.MULTILINE))
    assert entry == [PROGRAM, "serve"]
    serve = cli.get_command(click.Context(cli), "serve")
    assert serve is not None
    assert str(serve.make_context("serve", list(command)).params["keys"]) == "/run/secrets/corella-keys"


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    return found


def test_prometheus_takes_its_files(box: Box, tmp_path: Path) -> None:
    key = tmp_path / "corella-edge.key"
    key.write_text(box.keys[1], "utf-8")
    (tmp_path / "corella-edge.rules.yml").write_text(RULES, "utf-8")
    config = tmp_path / "prometheus.yml"
    config.write_text(PROMETHEUS.replace("/etc/prometheus/corella-edge.key", str(key)), "utf-8")
    done = subprocess.run([promtool(), "check", "config", config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 rules found" in done.stdout


def test_the_alert_rules_name_metrics_that_there_are(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with serving(start("serve", bundle, "--port", 0, "--store", tmp_path / "users.db", *ONE)) as served:
        text = httpx.get(f"{served.url}/metrics").text
    names = set(re.findall(r"corella_edge_\w+", RULES))
    assert len(names) >= 6
    for name in names:
        assert f"# TYPE {name} " in text, name


def test_an_alert_goes_off_when_it_should(tmp_path: Path) -> None:
    """The rules as Prometheus evaluates them: an open breaker, a lost store, an LLM that is too small."""
    candidates = {"easy": "0+100x30", "llm": "0+10x30", "busy": "0+10x30"}
    series = {
        'corella_edge_llm_breaker_open{bundle="a@1"}': "1x30",
        "corella_edge_store_lost": "1x30",
        "corella_edge_version_refused": "0x30",
        'corella_edge_routed_share{bundle="a@1",window="fast"}': "0.2x30",
        'corella_edge_routed_share{bundle="a@1",window="slow"}': "0.1x30",
        'corella_edge_measure_psi{bundle="a@1"}': "0.2x30",
        'corella_edge_unknown_share{bundle="a@1",field="item"}': "0.4x30",
        'corella_edge_llm_minus_base{bundle="a@1"}': "-0.3x40",
        'corella_edge_held_share{bundle="a@1"}': "0.1x40",
        'corella_edge_target_share{bundle="a@1"}': "0.11x40",
        'corella_edge_held_llm_seconds{bundle="a@1"}': "0.09x40",
        'corella_edge_target_llm_seconds{bundle="a@1"}': "0.06x40",
    }
    for name, values in candidates.items():
        series[f'corella_edge_candidates_total{{bundle="a@1",outcome="{name}"}}'] = values
    expected = {"LlmOut": 1, "StoreLost": 1, "LlmTooSmallForItsTraffic": 1, "VersionRefused": 0, "FaultOfTheServer": 0}
    labels = {"RoutedShareMoves": {"bundle": "a@1"}}
    expected |= {"RoutedShareMoves": 1, "TrafficUnlikeTheCalibration": 0, "ItemsUnknownToTheCrm": 1}
    (tmp_path / "corella-edge.rules.yml").write_text(RULES, "utf-8")
    test = {
        "rule_files": ["corella-edge.rules.yml"],
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {"eval_time": "25m", "alertname": name, "exp_alerts": [{"exp_labels": labels.get(name, {})}] * count}
                for name, count in expected.items()
            ] + [
                {"eval_time": "35m", "alertname": name, "exp_alerts": [{"exp_labels": {}}]}
                for name in ("LlmLeavesTheBaseModel", "TargetNotHeld")
            ],
        }],
    }  # fmt: skip
    path = tmp_path / "test.yml"
    path.write_text(json.dumps(test), "utf-8")  # YAML, too
    done = subprocess.run([promtool(), "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
