"""The network before the first step."""

import pytest
import torch

from prn_fast.kernels import FUSED, OPTIMIZED
from prn_fast.training import initial_network, train
from tests.training.small_run import settings


def test_a_gpu_trains_with_triton_kernels_unless_told_otherwise(data, tmp_path, monkeypatch):
    built = []

    class Stop(Exception):
        pass

    def network(config, ops):
        built.append(ops)
        raise Stop

    monkeypatch.setattr(initial_network, "PRN", network)
    for optimized in (False, True):
        monkeypatch.setattr(train, "launch", lambda precision: FabricOnGPU())
        with pytest.raises(Stop):
            train.prepare_run(settings(data, tmp_path / "fabric.prn", optimized=optimized))
    assert built == [FUSED, OPTIMIZED]


class FabricOnGPU:
    """What preparing a run asks of Fabric before the network is built."""

    is_global_zero, world_size, device = True, 1, torch.device("cuda")
