"""Builds OpenVINO engines: the exported graph as it is, or quantised to INT8."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.candidate import BuildOptions, Candidate
from prn_fast.build.export import INPUT_NAME, OUTPUT_NAMES, export_onnx
from prn_fast.build.quantization import ATTEMPTS, CLIPPED_SHARE, nodes_of
from prn_fast.engine.openvino import GRAPH_FILE, float_types, import_openvino, state_float_type
from prn_fast.errors import EngineError
from prn_fast.package import Package

# Of what is quantised, products between two values of the image stay in float.
FLOAT_OPERATIONS = ("MatMul",)


def builds(package: Package, precision: str, folder: Path, options: BuildOptions) -> Iterator[Candidate]:
    """Write candidates of an engine, best first; the caller stops at the first that passes verification.

    Args:
        package: trained.
        precision: "fp32", "bf16" (the same graph, computed in bfloat16) or "int8".
        folder: empty; each candidate gets a folder in it, with model.xml and model.bin.
        options: none that names a batch or devices.
    Raises:
        EngineError: a library is missing, or an option does not fit.
    """
    options.refuse("openvino", "batch", "capabilities")
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
        state_float_type(graph, "bf16" if precision == "bf16" else "f32")
        openvino.save_model(graph, candidate / GRAPH_FILE, compress_to_fp16=False)
        yield Candidate(candidate, record)
        return
    import onnx

    nodes = onnx.load_from_string(exported).graph.node
    images = package.calibration_images()
    for number, modules in enumerate(ATTEMPTS):
        quantized, version = quantize(graph, images, nodes_of(nodes, modules))
        # What stays in float, the backbone before all, takes a third of the time: bfloat16 is tried first.
        for float_type in float_types():
            candidate = folder / f"{number}-{float_type}"
            state_float_type(quantized, float_type)
            openvino.save_model(quantized, candidate / GRAPH_FILE, compress_to_fp16=False)
            yield Candidate(
                candidate,
                {
                    **record,
                    "versions": {**record["versions"], "nncf": version},
                    "calibration_images": len(images),
                    "quantized": list(modules),
                    "float": float_type,
                },
            )


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
