"""What is known of memory where the system says little."""

import sys

import pytest
import torch

from distillkit import memory
from distillkit.control_groups import MemoryLimit
from distillkit.errors import ConfigError
from distillkit.networks.build import check_memory
from distillkit.settings import NetworkSettings


def test_system_without_the_module_resource__says_nothing_of_it(monkeypatch):
    cpu = torch.device("cpu")
    assert memory.peak_bytes(cpu) > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert memory.peak_bytes(cpu) == 0
    monkeypatch.setattr(memory, "_fields", lambda path: {})
    monkeypatch.setattr(memory, "memory_limits", list)
    assert memory.memory(cpu) == (None, None)


def test_memory_of_a_control_group__is_all_there_is(monkeypatch):
    _, free = memory.memory(torch.device("cpu"))
    small = MemoryLimit(limit=2**28, used=2**27)
    monkeypatch.setattr(memory, "memory_limits", lambda: [MemoryLimit(2**60, 0), small])
    assert memory.memory(torch.device("cpu")) == (2**28, min(free or 2**27, 2**27))


def test_network_that_a_container_has_no_memory_for__is_refused(monkeypatch):
    """The machine has a hundred times as much: the kernel would end the process without a word."""
    monkeypatch.setattr(memory, "memory_limits", lambda: [MemoryLimit(2**20, 0)])
    with pytest.raises(ConfigError, match="does not fit into memory"):
        check_memory(NetworkSettings(name="convnet"), (3, 32, 32), 10, torch.device("cpu"))
