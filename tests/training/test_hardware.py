"""What training uses of the machine."""

import torch

from prn_fast.training.hardware import loader_workers


def test_workers_are_used_by_default_where_a_gpu_computes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    assert loader_workers(None, torch.device("cpu")) == 0
    assert loader_workers(None, torch.device("cuda")) == 8
    assert loader_workers(2, torch.device("cuda")) == 2
