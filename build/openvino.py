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

# What goes to INT8: by far most of the arithmetic. The rest is measured to lose accuracy there: a residual is a small
# difference of large values, squared, and its rounding is what the attention and the decoder then look at.
QUANTIZED_MODULES = ("model.attention", "model.fusion2", "model.decoder")
# Of these, products between two values of the image stay in float.
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
    quantizable = nodes_of(export_onnx(package.model(), onnx_file), QUANTIZED_MODULES)
    graph = openvino.Core().read_model(onnx_file)
    onnx_file.unlink()
    record: dict[str, Any] = {"versions": {"openvino": openvino.__version__}}
    if precision == "int8":
        images = package.calibration_images()
        graph, record["versions"]["nncf"] = quantize(graph, images, quantizable)
        record["calibration_images"] = len(images)
        record["quantized"] = list(QUANTIZED_MODULES)
    openvino.save_model(graph, folder / GRAPH_FILE, compress_to_fp16=False)
    record["input"] = INPUT_NAME
    record["outputs"] = list(OUTPUT_NAMES)
    return record


def nodes_of(onnx_model: bytes, modules: tuple[str, ...]) -> set[str]:
    """Names of the nodes that an exported ONNX model has for some modules of the network."""
    import onnx

    names = set()
    for node in onnx.load_from_string(onnx_model).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        if any(f"'{module}" in scopes for module in modules):
            names.add(node.name)
    return names


def quantize(graph: Any, images: NDArray[np.uint8], quantizable: set[str]) -> tuple[Any, str]:
    """Post-training quantisation of convolutions to INT8 by NNCF, calibrated on uint8 images (N, S, S, C).

    Args:
        quantizable: names of ONNX nodes; all others stay as they are, and so do those of `FLOAT_OPERATIONS`.
    Returns:
        the quantised graph, and NNCF's version.
    """
    try:
        import nncf
    except ImportError:
        raise EngineError("NNCF is not installed: pip install 'prn-fast[openvino]'") from None
    logging.getLogger("nncf").setLevel(logging.WARNING)
    # A convolution with a bias is read as two nodes, NAME/WithoutBiases and NAME.
    names = [operation.get_friendly_name() for operation in graph.get_ops()]
    kept = [name for name in names if name.split("/")[0] not in quantizable]
    samples = nncf.Dataset([image[np.newaxis] for image in images])
    quantized = nncf.quantize(
        graph,
        samples,
        # PRN's activations are not one-sided: biases of the fused maps, residuals.
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=kept, types=list(FLOAT_OPERATIONS), validate=False),
    )
    return quantized, nncf.__version__
