"""The thread planner's invariants, and its readers on made-up /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_runtime.machine.threads import (
    Machine,
    choices,
    llm_alone,
    llm_default,
    plan_threads,
    read_machine,
    read_physical,
    read_quota,
)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any cores, one to four logical CPUs a physical core, any quota."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    ids = iter(draw(st.permutations(range(sum(sizes)))))
    groups = tuple(tuple(sorted(next(ids) for _ in range(size))) for size in sizes)
    return Machine(groups, draw(st.none() | st.floats(0.05, 60.0)))


wishes = st.none() | st.integers(1, 50)


def one_each(count: int, quota: float | None = None) -> Machine:
    return Machine(tuple((core,) for core in range(count)), quota)


def pairs(count: int, quota: float | None = None) -> Machine:
    return Machine(tuple((core, core + count) for core in range(count)), quota)


@given(machines(), wishes, wishes)
def test_a_plan_keeps_to_what_the_machine_has(machine: Machine, crm: int | None, llm: int | None) -> None:
    possible = (crm or 1) + (llm or 1) <= max(2, machine.limit)
    if not possible:
        with pytest.raises(InputError, match=r"ask for fewer"):
            plan_threads(machine, crm, llm)
        return
    plan = plan_threads(machine, crm, llm)
    cores = set(machine.cores)
    assert set(plan.crm_cores) <= cores
    assert set(plan.llm_cores) <= cores
    assert (plan.crm_threads, plan.llm_threads) == (crm or plan.crm_threads, llm or plan.llm_threads)
    assert 1 <= plan.crm_threads <= len(plan.crm_cores)
    assert 1 <= plan.llm_threads <= len(plan.llm_cores)
    enough = len(cores) >= 2 and (machine.quota is None or machine.quota >= 2)
    assert plan.shared != enough
    if enough:
        assert plan.crm_threads + plan.llm_threads <= len(cores)
        assert plan.crm_threads + plan.llm_threads <= (machine.quota or len(cores))
    else:
        assert (plan.crm_threads, plan.llm_threads) == (1, 1)
    assert all(plan.reasons)


@given(machines())
def test_the_default_cuts_no_physical_core_where_there_are_two(machine: Machine) -> None:
    plan = plan_threads(machine)
    halves = [
        group for group in machine.physical if set(group) & set(plan.crm_cores) and set(group) & set(plan.llm_cores)
    ]
    assert not halves or plan.shared or len(machine.physical) == 1
    assert plan.llm_threads <= max(1, len(machine.physical) - 1)


@given(machines())
def test_choices_are_plans_and_the_default_is_first(machine: Machine) -> None:
    found = choices(machine)
    assert found[0].llm_threads == plan_threads(machine).llm_threads
    assert len({plan.llm_threads for plan in found}) == len(found)


@pytest.mark.parametrize(
    ("machine", "crm", "llm"),
    [
        (one_each(2), (1, (0,)), (1, (1,))),
        (one_each(4), (1, (0,)), (3, (1, 2, 3))),
        (pairs(2), (1, (0, 2)), (1, (1, 3))),
        (pairs(1), (1, (0,)), (1, (1,))),
        (one_each(1), (1, (0,)), (1, (0,))),
        (one_each(8, 1.5), (1, tuple(range(8))), (1, tuple(range(8)))),
        (one_each(8, 3.7), (1, (0, 1, 2)), (2, (3, 4, 5, 6, 7))),
        (one_each(2, 8.0), (1, (0,)), (1, (1,))),
    ],
)
def test_known_machines(machine: Machine, crm: tuple, llm: tuple) -> None:
    plan = plan_threads(machine)
    assert (plan.crm_threads, plan.crm_cores) == crm
    assert (plan.llm_threads, plan.llm_cores) == llm


def test_wishes_that_need_half_a_physical_core_are_granted_and_told() -> None:
    plan = plan_threads(pairs(2), 1, 3)
    assert (plan.crm_cores, plan.llm_cores) == ((0,), (1, 2, 3))
    assert any("share a physical core" in reason for reason in plan.reasons)


@pytest.mark.parametrize(
    ("crm", "llm", "message"),
    [
        (0, None, "CRM: 0 is below 1"),
        (None, -1, "LLM: -1 is below 1"),
        (2, 3, r"2 .* 3 .* 4 .* 8 core.* quota of 4"),
        (9, None, "CRM: 9 is above 8, the CPUs"),
        (None, 5000, "LLM: 5000 is above 8, the CPUs"),
    ],
)
def test_impossible_wishes_are_named(crm: int | None, llm: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_threads(one_each(8, 4.0), crm, llm)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "31 25 0:27 {top} /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "20 1 8:1 / / rw - ext4 /dev/vda1 rw\n32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    write(tmp_path, {
        "proc/self/mountinfo": OTHER + V2,
        "proc/self/cgroup": "0::/box/inner\n",
        "sys/fs/cgroup/box/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/box/inner/cpu.max": "max 100000\n",
    })  # fmt: skip
    assert read_quota(tmp_path) == 1.5
    (tmp_path / "sys/fs/cgroup/box/inner/cpu.max").write_text("25000 50000\n")
    assert read_quota(tmp_path) == 0.5


@pytest.mark.parametrize(("top", "group"), [("/", "docker/9"), ("/docker/9", "")])
def test_version_1_seen_from_outside_and_from_inside(tmp_path: Path, top: str, group: str) -> None:
    folder = Path("sys/fs/cgroup/cpu") / group
    write(tmp_path, {
        "proc/self/mountinfo": OTHER + V1.format(top=top),
        "proc/self/cgroup": "9:memory:/else\n4:cpu,cpuacct:/docker/9\n",
        f"{folder}/cpu.cfs_quota_us": "300000\n",
        f"{folder}/cpu.cfs_period_us": "100000\n",
    })  # fmt: skip
    assert read_quota(tmp_path) == 3.0
    (tmp_path / folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert read_quota(tmp_path) is None


@settings(max_examples=30)
@given(st.text(), st.text(), st.text())
def test_no_contents_stop_the_reading(tmp_path_factory: pytest.TempPathFactory, a: str, b: str, c: str) -> None:
    root = tmp_path_factory.mktemp("odd")
    names = ("proc/self/mountinfo", "proc/self/cgroup", "sys/fs/cgroup/cpu.max")
    for name, text in zip(names, (V2 + a, f"0::/\n{b}", c), strict=True):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "replace"))
    assert read_quota(root) is None or read_quota(root) >= 0


def test_siblings_are_grouped_and_missing_topology_means_whole_cores(tmp_path: Path) -> None:
    topology = "sys/devices/system/cpu/cpu{}/topology"
    write(tmp_path, {
        topology.format(0) + "/core_cpus_list": "0,4-5\n",
        topology.format(4) + "/thread_siblings_list": "0,4-5\n",
        topology.format(1) + "/core_cpus_list": "nonsense\n",
    })  # fmt: skip
    assert read_physical(tmp_path, [0, 1, 2, 4]) == ((0, 4), (1,), (2,))


def test_this_machine() -> None:
    machine = read_machine()
    assert set(machine.cores) == os.sched_getaffinity(0)
    assert 1 <= llm_default() <= len(machine.cores)
    assert llm_default() <= llm_alone() <= machine.limit
    assert read_machine(cores=[0]).cores == (0,)
