"""A typed ONNX graph to a serialised engine, by TensorRT or TensorRT-RTX."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prn_fast.build.profiles import BatchProfile
from prn_fast.build.tensorrt.report import LISTING
from prn_fast.engine.tensor_names import INPUT_NAME
from prn_fast.engine.tensorrt_flavours import Flavour
from prn_fast.errors import EngineError, printable

Share = Callable[[str, float], None]


@dataclass(frozen=True)
class Compiled:
    """The builder's results.

    Attributes:
        plan: the serialised engine.
        log: its messages from level INFO up, one per line.
        listing: layers and bindings; see `report`.
    """

    plan: bytes
    log: str
    listing: str


def compile_graph(
    flavour: Flavour,
    graph: bytes,
    profile: BatchProfile,
    capabilities: Sequence[str],
    on_share: Share = lambda phase, share: None,
    timing_cache: Path | None = None,
) -> Compiled:
    """Build an engine.

    Args:
        flavour: the library to build with.
        graph: ONNX, typed as it is to be computed.
        profile: of the batch.
        capabilities: for a portable flavour, the compute capabilities to build for, such as "8.9".
        on_share: called with the builder's phase and the share of it that is done, 0..1.
        timing_cache: file of a flavour that keeps one; read where it exists, and written.
    Raises:
        EngineError: the library is missing, there is no GPU where it needs one, or it refuses the graph; one line.
    """
    library = flavour.load()
    logger = _make_logger(library)
    builder = _make_builder(flavour, library, logger)
    strongly_typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(graph):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"{flavour.title} cannot read the graph: {printable(first, 1000)}")
    config = builder.create_builder_config()
    # What is float32 in the graph has to be: no TF32.
    config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    _set_profile(builder, network, config, profile)
    if flavour.portable:
        _set_capabilities(library, config, capabilities)
    # Kept in a variable: TensorRT holds no reference to it.
    monitor = _make_monitor(library, on_share)
    config.progress_monitor = monitor
    if flavour.timing_cache and timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{flavour.title} cannot build the engine: {logger.first_error()}")
    if flavour.timing_cache and timing_cache is not None:
        timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return Compiled(bytes(plan), "\n".join(logger.kept) + "\n", logger.listing)


def _make_builder(flavour: Flavour, library: Any, logger: Any) -> Any:
    """The library's builder; TensorRT makes none without a GPU, and says so in its log."""
    try:
        return library.Builder(logger)
    except TypeError:  # pybind11's answer to a null pointer
        raise EngineError(f"{flavour.title} cannot build here, it needs a GPU: {logger.first_error()}") from None


def _set_profile(builder: Any, network: Any, config: Any, profile: BatchProfile) -> None:
    shape = tuple(network.get_input(0).shape)[1:]
    optimization = builder.create_optimization_profile()
    sizes = (profile.smallest, profile.usual, profile.largest)
    optimization.set_shape(INPUT_NAME, *((size, *shape) for size in sizes))
    config.add_optimization_profile(optimization)


def _set_capabilities(library: Any, config: Any, capabilities: Sequence[str]) -> None:
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        config.set_compute_capability(getattr(library.ComputeCapability, "SM" + capability.replace(".", "")), index)


def _make_logger(library: Any) -> Any:
    """A logger that keeps messages for people, and the listing of layers."""

    class Logger(library.ILogger):
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.kept: list[str] = []
            self.errors: list[str] = []
            self.listing = ""

        def log(self, severity: Any, message: str) -> None:
            if message.startswith(LISTING):
                self.listing = message
            elif severity <= library.ILogger.Severity.INFO:
                self.kept.append(f"{severity.name}: {message}")
                if severity <= library.ILogger.Severity.ERROR:
                    self.errors.append(message)

        def first_error(self) -> str:
            return printable(self.errors[0], 1000) if self.errors else "no reason given"

    return Logger()


def _make_monitor(library: Any, on_share: Share) -> Any:
    """Reports the progress of the builder's outermost phase."""

    class Monitor(library.IProgressMonitor):
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = max(num_steps, 1)
                on_share(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                on_share(phase_name, min((step + 1) / self.steps[phase_name], 1.0))
            return True

        def phase_finish(self, phase_name: str) -> None:
            if self.steps.pop(phase_name, None):
                on_share(phase_name, 1.0)

    return Monitor()
