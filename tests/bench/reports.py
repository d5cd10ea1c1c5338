"""A report of made-up latencies, for tests of what is made from it."""

from typing import Any

import numpy as np

from prn_fast.bench.answers import answers_to
from prn_fast.bench.environment import describe_environment
from prn_fast.bench.parity import compare
from prn_fast.bench.report import Report, build_report
from prn_fast.bench.runner import BenchResult, Checked, Measurement, Settings
from prn_fast.model.config import PRNConfig
from tests.bench.engines import ConvolutionEngine, blob_images

MEDIANS = {("eager", 1): 20.0, ("openvino:int8", 1): 5.0, ("eager", 8): 140.0, ("openvino:int8", 8): 30.0}
CALLS = 20
MEMORY = {"peak_rss_bytes": 500_000_000, "baseline_rss_bytes": 200_000_000, "peak_cuda_bytes": None}


def make_report(
    *,
    rounds: int = 30,
    noise: float = 0.01,
    tail: float = 1.0,
    drift: float = 0.0,
    others_share: float = 0.0,
    steady: bool = True,
    interrupted: bool = False,
    faults: list[str] | None = None,
    unavailable: dict[str, str] | None = None,
) -> Report:
    """Two engines at two batch sizes; latencies around MEDIANS with this relative noise, tail and drift."""
    images, labels = blob_images()
    answers = answers_to(ConvolutionEngine(), images, 12)
    parity = compare(answers, answers, labels)
    result = BenchResult(interrupted=interrupted, seconds=12.0)
    result.checks = [
        Checked("eager", "fp32", parity),
        Checked("openvino:int8", "int8", parity, list(faults or [])),
    ]
    rng = np.random.default_rng(0)
    memory: dict[tuple[str, int], dict[str, Any]] = {}
    for (engine, batch), median in MEDIANS.items():
        if faults and engine != "eager":
            continue
        factors = 1 + noise * rng.normal(size=(rounds, CALLS))
        factors[:, : CALLS // 5] *= tail
        factors *= np.linspace(1 - drift / 2, 1 + drift / 2, rounds)[:, None]
        calls = (median * np.maximum(factors, 0.1)).tolist()
        result.measurements.append(Measurement(engine, batch, calls, 6, 0.5, steady, True, others_share))
        memory[engine, batch] = {
            "peak_rss_bytes": 500_000_000,
            "baseline_rss_bytes": 200_000_000,
            "peak_cuda_bytes": None,
        }
    return build_report(
        result,
        Settings((1, 8), 30.0),
        command="prn-bench model.prn",
        package={
            "name": "model.prn",
            "sha256": "0" * 64,
            "config": PRNConfig().to_dict(),
            "training": {"preset": "r18"},
            "flop_per_image": 5e9,
            "images": 12,
            "anomalies": 6,
        },
        environment=describe_environment(),
        matrix_rates={"fp32": 3e11},
        memory=memory,
        unavailable=unavailable,
    )
