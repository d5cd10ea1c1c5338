"""AOTInductor beside eager and OpenVINO, in turns, on one image of a network with random weights; docs/aot_inductor.md.

    python -m prn_fast.bench.aot_inductor FOLDER [--preset lite0] [--seconds 60]

FOLDER takes the compiled packages, which are used again. Each formulation's maps are compared with float64 before it is
timed.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prn_fast.bench.seeded import seeded_model, textured_images
from prn_fast.build.export import INPUT_NAME, OUTPUT_NAMES, export_onnx
from prn_fast.engine.openvino import import_openvino
from prn_fast.environment import commit, cpu_name
from prn_fast.kernels import FUSED, LEAN, PUBLISHED
from prn_fast.model.config import preset
from prn_fast.model.engine_graph import EngineGraph, with_ops
from prn_fast.model.prn import PRN

Run = Callable[[], tuple[Tensor, Tensor]]
LARGEST_ERROR = 5e-3
CALLS_IN_TURN = 3


def compiled(model: PRN, images: Tensor, folder: Path) -> dict[str, Run]:
    """The network as AOTInductor packages: with the registered operations, which it calls, and with lean ones, which it
    compiles too."""
    runs: dict[str, Run] = {}
    for name, ops, layout in (
        ("registered operations, channels-last", FUSED, torch.channels_last),
        ("registered operations", FUSED, torch.contiguous_format),
        ("lean operations", LEAN, torch.contiguous_format),
    ):
        file = folder / f"{name.replace(', ', '-').replace(' ', '_')}.pt2"
        if not file.exists():
            program = torch.export.export(EngineGraph(model, ops, memory_format=layout), (images,))
            start = time.perf_counter()
            torch._inductor.aoti_compile_and_package(program, package_path=str(file))
            seconds, megabytes = time.perf_counter() - start, file.stat().st_size / 1e6
            print(f"AOTInductor, {name}: compiled in {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
        package = torch._inductor.aoti_load_package(str(file))
        runs[f"AOTInductor, {name}"] = partial(package, images)
    return runs


def by_openvino(model: PRN, images: Tensor) -> Run:
    """OpenVINO of the exported graph, float32, one request."""
    core = import_openvino().Core()
    graph = core.read_model(export_onnx(model))
    graph.reshape(list(images.shape))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(graph, "CPU", hints).create_infer_request()
    pixels = images.numpy()

    def run() -> tuple[Tensor, Tensor]:
        found = request.infer({INPUT_NAME: pixels}, share_inputs=True)
        scores, maps = (torch.from_numpy(found[name]) for name in OUTPUT_NAMES)
        return scores, maps

    return run


@torch.no_grad()
def main() -> int:
    """Print a line for each formulation; 1 if one is wrong."""
    parser = argparse.ArgumentParser(prog="python -m prn_fast.bench.aot_inductor")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="lite0")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    model = seeded_model(dataclasses.replace(preset(options.preset), image_channels=1))
    images = torch.from_numpy(textured_images(1, 1, 5, model.config.image_size))
    _, expected = model.double().detect(images)
    published, lean = with_ops(model.float(), PUBLISHED), EngineGraph(model, LEAN)
    runs: dict[str, Run] = {
        "eager, published": lambda: published.detect(images),
        "eager, lean graph": lambda: lean(images),
        **compiled(model, images, options.folder),
        "OpenVINO fp32": by_openvino(model, images),
    }
    errors = {}
    for name, run in runs.items():
        run()
        errors[name] = float((run()[1] - expected).abs().max())
        if not errors[name] < LARGEST_ERROR:
            print(f"{name}: the map differs from float64 by {errors[name]:.1e}; nothing is timed", file=sys.stderr)
            return 1
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            for _ in range(CALLS_IN_TURN):
                start = time.perf_counter()
                run()
                times[name].append(1000 * (time.perf_counter() - start))
    base = np.median(times["eager, published"])
    for name, values in times.items():
        p50, p90 = np.percentile(values, (50, 90))
        print(
            f"{name}: p50 {p50:.1f} ms, p90 {p90:.1f} ms, {base / p50:.2f} x eager, {len(values)} calls; map within "
            f"{errors[name]:.0e} of float64"
        )
    print(f"{options.preset}, batch 1, {cpu_name()}, torch {torch.__version__}, commit {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
