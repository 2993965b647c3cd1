"""What is known of a machine, and what is said where it is not known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from corella_edge_runtime import box
from corella_edge_runtime.bench.measure import energy, machine, provenance
from corella_edge_runtime.bench.results.circumstances import Noise


def zone(root: Path, name: str, microjoules: int, most: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most - 1}\n")
    return folder


def test_energy_is_that_of_all_packages_and_survives_the_end_of_a_counter(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 900_000)
    zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of package 0
    found = energy.find(tmp_path)
    assert found.why == ""
    before = found.read()
    zone(tmp_path, "intel-rapl:0", 100_000)
    zone(tmp_path, "intel-rapl:1", 500_100)
    assert found.joules(before, found.read()) == pytest.approx(0.7)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert found.read() is None
    assert found.joules(before, found.read()) is None


def test_where_energy_cannot_be_read_it_is_said_why(tmp_path: Path) -> None:
    none = energy.find(tmp_path)
    assert "no RAPL counters" in none.why
    assert none.joules(none.read(), none.read()) is None
    folder = zone(tmp_path, "intel-rapl:0", 1)
    (folder / "energy_uj").unlink()
    assert "cannot be read: No such file" in energy.find(tmp_path).why
    (folder / "energy_uj").write_text("much")
    assert "cannot be read" in energy.find(tmp_path).why


def test_limits_and_clock_of_a_machine_that_tells_and_of_one_that_does_not(tmp_path: Path) -> None:
    assert machine.governor(tmp_path) is None
    assert box.memory_limit(tmp_path) is None
    core = min(os.sched_getaffinity(0))
    clock = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"
    clock.parent.mkdir(parents=True)
    clock.write_text("powersave\n")
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    (group / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert machine.governor(tmp_path) == "powersave"
    assert box.memory_limit(tmp_path) is None
    (group / "memory.max").write_text("max\n")
    assert box.memory_limit(tmp_path) is None
    (group / "memory.max").write_text("4096\n")
    assert box.memory_limit(tmp_path) == 4096


def test_memory_and_time_of_descendants_are_our_own(tmp_path: Path) -> None:
    assert machine.peak_memory(tmp_path) is None
    code = "x = bytearray(60 * 2**20); sum(range(3_000_000)); print('there', flush=True); input()"
    before, alone = machine.peak_memory(), machine.ticks(whole=True)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        assert child.pid in machine.descendants(os.getpid())
        assert machine.peak_memory() > before + 50 * 2**20
        alive = machine.ticks(whole=True).own
        child.communicate(b"\n")
    assert alone.own < alive <= machine.ticks(whole=True).own + 0.02
    assert machine.descendants(2**22) == []


def test_the_verdict_names_who_was_there() -> None:
    calm = provenance.quiet(Noise(foreign=0.01), Noise(foreign=None, steal=0.05))
    assert (calm.noisy, calm.reasons) == (False, ())
    found = provenance.quiet(Noise(foreign=0.2), Noise(foreign=0.0, steal=0.3))
    assert found.noisy
    assert found.reasons == (
        "other processes took 20% of the cores' time before the run",
        "other virtual machines (steal) took 30% of the cores' time during the run",
    )


def test_a_parity_gate_names_its_first_problems() -> None:
    assert provenance.judged(64, []).passed
    found = provenance.judged(64, [f"row {i}" for i in range(5)])
    assert found.passed is False
    assert found.why == "row 0; row 1; row 2 (and 2 more)"


def test_this_machine_is_named_without_host_or_path() -> None:
    told = repr(provenance.machine_here())
    assert "cores=" in told
    assert os.uname().nodename not in told
    assert str(Path.home()) not in told
