"""Builds OpenVINO engines: the exported graph as it is, or quantised to INT8."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.export import INPUT_NAME, OUTPUT_NAMES, export_onnx
from prn_fast.engine.openvino import GRAPH_FILE, import_openvino
from prn_fast.errors import EngineError
from prn_fast.package import Package

# What goes to INT8, by modules of the network, boldest first; the first attempt that passes verification is kept. The
# backbone and the first fusion are never in it: a residual is a small difference of large values, squared, and its
# rounding is what the attention and the decoder then look at.
INT8_ATTEMPTS = (
    ("model.attention", "model.fusion2", "model.decoder"),
    ("model.attention", "model.fusion2"),
    ("model.attention.0", "model.attention.1"),
    ("model.attention.0",),
)
# Of these, products between two values of the image stay in float.
FLOAT_OPERATIONS = ("MatMul",)
# Share of activations that may be clipped: squared residuals have few, very large values, which would otherwise
# stretch the 256 steps of a tensor over a range that is nearly empty.
CLIPPED_SHARE = 1e-5


def builds(package: Package, precision: str, folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write candidates of an engine, best first; the caller stops at the first that passes verification.

    Args:
        package: trained.
        precision: "fp32", "bf16" (the same graph, computed in bfloat16) or "int8".
        folder: empty; each candidate gets a folder in it, with model.xml and model.bin.
    Yields:
        the candidate's folder, and what the manifest should record of its build.
    Raises:
        EngineError: a library is missing.
    """
    openvino = import_openvino()
    onnx_file = folder / "graph.onnx"
    exported = export_onnx(package.model(), onnx_file)
    graph = openvino.Core().read_model(onnx_file)
    record: dict[str, Any] = {
        "versions": {"openvino": openvino.__version__},
        "input": INPUT_NAME,
        "outputs": list(OUTPUT_NAMES),
    }
    if precision != "int8":
        candidate = folder / "float"
        openvino.save_model(graph, candidate / GRAPH_FILE, compress_to_fp16=False)
        yield candidate, record
        return
    images = package.calibration_images()
    for number, modules in enumerate(INT8_ATTEMPTS):
        quantized, version = quantize(graph, images, nodes_of(exported, modules))
        candidate = folder / str(number)
        openvino.save_model(quantized, candidate / GRAPH_FILE, compress_to_fp16=False)
        yield (
            candidate,
            {
                **record,
                "versions": {**record["versions"], "nncf": version},
                "calibration_images": len(images),
                "quantized": list(modules),
            },
        )


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
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )

    logging.getLogger("nncf").setLevel(logging.WARNING)
    low, high = (
        StatisticsCollectorParameters(StatisticsType.QUANTILE, aggregator, quantile_outlier_prob=CLIPPED_SHARE)
        for aggregator in (AggregatorType.MIN, AggregatorType.MAX)
    )
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
        advanced_parameters=AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParameters(low, high)
        ),
    )
    return quantized, nncf.__version__
