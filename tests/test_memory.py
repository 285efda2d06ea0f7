"""What is known of memory where the system says little."""

import sys

import torch

from distillkit import memory


def test_system_without_the_module_resource__says_nothing_of_it(monkeypatch):
    cpu = torch.device("cpu")
    assert memory.peak_bytes(cpu) > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert memory.peak_bytes(cpu) == 0
    monkeypatch.setattr(memory, "_fields", lambda path: {})
    monkeypatch.setattr(memory, "_number", lambda path: None)
    assert memory.memory(cpu) == (None, None)
