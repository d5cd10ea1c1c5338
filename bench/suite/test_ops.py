"""Speed of each operation in each formulation at the real network's shapes; outputs are checked in the same run."""

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from prn_fast.bench.gpu.operations import error_steps, verdict, widened
from prn_fast.bench.machine.timing import synchronize
from prn_fast.kernels.catalogue import all_cases
from prn_fast.kernels.operation import Draw

BATCH = 1
NAMES = [f"{one.op}-{one.shape}" for one in all_cases(BATCH, Draw(torch.float32, torch.device("meta")))]


@pytest.mark.parametrize("formulation", ["published", "optimized"])
@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
def test_operation(benchmark: BenchmarkFixture, formulation: str, number: int, device: torch.device) -> None:
    case = list(all_cases(BATCH, Draw(torch.float32, device)))[number]
    function = getattr(case, formulation)

    def call() -> object:
        """The clock stops when a GPU has finished."""
        out = function(*case.arguments)
        synchronize(device)
        return out

    benchmark.extra_info |= {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    with torch.inference_mode():
        steps = error_steps(benchmark(call), case.published(*widened(case.arguments)))
    assert verdict(case, torch.float32, steps)["right"]
