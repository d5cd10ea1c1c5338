"""A report of made-up latencies, for tests of what is made from it."""

from typing import Any

import numpy as np

from prn_fast.bench.engines.agreement import Agreement
from prn_fast.bench.engines.answers import answers_to
from prn_fast.bench.engines.runner import BenchResult, Checked, Measurement
from prn_fast.bench.machine.ceilings import NetworkTraffic
from prn_fast.bench.machine.environment import describe_environment
from prn_fast.bench.report.document import Machine, Report, build_report
from prn_fast.bench.scenarios import ScenarioRun
from prn_fast.bench.scenarios.engine_under_test import Mix
from prn_fast.bench.scenarios.line_camera import CameraRun, LineCameraResult
from prn_fast.bench.scenarios.offline import OfflineResult
from prn_fast.bench.scenarios.server import ServerResult, ServerRun
from prn_fast.bench.settings import OPEN_LOOPS, ClosedLoopSettings, ScenarioSettings
from prn_fast.model.config import PRNConfig
from tests.bench.stand_ins import ConvolutionEngine, blob_images

MEDIANS = {("eager", 1): 20.0, ("openvino:int8", 1): 5.0, ("eager", 8): 140.0, ("openvino:int8", 8): 30.0}
CALLS = 20
HARDWARE_STATE = {"cpu_mhz": 2600.0, "cpu_celsius": None, "cpu_throttled": None, "load_average": 0.5, "gpus": []}
PROFILE = {
    "engine": "eager",
    "batch": 1,
    "source": "torch.profiler",
    "total_ms": 20.0,
    "parts_ms": {
        "preprocessing": 1.0, "backbone": 4.0, "residual": 2.0, "fusion": 3.0, "attention": 5.0, "decoder": 4.5,
        "scoring": 0.5,
    },
    "rows": [{"name": "aten::convolution", "type": "aten::convolution", "part": "attention", "ms": 5.0}],
}  # fmt: skip


def make_scenarios(others_share: float = 0.0) -> ScenarioRun:
    """Offline, server and line-camera of eager, which holds little, and of openvino:int8."""
    latency = {"p50": 20.0, "p90": 25.0, "p99": 41.0, "p999": None, "max": 60.0}
    few = {"p50": 2000.0, "p90": None, "p99": None, "p999": None, "max": 2600.0}
    server = [ServerRun(30.0, 200, latency, True), ServerRun(40.0, 200, {**latency, "p99": 140.0}, False)]
    held = CameraRun(12e3, 400, 350, 0, 3, 0.9, latency, True)
    camera = [
        CameraRun(9e3, 300, 262, 0, 2, 0.7, latency, True),
        held,
        CameraRun(14e3, 300, 200, 5120, 8, 1.1, few, False),
    ]
    results = [
        OfflineResult("eager", 8, [50.0, 51.0, 49.0], 400),
        OfflineResult("openvino:int8", 8, [200.0, 203.0, 199.0, 201.0, 202.0], 1000),
        ServerResult("eager", 8, 100.0, reason="one image alone takes 120 ms, over the bound of 100 ms"),
        ServerResult("openvino:int8", 8, 100.0, server, server[0], True),
        LineCameraResult("eager", 4096, 256, 32, 500.0, reason="the next run needs 9 s and the time was up"),
        LineCameraResult("openvino:int8", 4096, 256, 32, 15e3, camera, held, True),
    ]
    mixes = {(found.engine, found.scenario): Mix(1000, 10, 0, 0) for found in results}
    return ScenarioRun(results, dict.fromkeys(OPEN_LOOPS, others_share), mixes)


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
    scenarios: bool = False,
    slower: float = 1.0,
    seed: int = 0,
) -> Report:
    """Two engines at two batch sizes; latencies around MEDIANS with this relative noise, tail and drift.

    `slower` multiplies those of the INT8 engine; `scenarios` adds results of every other scenario.
    """
    images, labels = blob_images()
    answers = answers_to(ConvolutionEngine(), images, 12)
    agreement = Agreement.of(answers, answers, labels)
    result = BenchResult(interrupted=interrupted, seconds=12.0)
    result.checks = [
        Checked("eager", "fp32", agreement),
        Checked("openvino:int8", "int8", agreement, list(faults or [])),
    ]
    rng = np.random.default_rng(seed)
    memory: dict[tuple[str, int], dict[str, Any]] = {}
    for (engine, batch), median in MEDIANS.items():
        if faults and engine != "eager":
            continue
        factors = 1 + noise * rng.normal(size=(rounds, CALLS))
        factors[:, : CALLS // 5] *= tail
        factors *= np.linspace(1 - drift / 2, 1 + drift / 2, rounds)[:, None]
        median *= slower if engine != "eager" else 1.0
        calls = (median * np.maximum(factors, 0.1)).tolist()
        result.measurements.append(Measurement(engine, batch, calls, 6, 0.5, steady, True, others_share))
        memory[engine, batch] = {
            "peak_rss_bytes": 500_000_000,
            "baseline_rss_bytes": 200_000_000,
            "peak_cuda_bytes": None,
        }
    return build_report(
        result,
        ClosedLoopSettings((1, 8), 30.0),
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
        environment=describe_environment() | {"commit": "0123456789ab"},
        machine=Machine(
            matrix_rates={"fp32": 3e11, "int8": 9e11},
            copy_rate=2e10,
            hardware_state=(HARDWARE_STATE, HARDWARE_STATE),
            memory=memory,
            network_ms={("eager", 1): {"warm": 18.0, "cold": 19.0}, ("eager", 8): {"warm": 130.0}},
            profiles=[PROFILE] if scenarios else [],
        ),
        traffic=NetworkTraffic(50_000_000, 20_000_000),
        scenarios=ScenarioSettings(OPEN_LOOPS if scenarios else ()),
        scenario_run=make_scenarios(others_share) if scenarios else None,
        unavailable=unavailable,
    )
