"""Limits as the kernel writes them, in folders laid out as containers and batch systems have them."""

import os

import pytest
import torch

from distillkit import control_groups, environment
from distillkit.control_groups import MemoryLimit, core_limit, memory_limits


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes what ``/proc/self/cgroup`` and files below ``/sys/fs/cgroup`` say."""
    root, own = tmp_path / "sys" / "fs" / "cgroup", tmp_path / "own"
    monkeypatch.setattr(control_groups, "ROOT", root)
    monkeypatch.setattr(control_groups, "OWN_GROUPS", own)

    def fill(groups, files):
        own.write_text(groups)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return fill


def test_no_control_groups__no_limit(machine):
    assert (core_limit(), memory_limits()) == (None, [])


def test_container_of_version_2__sees_its_limits_at_the_top(machine):
    stat = "anon 600\nfile 500\ninactive_file 200\nactive_file 80\nslab_reclaimable 20\nworkingset\n"
    files = {"cpu.max": "250000 100000\n", "memory.max": "4096\n", "memory.current": "1200\n", "memory.stat": stat}
    machine("0::/\n", files)
    assert core_limit() == 2.5
    assert memory_limits() == [MemoryLimit(4096, 900)]


def test_no_limit_of_version_2__is_the_word_max(machine):
    machine("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.current": "1200\n"})
    assert (core_limit(), memory_limits()) == (None, [])


def test_groups_around_the_own_one__limit_as_well(machine):
    """A batch job: the step has no limit, the job around it has."""
    files = {
        "slurm/job_7/step_0/cpu.max": "max 100000\n",
        "slurm/job_7/cpu.max": "400000 100000\n",
        "slurm/cpu.max": "6400000 100000\n",
        "slurm/job_7/step_0/memory.max": "8192\n",
        "slurm/job_7/memory.max": "4096\n",
        "slurm/job_8/memory.max": "1\n",
    }
    machine("0::/slurm/job_7/step_0\n", files)
    assert core_limit() == 4
    assert [one.limit for one in memory_limits()] == [8192, 4096]


def test_version_1__has_a_folder_a_controller(machine):
    files = {
        "cpu/docker/abc/cpu.cfs_quota_us": "150000\n",
        "cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/docker/abc/memory.limit_in_bytes": "4096\n",
        "memory/docker/abc/memory.usage_in_bytes": "1200\n",
        "memory/docker/abc/memory.stat": "inactive_file 5\ntotal_inactive_file 150\ntotal_active_file 50\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    machine("4:memory:/docker/abc\n3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n", files)
    assert core_limit() == 1.5
    assert memory_limits() == [MemoryLimit(4096, 1000)]


def test_own_group_that_is_not_mounted__the_mounted_one_counts(machine):
    """A container of version 1 without a namespace of its own: the path is the host's, the mount the container's."""
    machine("2:cpu:/docker/abc\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"})
    assert core_limit() == 0.5


def test_both_versions_at_once__the_second_is_mounted_beside(machine):
    machine("1:name=systemd:/a\n0::/a\n", {"unified/a/cpu.max": "300000 100000\n", "unified/a/memory.high": "4096\n"})
    assert core_limit() == 3
    assert memory_limits() == [MemoryLimit(4096, 0)]


def test_controllers_that_are_mounted_together__under_both_names(machine):
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}
    machine("2:cpu,cpuacct:/a\n", files)
    assert core_limit() == 1.5


@pytest.mark.parametrize("text", ["", "nonsense", "max", "100000", "0 0", "-1 100000", "\0\xff"])
def test_words_that_are_no_limit__limit_nothing(machine, text):
    memory = {"memory.max": text.replace("100000", "many"), "memory.high": "0", "memory.stat": text}
    machine("0::/\n", {"cpu.max": text, **memory})
    assert (core_limit(), memory_limits()) == (None, [])


@pytest.mark.parametrize("text", ["", "0", "0:", "x\n0::/../..\n", "\0"])
def test_list_of_groups_that_is_none__limits_nothing(machine, text):
    machine(text, {"../../cpu.max": "1 1", "../cpu.max": "1 1"})  # nothing above the mount is looked at
    assert core_limit() is None


@pytest.mark.parametrize(("share", "cores"), [(None, 8), (0.5, 1), (2.5, 2), (4.0, 4), (64.0, 8)])
def test_usable_cores__are_those_whose_time_may_be_used(monkeypatch, share, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(environment, "core_limit", lambda: share)
    assert environment.usable_cores() == cores


def test_threads__are_no_more_than_the_share_pays_for(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(environment, "usable_cores", lambda: 2)
    try:
        with environment.usable_threads():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
