"""Eight bits through quantise and dequantise nodes in the graph, by ONNX Runtime's quantisation tools.

As TensorRT requires: signed and symmetric (no zero point), weights by output channel, biases in float, and nothing
quantised after a convolution, where it would separate the convolution from its activation.
"""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.quantization import CLIPPED_SHARE, nodes_of
from prn_fast.engine.tensor_names import INPUT_NAME

OPERATIONS = ("Conv",)
FLOAT8_MAX = np.float32(448)
INT8_MAX, SMALLEST_HALF = 127, float(np.finfo(np.float16).smallest_subnormal)


class ImageReader:
    """Gives images to ONNX Runtime's calibration, one at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._remaining = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next image as the graph's input; None after the last one."""
        image = next(self._remaining, None)
        return None if image is None else {INPUT_NAME: image[np.newaxis]}


def saved(model: Any, path: Path) -> str:
    """Write an onnx.ModelProto and return its path."""
    path.write_bytes(model.SerializeToString())
    return str(path)


def quantizable(model: Any, modules: Collection[str]) -> set[str]:
    """Names of the convolutions of some modules of the network."""
    return nodes_of((node for node in model.graph.node if node.op_type in OPERATIONS), modules)


def activation_ranges(model: Any, nodes: Collection[str], images: NDArray[np.uint8], folder: Path) -> Any:
    """Ranges of the inputs of some convolutions, less the share of values that `CLIPPED_SHARE` clips.

    Args:
        model: onnx.ModelProto, float32.
        nodes: names of convolutions.
        images: (N, S, S, C), for calibration.
        folder: for temporary files.
    Returns:
        onnxruntime's TensorsData.
    """
    import onnx
    from onnxruntime.quantization.calibrate import PercentileCalibrater

    fed = {node.input[0] for node in model.graph.node if node.name in nodes}

    class Calibrater(PercentileCalibrater):
        def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], dict[str, Any]]:
            infos = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in fed}
            return fed, infos

    calibrater = Calibrater(
        saved(model, folder / "float.onnx"),
        augmented_model_path=str(folder / "augmented.onnx"),
        symmetric=True,
        num_bins=2048,
        percentile=100 * (1 - CLIPPED_SHARE),
    )
    calibrater.augment_graph()
    calibrater.create_inference_session()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        for image in images:  # one at a time: each keeps all its maps until its histograms are made
            calibrater.collect_data(ImageReader(image[np.newaxis]))
        return calibrater.compute_data()


def quantize(model: Any, nodes: Collection[str], ranges: Any, precision: str = "int8") -> Any:
    """A graph with quantised convolutions.

    Args:
        model: onnx.ModelProto, float32; it is not changed.
        nodes: names of convolutions to quantise.
        ranges: of `activation_ranges`.
        precision: "int8", or "fp8" (float8 E4M3).
    Returns:
        a new onnx.ModelProto; all that is not quantised is float32 as before.
    """
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    kind = {"int8": QuantType.QInt8, "fp8": QuantType.QFLOAT8E4M3FN}[precision]
    if precision == "fp8":
        ranges = _as_distributions(ranges)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _silence_tiny_channels(copy, nodes)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=kind,
        activation_qType=kind,
        tensors_range=ranges,
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATIONS),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(OPERATIONS),
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def _silence_tiny_channels(model: Any, nodes: Collection[str]) -> None:
    """Set output channels of convolutions whose scale would be zero in float16 to zero, in the graph itself.

    Scales are in half precision where their layer is, and no library accepts a scale of zero. Such channels, which one
    published backbone has, contribute less than a millionth.
    """
    from onnx import numpy_helper

    weights = {node.input[1] for node in model.graph.node if node.name in nodes}
    for constant in model.graph.initializer:
        if constant.name in weights:
            values = numpy_helper.to_array(constant)
            tiny = np.abs(values).reshape(len(values), -1).max(axis=1) < SMALLEST_HALF * INT8_MAX
            if tiny.any():
                values = np.where(tiny.reshape(-1, *[1] * (values.ndim - 1)), np.float32(0), values)
                constant.CopyFrom(numpy_helper.from_array(values, constant.name))


def _as_distributions(ranges: Any) -> Any:
    """Ranges in the form from which ONNX Runtime makes scales of float8: the standard deviation that its largest
    number, 448, then stands for the end of the range."""
    from onnx import TensorProto
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.quant_utils import compute_scale_zp_float8

    _, scale_of_one = compute_scale_zp_float8(TensorProto.FLOAT8E4M3FN, np.float32(1))
    unit = 1 / (FLOAT8_MAX * np.float32(scale_of_one))
    return TensorsData(
        CalibrationMethod.Distribution,
        {
            name: TensorData(
                lowest=one.lowest,
                highest=one.highest,
                avg=np.float32(0),
                std=np.float32(max(abs(one.lowest), abs(one.highest)) * unit),
            )
            for name, one in ranges.items()
        },
    )
