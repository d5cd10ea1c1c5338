"""Builds OpenVINO engines: the exported graph as it is, or quantised to INT8."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.export import INPUT_NAME, OUTPUT_NAMES, export_onnx
from prn_fast.engine.openvino import GRAPH_FILE, import_openvino
from prn_fast.errors import EngineError
from prn_fast.package import Package

# Kept in float, since rounding there is measured to cost accuracy, while most of the arithmetic lies elsewhere:
# the backbone and the first fusion, because a residual is a small difference of large values, squared; and products
# between values of the image, the distances to the prototypes and the attention's.
FLOAT_MODULES = ("model.backbone", "model.fusion1")
FLOAT_OPERATIONS = ("MatMul",)


def build(package: Package, precision: str, folder: Path) -> dict[str, Any]:
    """Write the engine's files.

    Args:
        package: trained.
        precision: "fp32", "bf16" (the same graph, computed in bfloat16) or "int8".
        folder: empty; filled with model.xml and model.bin.
    Returns:
        What the manifest should record of the build.
    Raises:
        EngineError: a library is missing.
    """
    openvino = import_openvino()
    onnx_file = folder / "graph.onnx"
    names = nodes_of(export_onnx(package.model(), onnx_file), FLOAT_MODULES)
    graph = openvino.Core().read_model(onnx_file)
    onnx_file.unlink()
    record: dict[str, Any] = {"versions": {"openvino": openvino.__version__}}
    if precision == "int8":
        images = package.calibration_images()
        graph, record["versions"]["nncf"] = quantize(graph, images, names)
        record["calibration_images"] = len(images)
        record["kept_in_float"] = [*FLOAT_MODULES, *FLOAT_OPERATIONS]
    openvino.save_model(graph, folder / GRAPH_FILE, compress_to_fp16=False)
    record["input"] = INPUT_NAME
    record["outputs"] = list(OUTPUT_NAMES)
    return record


def nodes_of(onnx_model: bytes, modules: tuple[str, ...]) -> list[str]:
    """Names of the nodes that an exported ONNX model has for some modules of the network."""
    import onnx

    graph = onnx.load_from_string(onnx_model).graph
    names = []
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        if any(f"'{module}'" in scopes for module in modules):
            names.append(node.name)
    return names


def quantize(graph: Any, images: NDArray[np.uint8], kept_in_float: list[str]) -> tuple[Any, str]:
    """Post-training quantisation of convolutions to INT8 by NNCF, calibrated on uint8 images (N, S, S, C).

    Args:
        kept_in_float: names of nodes to leave as they are, beside those of `FLOAT_OPERATIONS`.
    Returns:
        the quantised graph, and NNCF's version.
    """
    try:
        import nncf
    except ImportError:
        raise EngineError("NNCF is not installed: pip install 'prn-fast[openvino]'") from None
    logging.getLogger("nncf").setLevel(logging.WARNING)
    samples = nncf.Dataset([image[np.newaxis] for image in images])
    quantized = nncf.quantize(
        graph,
        samples,
        # PRN's activations are not one-sided: biases of the fused maps, residuals.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=kept_in_float, types=list(FLOAT_OPERATIONS), validate=False),
    )
    return quantized, nncf.__version__
