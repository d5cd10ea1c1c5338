"""The network exported with each operation as a flavour of TensorRT takes it: plugins with the Triton kernels, or its
own layers. `prn_fast.build.tensorrt_plugins.LOWERINGS` is the table."""

from functools import partial

from prn_fast.build.export import export_onnx, export_screen
from prn_fast.build.profiles import BatchProfile
from prn_fast.engine.tensorrt_flavours import Flavour, parse_capability
from prn_fast.model.screen import Screen
from prn_fast.package import Package

# Quantisation runs the float graph on calibration images here, and no plugin runs on a CPU.
NATIVE_PRECISIONS = ("int8", "fp8")


def lowered(
    package: Package,
    flavour: Flavour,
    precision: str,
    capabilities: tuple[str, ...],
    profile: BatchProfile,
    screen: Screen | None = None,
) -> tuple[bytes, dict[str, str]]:
    """The engine graph of a package in ONNX, float32, and how each operation was lowered.

    Args:
        package: trained.
        flavour: "tensorrt" takes plugins.
        precision: quantised engines get none.
        capabilities: of the engine; plugins are compiled for the lowest.
        profile: whose usual size the plugins are tuned for.
        screen: export this one by itself; None exports the network.
    Returns:
        the exported model, and the name of a `Lowering`, in small letters, by operation.
    """
    export = export_onnx if screen is None else partial(export_screen, screen=screen)
    if flavour.plugins and precision in NATIVE_PRECISIONS:
        return export(package.model()), {}
    from prn_fast.build.tensorrt_plugins import lowerings_for, ops_for, register_plugins

    if flavour.plugins:
        register_plugins()
    lowest = min(parse_capability(capability) for capability in capabilities)
    ops = ops_for(flavour.name, package.config, lowest, profile.usual)
    chosen = lowerings_for(flavour.name, package.config, lowest)
    return export(package.model(), ops=ops), {name: lowering.name.lower() for name, lowering in chosen.items()}
