"""Everything that only a GPU can tell, in one run of under ten minutes: are the kernels right, and how fast is it all.

    python bench/gpu_run.py FOLDER

Needs torch, triton and numpy. Writes FOLDER/results.json anew after each section, so that a run cut short keeps what it
had. Speeds are measured only if every operation is right.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prn_fast.bench.kernels import cases, kernel_table
from prn_fast.kernels import FUSED, PUBLISHED, Ops
from prn_fast.kernels.catalogue import SCALES, Scale, coarser
from prn_fast.kernels.multi_scale_fusion import lean, project_upsample_add
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN

BATCHES = (1, 8, 32, 128)
# Compiling with autotuning takes minutes a batch size: the two that the comparison is about.
COMPILED_BATCHES = (1, 32)
SECONDS_FOR_ALL = 540
# Of the rounding step of the dtype, relative to the root mean square of the result.
ALLOWED_ERROR = {torch.float32: 8.0, torch.float16: 2.0, torch.bfloat16: 2.0}
# Largest difference of anomaly maps (0..1) between half precision and float32.
ALLOWED_MAP_DIFFERENCE = 0.02


def in_double(ops: Ops, run: Callable[[Ops], Tensor]) -> Tensor:
    """The result of the published formulation computed in float64 from the same inputs."""

    def widen(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double()
        return [widen(one) for one in value] if isinstance(value, list) else value

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: function(*(widen(one) for one in arguments))

    return run(Ops(wrap(ops.prototype_residual), wrap(ops.multi_scale_fusion), wrap(ops.multi_size_attention)))


def check_operations(
    device: torch.device, dtypes: tuple[torch.dtype, ...], scales: tuple[Scale, ...] = SCALES, batch: int = 3
) -> list[dict[str, Any]]:
    """Error of each fused operation against float64, in rounding steps of its dtype."""
    rows = []
    for dtype in dtypes:
        for case in cases(batch, dtype, device, scales):
            expected = in_double(PUBLISHED, case.run)
            error = (case.run(FUSED).double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            steps = error.item() / torch.finfo(dtype).eps
            right = steps <= ALLOWED_ERROR[dtype]
            rows.append(
                {"op": case.op, "side": case.scale.side, "dtype": str(dtype), "error_steps": steps, "right": right}
            )
        rows.append(check_fusion(device, dtype, scales[0], batch))
    return rows


def check_fusion(device: torch.device, dtype: torch.dtype, scale: Scale, batch: int) -> dict[str, Any]:
    """As `check_operations`, of projection, upsampling and adding for one target scale."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(dtype).to(memory_format=torch.channels_last)

    sources = coarser(scale)
    full, coarse = [draw(batch, scale.channels, scale.side, scale.side)], [draw(batch, *source) for source in sources]
    weights = [draw(scale.channels, channels, 1, 1) / channels**0.5 for channels, _, _ in sources]
    biases = [torch.randn(scale.channels, device=device).to(dtype) for _ in sources]
    expected = lean.project_upsample_add(*([one.double() for one in part] for part in (full, coarse, weights, biases)))
    error = (project_upsample_add(full, coarse, weights, biases).double() - expected).square().mean().sqrt()
    steps = (error / expected.square().mean().sqrt()).item() / torch.finfo(dtype).eps
    right = steps <= ALLOWED_ERROR[dtype]
    return {"op": "project_upsample_add", "side": scale.side, "dtype": str(dtype), "error_steps": steps, "right": right}


def make_model(config: PRNConfig, device: torch.device) -> PRN:
    """A PRN with seeded random weights, and the features of random images as prototypes."""
    torch.manual_seed(0)
    model = PRN(config, PUBLISHED).eval()
    images = torch.rand(max(config.prototypes), 3, config.image_size, config.image_size)
    with torch.inference_mode():
        features = model.backbone(images)[:3]
        model.set_prototypes([maps[:count] for maps, count in zip(features, config.prototypes, strict=True)])
    return model.to(device)


def with_ops(model: PRN, ops: Ops, dtype: torch.dtype) -> PRN:
    """The same weights under another formulation, in another dtype, channels-last."""
    other = PRN(model.config, ops).eval()
    other.load_state_dict(deepcopy(model.state_dict()))
    device = next(model.parameters()).device
    return other.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def captured(model: PRN, images: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """A CUDA graph of `model.detect` on a static input."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.detect(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = model.detect(images)

    def replay() -> tuple[Tensor, Tensor]:
        graph.replay()
        return outputs

    return replay


def latency(run: Callable[[], object], seconds: float = 3.0) -> dict[str, float]:
    """Milliseconds a call, from the host's call to the device's end: median and 99th percentile."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or (time.perf_counter() < end and len(times) < 2000):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    ordered = torch.tensor(times).sort().values
    return {
        "p50_ms": ordered[len(times) // 2].item(),
        "p99_ms": ordered[min(len(times) - 1, int(0.99 * len(times)))].item(),
    }


def kernel_shares(run: Callable[[], object]) -> list[dict[str, Any]]:
    """Share of device time of each GPU kernel in one run, largest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        run()
        torch.cuda.synchronize()
    events = [e for e in profiler.key_averages() if e.self_device_time_total > 0]
    total = sum(e.self_device_time_total for e in events)
    events.sort(key=lambda event: -event.self_device_time_total)
    return [{"kernel": e.key, "calls": e.count, "percent": 100 * e.self_device_time_total / total} for e in events[:40]]


def engine_rows(model: PRN, deadline: float, report: Callable[[list[dict[str, Any]]], None]) -> None:
    """Whole-network times of four formulations on the same weights; `report` gets the rows so far after each."""
    config, device = model.config, next(model.parameters()).device
    half_published = with_ops(model, PUBLISHED, torch.float16)
    half_fused = with_ops(model, FUSED, torch.float16)
    rows: list[dict[str, Any]] = []

    def measure(name: str, batch: int, run: Callable[[], tuple[Tensor, Tensor]], maps: Tensor) -> None:
        times = latency(run)
        difference = (run()[1].float() - maps.float()).abs().max().item()
        rows.append(
            {"name": name, "batch": batch, **times, "images_per_second": 1000 * batch / times["p50_ms"]}
            | {"map_difference": difference, "right": difference <= ALLOWED_MAP_DIFFERENCE}
        )
        report(rows)

    side, channels = config.image_size, config.image_channels
    inputs = {
        batch: torch.randint(0, 256, (batch, side, side, channels), dtype=torch.uint8, device=device)
        for batch in BATCHES
    }
    maps = {}
    for batch, images in inputs.items():
        maps[batch] = torch.cat([model.detect(part)[1] for part in images.split(8)])
        measure("fused float16, CUDA graph", batch, captured(half_fused, images), maps[batch])
        if batch <= 32:
            measure("eager float32", batch, partial(model.detect, images), maps[batch])
            measure("eager float16 channels-last", batch, partial(half_published.detect, images), maps[batch])
    for batch in COMPILED_BATCHES:
        if time.monotonic() > deadline:
            rows.append({"name": "torch.compile max-autotune float16", "batch": batch, "skipped": "no time left"})
            report(rows)
            continue
        torch.compiler.reset()
        compiled = torch.compile(half_published.detect, mode="max-autotune", dynamic=False)
        measure("torch.compile max-autotune float16", batch, partial(compiled, inputs[batch]), maps[batch])


def main() -> int:
    """Run all sections; 0 if everything was right, 1 if something was not, 2 without a GPU."""
    if len(sys.argv) != 2:
        print("usage: python bench/gpu_run.py FOLDER", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("error: no CUDA device; this run measures on a GPU only", file=sys.stderr)
        return 2
    import triton

    start = time.monotonic()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda")
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "commit": os.environ.get("PRN_FAST_COMMIT", "unknown"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "cuda": torch.version.cuda,
    }

    def save(section: str, value: Any) -> None:
        results[section] = value
        results["seconds"] = time.monotonic() - start
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{section}: {time.monotonic() - start:.0f} s", flush=True)

    # Strict float32 everywhere, so that the float32 baseline is what it says.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    with torch.inference_mode():
        checked = check_operations(device, tuple(ALLOWED_ERROR))
        save("operations", checked)
        if not all(row["right"] for row in checked):
            print("error: an operation is wrong; see results.json; no speeds measured", file=sys.stderr)
            return 1
        save("kernels", kernel_table((1, 32), torch.float16, device))
        config = PRNConfig()
        model = make_model(config, device)
        images = torch.randint(0, 256, (32, 256, 256, 3), dtype=torch.uint8, device=device)
        run = partial(with_ops(model, FUSED, torch.float16).detect, images)
        run()
        save("kernel_shares", kernel_shares(run))
        engine_rows(model, start + SECONDS_FOR_ALL / 2, lambda rows: save("network", rows))
    return 0 if all(row.get("right", True) for row in results["network"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
