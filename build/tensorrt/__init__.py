"""Builds TensorRT and TensorRT-RTX engines: export, types, quantisation, verification of the graph, compilation."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prn_fast.build import quantization as eight_bits
from prn_fast.build.candidate import BuildOptions, Candidate, ScreenCandidate
from prn_fast.build.graph_engine import graph_engine
from prn_fast.build.profiles import DEFAULT_PROFILE, BatchProfile
from prn_fast.build.tensorrt.compile import Share, compile_graph
from prn_fast.build.tensorrt.graph import balance_attention, parse_graph, peaks, to_half, wide_nodes
from prn_fast.build.tensorrt.lowering import lowered
from prn_fast.build.tensorrt.quantization import activation_ranges, quantizable, quantize
from prn_fast.build.tensorrt.report import parse_listing, summary, to_json
from prn_fast.engine.tensorrt import device_capability
from prn_fast.engine.tensorrt_file import ENGINE_FILE, LAYERS_FILE, LOG_FILE, SCREEN_FOLDER, Description
from prn_fast.engine.tensorrt_flavours import FLAVOURS, LOWEST_CAPABILITY, PORTABLE_USUAL, Flavour, parse_capability
from prn_fast.errors import EngineError
from prn_fast.extras import require_extra
from prn_fast.model.screen import Screen
from prn_fast.package import Package

GRAPH_FILE, TIMING_CACHE = "graph.onnx", "timing.cache"
# Calibration images on which the ranges of activations are measured.
MEASURED_IMAGES = 8


@dataclass(frozen=True)
class Attempt:
    """A choice of types: modules of the network in eight bits, and in float32; all else is in half precision."""

    quantized: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()


# The most aggressive first; the first that passes verification is kept. The backbone is the first to return to float32:
# a residual is a small difference of large values.
HALF_ATTEMPTS = (Attempt(), Attempt(float32=("model.backbone",)))
EIGHT_BIT_ATTEMPTS = tuple(Attempt(modules, ("model.backbone",)) for modules in eight_bits.ATTEMPTS)
ATTEMPTS = {
    "fp32": (Attempt(),),
    "fp16": HALF_ATTEMPTS,
    "bf16": HALF_ATTEMPTS,
    "int8": EIGHT_BIT_ATTEMPTS,
    "fp8": EIGHT_BIT_ATTEMPTS,
}
# The same for the screen; here only convolutions of its backbone and head are quantised.
SCREEN_EIGHT_BIT_ATTEMPTS = (
    *(Attempt(modules) for modules in eight_bits.SCREEN_ATTEMPTS if eight_bits.PROTOTYPE_SEARCH not in modules),
    HALF_ATTEMPTS[-1],
)
SCREEN_ATTEMPTS = {**ATTEMPTS, "int8": SCREEN_EIGHT_BIT_ATTEMPTS, "fp8": SCREEN_EIGHT_BIT_ATTEMPTS}


def builds_flavour(
    flavour: Flavour, package: Package, precision: str, folder: Path, options: BuildOptions
) -> Iterator[Candidate]:
    """Candidates of an engine, best first; the caller stops at the first that passes verification.

    Where the engine cannot run, its typed graph is verified, and the engine is built only after that has passed.

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
    require_extra("tensorrt", "onnx", "onnxscript", "onnxruntime", "sklearn")
    name = f"{flavour.name}:{precision}"
    profile = options.batch or DEFAULT_PROFILE
    here = device_capability()
    capabilities = targets(flavour, library, precision, options.capabilities, here)
    runs_here = here in capabilities
    target = Target(
        flavour,
        library,
        precision,
        profile,
        capabilities,
        options.on_share,
        package.engine_path(name) / TIMING_CACHE,
    )
    subject = Subject(package, target, folder)
    for number, attempt in enumerate(ATTEMPTS[precision]):
        typed = subject.typed(attempt)
        candidate = folder / str(number)
        candidate.mkdir()
        graph_file = folder / f"{number}-{GRAPH_FILE}"
        graph_file.write_bytes(typed.content)
        record = {
            "versions": versions(flavour, library),
            "capabilities": list(capabilities),
            "batch": str(profile),
            **typed.record,
        }
        complete = partial(target.build_into, candidate, typed)
        of_screen = partial(screens, package, target, candidate, runs_here)
        if runs_here:
            yield Candidate(candidate, record | complete(), screens=of_screen)
        else:
            stand_in = partial(graph_engine, package, graph_file, precision)
            yield Candidate(candidate, record, stand_in, complete, of_screen)


def screens(package: Package, target: "Target", folder: Path, runs_here: bool) -> Iterator[ScreenCandidate]:
    """Versions of the screen for an engine's folder, best first; none where the package has no cut."""
    if package.early_exit is None:
        return
    of_screen = folder / SCREEN_FOLDER
    before = target.timing_cache.parent / SCREEN_FOLDER / TIMING_CACHE
    target = replace(target, timing_cache=before)
    subject = Subject(package, target, folder.parent, package.screen())
    for number, attempt in enumerate(SCREEN_ATTEMPTS[target.precision]):
        typed = subject.typed(attempt)
        complete = partial(target.build_into, of_screen, typed)
        if runs_here:
            yield ScreenCandidate(typed.record | complete())
        else:
            graph_file = folder.parent / f"screen-{number}-{GRAPH_FILE}"
            graph_file.write_bytes(typed.content)
            stand_in = partial(graph_engine, package, graph_file, target.precision, screen=True)
            yield ScreenCandidate(typed.record, stand_in, complete)


@dataclass(frozen=True)
class TypedGraph:
    """A graph in the types of one attempt.

    Attributes:
        model: onnx.ModelProto; `content`: the same, serialised.
        record: the manifest's entries for it.
    """

    model: Any
    content: bytes
    record: dict[str, Any]


class Subject:
    """The exported network of a package, or its screen, before an attempt's types are applied.

    Args:
        target: what it is built for.
        folder: for temporary files.
        screen: None for the network.
    """

    def __init__(self, package: Package, target: "Target", folder: Path, screen: Screen | None = None) -> None:
        self._precision, self._folder = target.precision, folder
        exported, self._lowerings = lowered(
            package, target.flavour, target.precision, target.capabilities, target.profile, screen
        )
        self._graph = parse_graph(exported)
        balance_attention(self._graph)
        self._images = package.calibration_images()[:MEASURED_IMAGES]
        # Plugins sum in float32, and no CPU runs them.
        self._measurable = target.precision not in ("fp32", "bf16") and "plugin" not in self._lowerings.values()
        self._wide = wide_nodes(self._graph, peaks(self._graph, self._images, folder)) if self._measurable else set()

    def typed(self, attempt: Attempt) -> TypedGraph:
        """The graph in the types of an attempt."""
        model = self._graph
        if attempt.quantized:
            convolutions = quantizable(model, attempt.quantized)
            ranges = activation_ranges(model, convolutions, self._images, self._folder)
            model = quantize(model, convolutions, ranges, self._precision)
        if self._precision != "fp32":
            half = "bf16" if self._precision == "bf16" else "fp16"
            model = to_half(model, half, attempt.float32, self._wide)
        content = model.SerializeToString()
        record = {
            "quantized": list(attempt.quantized),
            "float32_modules": list(attempt.float32),
            "float32_nodes": sorted(self._wide),
            "calibration_images": len(self._images) if self._measurable else 0,
            "lowerings": self._lowerings,
            "graph_sha256": hashlib.sha256(content).hexdigest(),
        }
        return TypedGraph(model, content, record)


@dataclass(frozen=True)
class Target:
    """What engines are compiled with and for; `timing_cache` is the file of an earlier build."""

    flavour: Flavour
    library: Any
    precision: str
    profile: BatchProfile
    capabilities: tuple[str, ...]
    on_share: Share
    timing_cache: Path

    def build_into(self, folder: Path, typed: TypedGraph) -> dict[str, Any]:
        """Compile a graph into an engine's folder; returns the manifest's entries for it."""
        before = time.perf_counter()
        folder.mkdir(exist_ok=True)
        known = folder / TIMING_CACHE
        if self.timing_cache.is_file():
            known.write_bytes(self.timing_cache.read_bytes())
        compiled = compile_graph(self.flavour, typed.content, self.profile, self.capabilities, self.on_share, known)
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
            "report": summary(layers, typed.model.graph),
        }


def targets(
    flavour: Flavour, library: Any, precision: str, asked: tuple[str, ...] | None, here: str | None
) -> tuple[str, ...]:
    """Compute capabilities to build for.

    Args:
        asked: by the user; None takes all from `PORTABLE_USUAL` that a portable flavour's library builds for and that
            support the precision.
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
    """Versions of the libraries that took part in building an engine."""
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
