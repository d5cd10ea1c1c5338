"""Where an engine's time goes: a table of operations from its backend's own profiler, by the network's parts.

Profiling slows an engine down, so shares are what to read, not sums.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.engine import Engine
from prn_fast.engine.names import SCREEN, split_way
from prn_fast.engine.openvino import OpenVINOEngine
from prn_fast.engine.openvino_graph import GRAPH_FILE, SCREEN_FILE, one_core, stated_float_type
from prn_fast.kernels import REFERENCE
from prn_fast.model.prn import PRN
from prn_fast.package import Package

# In the order of the data.
PARTS = ("preprocessing", "backbone", "residual", "fusion", "attention", "decoder", "scoring")
# Beginning of a parameter's name, and the part that it belongs to.
PART_OF_MODULE = {
    "backbone": "backbone",
    "prototypes": "residual",
    "fusion1": "fusion",
    "attention": "attention",
    "fusion2": "fusion",
    "decoder": "decoder",
}
# The same, where the first and second fusion must be distinguished, to put them in order.
ORDER_OF_MODULE = {name: position for position, name in enumerate(("", *PART_OF_MODULE, "scoring"))}
SCORING_TYPES = ("TopK", "ReduceMean", "Sigmoid", "Result")
CALLS = 5
ROWS = 40
SCOPE = "prn_fast/"


@dataclass(frozen=True)
class ProfileRow:
    """One operation: its name, type, part of the network, and milliseconds of one call of the engine."""

    name: str
    type: str
    part: str
    ms: float


@dataclass(frozen=True)
class Profile:
    """Times of one engine's operations.

    Attributes:
        source: the profiler.
        parts_ms: milliseconds of one call by part.
        rows: the longest operations, longest first.
    """

    engine: str
    batch: int
    source: str
    total_ms: float
    parts_ms: dict[str, float]
    rows: list[ProfileRow]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


def profile(engine: Engine, package: Package, images: NDArray[np.uint8]) -> Profile | None:
    """Profile calls with these images; None for a backend without a profiler that can cope with it."""
    if isinstance(engine, OpenVINOEngine):
        return profile_openvino(engine.name, package, images)
    if hasattr(engine, "profile"):
        # A backend that can profile itself, such as TensorRT, returns (name, type, milliseconds) of each layer.
        rows = [ProfileRow(name, kind, part_of_layer(name), ms) for name, kind, ms in engine.profile(images)]
        return _summed(engine.name, len(images), engine.name.partition(":")[0], rows)
    model = getattr(engine, "model", None)
    if not isinstance(model, PRN) or getattr(engine, "compile_mode", None) is not None:
        return None
    # With one thread PyTorch takes the published convolution of D groups group by group: a million operations a call,
    # which fill the profiler's memory.
    if model.ops == REFERENCE and torch.get_num_threads() == 1 and not torch.cuda.is_available():
        return None
    return profile_torch(engine, images)


def part_of_layer(name: str) -> str:
    """The part that a layer's name states, such as "/model/fusion1/Conv"; "scoring" where it states none."""
    for module, part in PART_OF_MODULE.items():
        if module in name:
            return part
    return "scoring"


def profile_torch(engine: Any, images: NDArray[np.uint8]) -> Profile:
    """An engine with a `model` in eager PyTorch, by torch.profiler."""
    # The profiler writes its own steps to stderr otherwise; it reads this when it first starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu := next(engine.model.parameters()).is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with _scopes(engine.model):
        engine.infer(images)
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            for _ in range(CALLS):
                engine.infer(images)
    milliseconds: dict[tuple[str, str], float] = defaultdict(float)
    for event in profiler.events() or []:
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if own > 0 and not event.name.startswith(SCOPE):
            milliseconds[event.name, _scope_of(event)] += own / 1000 / CALLS
    rows = [ProfileRow(name, name, part, ms) for (name, part), ms in milliseconds.items()]
    return _summed(engine.name, len(images), "torch.profiler", rows)


@contextmanager
def _scopes(model: PRN) -> Iterator[None]:
    """While this lasts, the parts of the network name themselves to the profiler."""

    def scoped(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with torch.profiler.record_function(SCOPE + part):
                return function(*arguments, **options)

        return call

    open_scopes: list[AbstractContextManager[Any]] = []
    hooks = []
    for name, module in model.named_children():
        if name in PART_OF_MODULE and name != "prototypes":
            hooks += _hooked(module, PART_OF_MODULE[name], open_scopes)
    operations = model.ops
    model.ops = replace(operations, prototype_residual=scoped("residual", operations.prototype_residual))
    model.normalize = scoped("preprocessing", model.normalize)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.ops = operations
        del model.normalize


def _hooked(module: torch.nn.Module, part: str, open_scopes: list[AbstractContextManager[Any]]) -> list[Any]:
    """Hooks that open a scope before a module runs and close it after; a list of modules is hooked one by one."""
    if isinstance(module, torch.nn.ModuleList):
        return [hook for child in module for hook in _hooked(child, part, open_scopes)]

    def enter(*_: Any) -> None:
        scope = torch.profiler.record_function(SCOPE + part)
        scope.__enter__()
        open_scopes.append(scope)

    def leave(*_: Any) -> None:
        open_scopes.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def _scope_of(event: Any) -> str:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith(SCOPE):
            return parent.name.removeprefix(SCOPE)
        parent = parent.cpu_parent
    return "scoring"


def profile_openvino(name: str, package: Package, images: NDArray[np.uint8]) -> Profile:
    """A built engine, compiled once more with OpenVINO's counters on."""
    core = one_core()
    plain, way = split_way(name)
    path = package.engine_folder(plain) / (SCREEN_FILE if way == SCREEN else GRAPH_FILE)
    graph = core.read_model(path)
    parts = parts_of_graph(graph)
    graph.reshape(list(images.shape))
    hint = stated_float_type(graph, path)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": True}
    compiled = core.compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    # The compiled graph merges operations; it says which ones each of its nodes was made of.
    origins = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ops()
    }
    request.infer({0: images})
    milliseconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for _ in range(CALLS):
        request.infer({0: images})
        for info in request.get_profiling_info():
            own = info.real_time.total_seconds() * 1000
            if own > 0:
                known = [parts[origin] for origin in origins.get(info.node_name, []) if origin in parts]
                part = max(known, key=PARTS.index, default="preprocessing")
                milliseconds[info.node_name, info.node_type, part] += own / CALLS
    rows = [ProfileRow(node, kind, part, ms) for (node, kind, part), ms in milliseconds.items()]
    return _summed(name, len(images), "OpenVINO", rows)


def parts_of_graph(graph: Any) -> dict[str, str]:
    """The part of each operation of an OpenVINO graph, by its name.

    Constants are named like the network's parameters. An operation belongs to the part that its constants name, or
    else to the part of its inputs that comes last in the network.
    """
    order: dict[str, int] = {}
    for operation in graph.get_ordered_ops():
        name = operation.get_friendly_name()
        if operation.get_type_name() == "Constant":
            order[name] = _order_of(name)
            continue
        inputs = [order.get(value.get_node().get_friendly_name(), 0) for value in operation.input_values()]
        own = max(inputs, default=0)
        decoded = own >= ORDER_OF_MODULE["decoder"]
        order[name] = ORDER_OF_MODULE["scoring"] if decoded and operation.get_type_name() in SCORING_TYPES else own
    names = list(ORDER_OF_MODULE)
    edges = {"": "preprocessing", "scoring": "scoring"}
    return {name: edges.get(names[position]) or PART_OF_MODULE[names[position]] for name, position in order.items()}


def _order_of(constant: str) -> int:
    module = constant.removeprefix("model.").partition(".")[0]
    return ORDER_OF_MODULE.get(module, 0) if constant.startswith("model.") else 0


def _summed(engine: str, batch: int, source: str, rows: list[ProfileRow]) -> Profile:
    parts = dict.fromkeys(PARTS, 0.0)
    for row in rows:
        parts[row.part] += row.ms
    longest = sorted(rows, key=lambda row: -row.ms)[:ROWS]
    return Profile(engine, batch, source, sum(parts.values()), parts, longest)
