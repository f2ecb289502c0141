"""The number of jobs and the memory guard on made-up machines: under 1 s."""

import os
from dataclasses import dataclass

import pytest

from kernelpkg.build.jobs import (
    GB,
    allowed_cores,
    available_memory,
    device_memory_guard,
    job_limit,
)
from kernelpkg.errors import MachineUnfit


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Builds made-up /proc and /sys/fs/cgroup folders; returns the arguments for the functions."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))

    def make(available_gb: float, cgroup: str = "", files: dict[str, str] | None = None):
        proc, group = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        group.mkdir()
        (proc / "meminfo").write_text(
            f"MemTotal: 999999999 kB\nMemFree: 1 kB\nMemAvailable: {int(available_gb * GB) // 1024} kB\n"
        )
        (proc / "self" / "cgroup").write_text(cgroup)
        for name, text in (files or {}).items():
            (group / name).parent.mkdir(parents=True, exist_ok=True)
            (group / name).write_text(text)
        return proc, group

    return make


@pytest.mark.parametrize(
    ("available", "jobs"), [(200, 16), (24.5, 4), (20.1, 3), (16.1, 2), (15.9, 1), (12.0, 1), (9, 1), (2, 1)]
)
def test_formula(tree, available, jobs):
    assert job_limit(*tree(available)).jobs == jobs


def test_reason_says_what_binds(tree):
    limit = job_limit(*tree(24.5))
    assert limit.reason.startswith("4 job(s): 24.5 GB available (MemAvailable), less 8 GB")
    assert (limit.cores, round(limit.available_bytes / GB, 1)) == (16, 24.5)


def test_reason_when_cores_bind(tree):
    assert "16 core(s) allowed by the CPU affinity" in job_limit(*tree(500)).reason


def test_reason_when_one_must_run(tree):
    assert "one must run" in job_limit(*tree(5)).reason


def test_cgroup_v2_limit_less_use_with_cache_given_back(tree):
    places = tree(
        200,
        "0::/box\n",
        {
            "box/memory.max": f"{20 * GB}\n",
            "box/memory.current": f"{9 * GB}\n",
            "box/memory.stat": f"anon 1\ninactive_file {5 * GB}\n",
        },
    )
    available, why = available_memory(*places)
    assert available == 16 * GB
    assert "cgroup" in why
    assert job_limit(*places).jobs == 2


def test_a_limit_above_the_own_cgroup_binds_too(tree):
    places = tree(
        200,
        "0::/a/b\n",
        {
            "a/memory.max": f"{13 * GB}",
            "a/memory.current": "0",
            "a/b/memory.max": "max",
            "a/b/cpu.max": "max 1",
        },
    )
    assert available_memory(*places)[0] == 13 * GB


def test_cgroup_v1(tree):
    places = tree(
        200,
        "4:memory:/x\n2:cpu,cpuacct:/y\n",
        {
            "memory/x/memory.limit_in_bytes": f"{30 * GB}",
            "memory/x/memory.usage_in_bytes": f"{10 * GB}",
            "memory/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {2 * GB}\n",
            "memory/memory.limit_in_bytes": "9223372036854771712",
            "cpu,cpuacct/y/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/y/cpu.cfs_period_us": "100000",
        },
    )
    assert available_memory(*places)[0] == 22 * GB
    assert allowed_cores(*places) == (2, "2 core(s) allowed by the cgroup's quota of 2.5")


def test_cgroup_path_that_only_the_host_sees(tree):
    places = tree(200, "0::/docker/abc\n", {"memory.max": f"{12 * GB}", "memory.current": "0"})
    assert available_memory(*places)[0] == 12 * GB


def test_cgroup_v2_cpu_quota(tree):
    assert allowed_cores(*tree(200, "0::/\n", {"cpu.max": "50000 100000"}))[0] == 1


def test_this_machine_answers():
    limit = job_limit()
    assert 1 <= limit.jobs <= (os.cpu_count() or 1)
    assert limit.reason


@dataclass
class FakeDevice:
    name: str = "NVIDIA GB10"
    integrated: bool | None = True


def test_guard_refuses_what_would_leave_under_8_gb():
    with pytest.raises(
        MachineUnfit, match=r"GB10 .* 10\.0 GB are needed and 17\.0 GB .* leave 7\.0 GB"
    ) as caught:
        device_memory_guard(FakeDevice(), 10 * GB, available_bytes=17 * GB)
    assert caught.value.exit_code == 4


def test_guard_lets_pass():
    device_memory_guard(FakeDevice(), 10 * GB, available_bytes=18 * GB)
    device_memory_guard(FakeDevice("H200", False), 10 * GB, available_bytes=1)
    device_memory_guard(FakeDevice("unknown", None), 10 * GB, available_bytes=1)
