"""Builds OpenVINO engines: the exported graph as it is, or quantised to INT8."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.candidate import BuildOptions, Candidate, ScreenCandidate
from prn_fast.build.export import export_onnx, export_screen
from prn_fast.build.quantization import ATTEMPTS, CLIPPED_SHARE, PROTOTYPE_SEARCH, nodes_of, screen_attempts
from prn_fast.engine.openvino_graph import (
    GRAPH_FILE,
    SCREEN_FILE,
    float_types,
    import_openvino,
    one_core,
    state_float_type,
)
from prn_fast.engine.tensor_names import INPUT_NAME, OUTPUT_NAMES
from prn_fast.errors import StorageError
from prn_fast.extras import require_extra
from prn_fast.package import Package

# Within the quantised modules, products of two activations stay in floating point.
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
    require_extra("openvino", "onnx", "onnxscript", "sklearn", *(["nncf"] if precision == "int8" else []))
    onnx_file = folder / "graph.onnx"
    exported = export_onnx(package.model(), onnx_file)
    graph = one_core().read_model(onnx_file)
    record: dict[str, Any] = {
        "versions": {"openvino": openvino.__version__},
        "input": INPUT_NAME,
        "outputs": list(OUTPUT_NAMES),
    }
    if precision != "int8":
        candidate = folder / "float"
        state_float_type(graph, "bf16" if precision == "bf16" else "f32")
        _save(graph, candidate / GRAPH_FILE)
        yield Candidate(candidate, record, screens=partial(screens, package, precision, candidate))
        return
    import onnx

    nodes = onnx.load_from_string(exported).graph.node
    images = package.calibration_images()
    for number, modules in enumerate(ATTEMPTS):
        quantized, version = quantize(graph, images, nodes_of(nodes, modules))
        # The parts that are not quantised, mainly the backbone, take a third of the time: bfloat16 is tried first.
        for float_type in float_types():
            candidate = folder / f"{number}-{float_type}"
            state_float_type(quantized, float_type)
            _save(quantized, candidate / GRAPH_FILE)
            yield Candidate(
                candidate,
                {
                    **record,
                    "versions": {**record["versions"], "nncf": version},
                    "calibration_images": len(images),
                    "quantized": list(modules),
                    "float": float_type,
                },
                screens=partial(screens, package, precision, candidate),
            )


def screens(package: Package, precision: str, folder: Path) -> Iterator[ScreenCandidate]:
    """Write versions of the screen into an engine's folder, best first; none where the package has no cut."""
    if package.early_exit is None:
        return
    onnx_file = folder.parent / "screen.onnx"
    screen = package.screen()
    exported = export_screen(package.model(), screen, onnx_file)
    if precision != "int8":
        graph = one_core().read_model(onnx_file)
        state_float_type(graph, "bf16" if precision == "bf16" else "f32")
        _save(graph, folder / SCREEN_FILE)
        yield ScreenCandidate({})
        return
    import onnx

    nodes = onnx.load_from_string(exported).graph.node
    images = package.calibration_images()
    for modules in screen_attempts(screen.view_weights is not None):
        graph = one_core().read_model(onnx_file)
        if modules:
            # What is left to compute of constants would hide the prototypes from their quantisation.
            _fold_constants(graph)
            float_operations = () if PROTOTYPE_SEARCH in modules else FLOAT_OPERATIONS
            graph, _ = quantize(graph, images, nodes_of(nodes, modules), float_operations)
        for float_type in float_types():
            state_float_type(graph, float_type)
            _save(graph, folder / SCREEN_FILE)
            yield ScreenCandidate({"quantized": list(modules), "float": float_type})


def _fold_constants(graph: Any) -> None:
    """Compute what depends on no image, in the graph itself."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(graph)


def _save(graph: Any, file: Path) -> None:
    """Write a graph and its weights; a StorageError where the disk does not take them."""
    try:
        import_openvino().save_model(graph, file, compress_to_fp16=False)
    except RuntimeError as error:  # its streams give neither the file nor the reason
        raise StorageError(f"{file}: cannot be written ({error}); is the disk full?") from None


def quantize(
    graph: Any, images: NDArray[np.uint8], quantizable: set[str], float_operations: Sequence[str] = FLOAT_OPERATIONS
) -> tuple[Any, str]:
    """Post-training quantisation of convolutions to INT8 by NNCF, calibrated on uint8 images (N, S, S, C).

    Activations have eight bits; weights have seven, but for depthwise convolutions, which add nothing over channels.

    Args:
        quantizable: names of ONNX nodes; all others stay as they are.
        float_operations: kinds of nodes that stay as they are, too.
    Returns:
        the quantised graph, and NNCF's version.
    """
    require_extra("openvino", "nncf")
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
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
        ignored_scope=nncf.IgnoredScope(names=kept, types=list(float_operations), validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            # Weights in seven bits: processors without VNNI add two products in 16 bits, which eight bits overflow, and
            # an engine must compute the same where it was verified and where it runs.
            overflow_fix=OverflowFix.ENABLE,
            activations_range_estimator_params=RangeEstimatorParameters(low, high),
        ),
    )
    return quantized, nncf.__version__
