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

# Products between the image's own values: the distances to the prototypes, where a rounded sum can pick the wrong one,
# and attention, where both factors vary with the image. Together 1 % of the arithmetic; all convolutions go to INT8.
KEPT_IN_FLOAT = ("MatMul",)


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
    export_onnx(package.model(), onnx_file)
    graph = openvino.Core().read_model(onnx_file)
    onnx_file.unlink()
    record: dict[str, Any] = {"versions": {"openvino": openvino.__version__}}
    if precision == "int8":
        images = package.calibration_images()
        graph, record["versions"]["nncf"] = quantize(graph, images)
        record["calibration_images"] = len(images)
        record["kept_in_float"] = list(KEPT_IN_FLOAT)
    openvino.save_model(graph, folder / GRAPH_FILE, compress_to_fp16=False)
    record["input"] = INPUT_NAME
    record["outputs"] = list(OUTPUT_NAMES)
    return record


def quantize(graph: Any, images: NDArray[np.uint8]) -> tuple[Any, str]:
    """Post-training quantisation of convolutions to INT8 by NNCF, calibrated on uint8 images (N, S, S, C).

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
        ignored_scope=nncf.IgnoredScope(types=list(KEPT_IN_FLOAT)),
    )
    return quantized, nncf.__version__
