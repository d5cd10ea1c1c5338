"""Builds TensorRT and TensorRT-RTX engines: export, types, quantisation, verification of the graph, compilation."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.build import quantization as eight_bits
from prn_fast.build.candidate import BuildOptions, Candidate
from prn_fast.build.graph_engine import graph_engine
from prn_fast.build.profiles import DEFAULT_PROFILE, BatchProfile
from prn_fast.build.tensorrt.compile import Share, compile_graph
from prn_fast.build.tensorrt.graph import balance_attention, parse_graph, peaks, to_half, wide_nodes
from prn_fast.build.tensorrt.lowering import lowered
from prn_fast.build.tensorrt.quantization import activation_ranges, quantizable, quantize
from prn_fast.build.tensorrt.report import parse_listing, summary, to_json
from prn_fast.engine.tensorrt import device_capability
from prn_fast.engine.tensorrt_file import ENGINE_FILE, LAYERS_FILE, LOG_FILE, Description
from prn_fast.engine.tensorrt_flavours import FLAVOURS, LOWEST_CAPABILITY, PORTABLE_USUAL, Flavour, parse_capability
from prn_fast.errors import EngineError
from prn_fast.package import Package, engine_path

GRAPH_FILE, TIMING_CACHE = "graph.onnx", "timing.cache"
# Ranges of activations are measured on so many calibration images.
MEASURED_IMAGES = 8


@dataclass(frozen=True)
class Attempt:
    """A choice of types: modules of the network in eight bits, and in float32; all else is of half precision."""

    quantized: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()


# Boldest first; the first that passes verification is kept. Half a backbone is the first thing to go: a residual is a
# small difference of large values.
HALF_ATTEMPTS = (Attempt(), Attempt(float32=("model.backbone",)))
EIGHT_BIT_ATTEMPTS = tuple(Attempt(modules, ("model.backbone",)) for modules in eight_bits.ATTEMPTS)
ATTEMPTS = {
    "fp32": (Attempt(),),
    "fp16": HALF_ATTEMPTS,
    "bf16": HALF_ATTEMPTS,
    "int8": EIGHT_BIT_ATTEMPTS,
    "fp8": EIGHT_BIT_ATTEMPTS,
}


def builds_flavour(
    flavour: Flavour, package: Package, precision: str, folder: Path, options: BuildOptions
) -> Iterator[Candidate]:
    """Candidates of an engine, best first; the caller stops at the first that passes verification.

    Where the engine cannot run, its typed graph is verified, and the engine is built only once that has passed.

    Args:
        flavour: the library to build with.
        package: trained.
        precision: key of `ATTEMPTS`.
        folder: empty; each candidate gets a folder in it.
        options: batch, and for a portable flavour compute capabilities.
    Raises:
        EngineError: a library or a GPU is missing, or the flavour cannot do what is asked for.
    """
    library = flavour.load()
    name = f"{flavour.name}:{precision}"
    profile = options.batch or DEFAULT_PROFILE
    here = device_capability()
    capabilities = targets(flavour, library, precision, options.capabilities, here)
    runs_here = here in capabilities
    exported, lowerings = lowered(package, flavour, precision, capabilities, profile)
    graph = parse_graph(exported)
    balance_attention(graph)
    images = package.calibration_images()[:MEASURED_IMAGES]
    # Plugins hold their sums in float32, and no CPU runs them.
    measurable = precision not in ("fp32", "bf16") and "plugin" not in lowerings.values()
    wide = wide_nodes(graph, peaks(graph, images, folder)) if measurable else set()
    target = Target(
        flavour,
        library,
        precision,
        profile,
        capabilities,
        options.on_share,
        package.path / engine_path(name) / TIMING_CACHE,
    )
    for number, attempt in enumerate(ATTEMPTS[precision]):
        typed = graph
        if attempt.quantized:
            convolutions = quantizable(graph, attempt.quantized)
            ranges = activation_ranges(graph, convolutions, images, folder)
            typed = quantize(graph, convolutions, ranges, precision)
        if precision != "fp32":
            typed = to_half(typed, "bf16" if precision == "bf16" else "fp16", attempt.float32, wide)
        content = typed.SerializeToString()
        candidate = folder / str(number)
        candidate.mkdir()
        graph_file = folder / f"{number}-{GRAPH_FILE}"
        graph_file.write_bytes(content)
        record = {
            "versions": versions(flavour, library),
            "capabilities": list(capabilities),
            "batch": str(profile),
            "quantized": list(attempt.quantized),
            "float32_modules": list(attempt.float32),
            "float32_nodes": sorted(wide),
            "calibration_images": len(images) if measurable else 0,
            "lowerings": lowerings,
            "graph_sha256": hashlib.sha256(content).hexdigest(),
        }
        complete = partial(target.build_into, candidate, typed)
        if runs_here:
            yield Candidate(candidate, record | complete())
        else:
            yield Candidate(candidate, record, partial(graph_engine, package, graph_file, precision), complete)


@dataclass(frozen=True)
class Target:
    """What engines are compiled by and for; `timing_cache` is the file of an earlier build."""

    flavour: Flavour
    library: Any
    precision: str
    profile: BatchProfile
    capabilities: tuple[str, ...]
    on_share: Share
    timing_cache: Path

    def build_into(self, folder: Path, typed: Any) -> dict[str, Any]:
        """Compile a typed onnx.ModelProto into an engine's folder; returns what the manifest should record of it."""
        before = time.perf_counter()
        known = folder / TIMING_CACHE
        if self.timing_cache.is_file():
            known.write_bytes(self.timing_cache.read_bytes())
        compiled = compile_graph(
            self.flavour, typed.SerializeToString(), self.profile, self.capabilities, self.on_share, known
        )
        seconds = time.perf_counter() - before
        layers, bindings = parse_listing(compiled.listing)
        (folder / ENGINE_FILE).write_bytes(compiled.plan)
        (folder / LOG_FILE).write_text(compiled.log)
        (folder / LAYERS_FILE).write_text(json.dumps(to_json(layers), indent=1) + "\n")
        Description(
            flavour=self.flavour.name,
            version=self.library.__version__,
            precision=self.precision,
            capabilities=self.capabilities,
            batch=(self.profile.smallest, self.profile.usual, self.profile.largest),
            sha256=hashlib.sha256(compiled.plan).hexdigest(),
            bindings=tuple(asdict(binding) for binding in bindings),
        ).write(folder)
        return {
            "build_seconds": round(seconds, 1),
            "engine_bytes": len(compiled.plan),
            "report": summary(layers, typed.graph),
        }


def targets(
    flavour: Flavour, library: Any, precision: str, asked: tuple[str, ...] | None, here: str | None
) -> tuple[str, ...]:
    """Compute capabilities to build for.

    Args:
        asked: by the user; None takes all from `PORTABLE_USUAL` that a portable flavour's library builds for and that
            know the precision.
        here: that of the GPU at hand; None if there is none.
    Raises:
        EngineError: the flavour cannot build for what is asked.
    """
    if not flavour.portable:
        if here is None:
            raise EngineError(
                f"{flavour.title} builds on the GPU that it builds for, and there is none here; build on that machine, "
                "or with --backend tensorrt-rtx"
            )
        if asked and asked != (here,):
            raise EngineError(
                f"{flavour.title} builds for the GPU at hand, of compute capability {here}, not for {', '.join(asked)}"
            )
        return (here,)
    lowest = LOWEST_CAPABILITY.get(precision, (0, 0))
    known = flavour.capabilities(library)
    for capability in asked or ():
        number = parse_capability(capability)
        if number < lowest:
            raise EngineError(
                f"{flavour.title} builds no {precision} engine for compute capability {capability}: it needs "
                f"{lowest[0]}.{lowest[1]} or above (below 8.0 it has no bf16 and no float32 products, below 8.9 no fp8)"
            )
        if capability not in known:
            raise EngineError(
                f"{flavour.title} {library.__version__} builds for no compute capability {capability}, only for "
                f"{', '.join(known)}; for other GPUs, build on the GPU with --backend tensorrt"
            )
    if asked:
        return tuple(dict.fromkeys(asked))
    return tuple(one for one in known if parse_capability(one) >= max(lowest, PORTABLE_USUAL))


def versions(flavour: Flavour, library: Any) -> dict[str, str]:
    """Versions of what had a hand in an engine."""
    import onnx
    import onnxruntime
    import torch

    return {
        flavour.name: library.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
    }


builds = partial(builds_flavour, FLAVOURS["tensorrt"])
builds_rtx = partial(builds_flavour, FLAVOURS["tensorrt-rtx"])
