"""The network exported with each operation as a flavour of TensorRT takes it: plugins with the Triton kernels, or its
own layers. `prn_fast.build.tensorrt_plugins.LOWERINGS` is the table."""

from prn_fast.build.export import export_onnx
from prn_fast.build.profiles import BatchProfile
from prn_fast.engine.tensorrt_flavours import Flavour, parse_capability
from prn_fast.package import Package

# Quantisation runs the float graph on calibration images here, and no plugin runs on a CPU.
NATIVE_PRECISIONS = ("int8", "fp8")


def lowered(
    package: Package, flavour: Flavour, precision: str, capability: str | None, profile: BatchProfile
) -> tuple[bytes, dict[str, str]]:
    """The engine graph of a package in ONNX, float32, and what became of each operation.

    Args:
        package: trained.
        flavour: "tensorrt" takes plugins.
        precision: quantised engines get none.
        capability: of the GPU at hand, which plugins are compiled for; None if there is none.
        profile: whose usual size the plugins are tuned for.
    Returns:
        the exported model, and "plugin" or "native" by operation.
    """
    if not flavour.plugins or capability is None or precision in NATIVE_PRECISIONS:
        return export_onnx(package.model()), {}
    from prn_fast.build.tensorrt_plugins import lowerings_for, ops_for, register_plugins

    register_plugins()
    ops = ops_for(flavour.name, package.config, parse_capability(capability), profile.usual)
    chosen = lowerings_for(flavour.name, package.config)
    return export_onnx(package.model(), ops=ops), {name: lowering.name.lower() for name, lowering in chosen.items()}
