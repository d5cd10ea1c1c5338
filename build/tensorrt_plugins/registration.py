"""Registers the plugins with TensorRT, whose ONNX parser then finds them by name and namespace.

TensorRT reads a plugin's inputs and attributes from the signatures of three Python functions. The functions here serve
every plugin; each registration gets its own signature.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prn_fast.build.tensorrt_plugins.formulation import NAMESPACE, PLUGINS, maps_dtype
from prn_fast.build.tensorrt_plugins.ptx import compile_for_plugin
from prn_fast.errors import EngineError
from prn_fast.kernels.plugin import Kind, Plugin, Shape, Use

# TensorRT's channels-last layouts. That of the 16-bit types pads the channels, and is dense where it need not.
CHANNELS_LAST = {torch.float32: "HWC", torch.float16: "HWC8", torch.bfloat16: "HWC8"}
CHANNEL_MULTIPLE = {"HWC": 1, "HWC8": 8}
TYPE_NAMES = {torch.float32: "FP32", torch.float16: "FP16", torch.bfloat16: "BF16"}


def register_plugins() -> None:
    """Register every plugin, once a process. The full TensorRT only: TensorRT-RTX has no such plugins.

    Raises:
        EngineError: TensorRT or Triton is not installed, or TensorRT has no ahead-of-time plugins.
    """
    try:
        import tensorrt
        import tensorrt.plugin as trtp
    except ImportError as error:
        raise EngineError(f"TensorRT's plugins cannot be imported ({error}); install tensorrt 10.9 or newer") from None
    try:
        import triton  # noqa: F401
    except ImportError:
        raise EngineError("Triton, which compiles the plugins, is missing: pip install 'prn-fast[triton]'") from None
    if not hasattr(trtp, "aot_impl"):
        raise EngineError(f"TensorRT {tensorrt.__version__} has no ahead-of-time plugins; install 10.9 or newer")
    for plugin in PLUGINS.values():
        if not hasattr(getattr(trtp.op, NAMESPACE, None), plugin.name):
            _register(plugin, tensorrt, trtp)


def _register(plugin: Plugin, tensorrt: Any, trtp: Any) -> None:
    identifier = f"{NAMESPACE}::{plugin.name}"
    names, kinds = list(plugin.inputs), [*plugin.inputs.values(), *plugin.outputs]
    types = {
        torch.float32: tensorrt.DataType.FLOAT,
        torch.float16: tensorrt.DataType.HALF,
        torch.bfloat16: tensorrt.DataType.BF16,
    }
    dtypes = {value: key for key, value in types.items()}

    def describe(*inputs: Any, **named: Any) -> Any:
        """Shapes and types of the outputs; TensorRT gives attributes by name."""
        attributes = plain(named)
        dtype = maps_dtype(plugin, [dtypes[one.dtype] for one in inputs], attributes)
        shapes: list[Shape] = [tuple(one.shape_expr) for one in inputs]
        return tuple(
            trtp.from_shape_expr(shape, types[torch.float32 if kind == Kind.FLOATS else dtype])
            for shape, kind in zip(plugin.shapes(shapes, attributes), plugin.outputs, strict=True)
        )

    def use_of(arguments: Sequence[Any]) -> Use:
        inputs = arguments[: len(names)]
        attributes = plain(dict(zip(plugin.all_attributes, arguments[len(names) :], strict=False)))
        shapes = tuple(tuple(one.shape.opt) if one.shape.is_dynamic else tuple(one.shape) for one in inputs)
        layouts = {str(one.format.name) for one, kind in zip(inputs, kinds, strict=False) if kind == Kind.MAP}
        dtype = maps_dtype(plugin, [dtypes[one.dtype] for one in inputs], attributes)
        return Use(shapes, dtype, layouts == {CHANNELS_LAST[dtype]}, attributes)

    def tune(*arguments: Any) -> Any:
        """The network's types, and for every layout in which maps are dense the tactics by number."""
        use = use_of(arguments)
        shapes = [*use.shapes, *plugin.shapes(use.shapes, use.attributes)]
        maps = [shape for shape, kind in zip(shapes, kinds, strict=True) if kind == Kind.MAP]
        return [
            trtp.AutoTuneCombination(
                ", ".join("FP32" if kind == Kind.FLOATS else TYPE_NAMES[use.dtype] for kind in kinds),
                ", ".join(layout if kind == Kind.MAP else "LINEAR" for kind in kinds),
                launchable(plugin, replace(use, channels_last=layout != "LINEAR")),
            )
            for layout in dense_layouts(maps, use.dtype)
        ]

    def compiled(*arguments: Any) -> Any:
        """A tactic's kernel, and its grid and number of images as expressions of the batch."""
        use, tactic = use_of(arguments), arguments[-1]
        launch = plugin.tactics(use)[tactic - 1]
        kernel = compile_for_plugin(launch, use.capability)
        batch = arguments[0].shape_expr[0]
        parameters = trtp.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y, parameters.grid_z = (*plugin.grid(launch, batch, trtp.cdiv), 1, 1)[:3]
        parameters.block_x = kernel.threads
        parameters.shared_mem = kernel.shared_memory
        numbers = trtp.SymIntExprs(1)
        numbers[0] = trtp.SymInt32(batch)
        return kernel.name, kernel.ptx.encode(), parameters, numbers

    inputs = dict.fromkeys(names, trtp.TensorDesc)
    attributes = {name: npt.NDArray[np.int32] if kind is list else int for name, kind in plugin.all_attributes.items()}
    outputs = tuple.__class_getitem__((trtp.TensorDesc,) * len(plugin.outputs))
    kernel = tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
    given = {**inputs, **attributes}
    trtp.register(identifier)(signed(describe, given, outputs))
    trtp.autotune(identifier)(signed(tune, {**given, "outputs": outputs}, list[trtp.AutoTuneCombination]))
    trtp.aot_impl(identifier)(signed(compiled, {**given, "outputs": outputs, "tactic": int}, kernel))


def signed(function: Callable[..., Any], parameters: dict[str, Any], result: Any) -> Callable[..., Any]:
    """The function with the signature that `inspect` is to report."""
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
            for name, kind in parameters.items()
        ],
        return_annotation=result,
    )
    return function


def launchable(plugin: Plugin, use: Use) -> list[int]:
    """Numbers, from 1, of the tactics whose kernel a plugin can launch.

    Raises:
        EngineError: none; says what is wrong with the first.
    """
    numbers, refused = [], []
    for number, launch in enumerate(plugin.tactics(use), start=1):
        try:
            compile_for_plugin(launch, use.capability)
            numbers.append(number)
        except EngineError as error:
            refused.append(error)
    if not numbers:
        raise refused[0]
    return numbers


def dense_layouts(maps: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[str]:
    """TensorRT's names of the layouts in which maps of these shapes are dense."""
    last = CHANNELS_LAST[dtype]
    if maps and all(channels % CHANNEL_MULTIPLE[last] == 0 for _, channels, _, _ in maps):
        return ["LINEAR", last]
    return ["LINEAR"]


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as Python numbers and tuples."""
    return {
        name: tuple(int(one) for one in value) if isinstance(value, np.ndarray | tuple | list) else int(value)
        for name, value in attributes.items()
    }
