"""The exported graph in the types of an engine. TensorRT takes strongly typed networks only: the graph states each
layer's type by the type of its tensors, with casts where it changes.

Half precision (float16 or bfloat16) is everywhere but in
- what stands between the network's modules: normalising, and prototype residuals, small differences of large values;
- softmax, sigmoid and image scores: small tensors, and sums of exponentials;
- the root of squared residuals, which is what the screen reads;
- modules, and single nodes, that the caller keeps in float32.

For float16, whose largest number is 65504, every change of type clips to that range, so that a large squared residual
or attention logit becomes the largest number and not an infinity (and then NaN).
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.build.quantization import nodes_of
from prn_fast.build.tensorrt_plugins import NAMESPACE, retype

# From this version on, quantisation scales may be in half precision.
OPSET = 19
FLOAT16_MAX = 65504.0
# Nodes whose values on the calibration images come this close to float16's largest number stay in float32.
HEADROOM = 8.0
MODULES = ("model.backbone", "model.fusion1", "model.attention", "model.fusion2", "model.decoder", "screen")
FLOAT32_OPERATIONS = ("Softmax", "Sigmoid", "TopK", "ReduceMean", "ArgMin", "Sqrt")
# Outputs of these lie in 0..1 and need no clipping.
BOUNDED_OPERATIONS = ("Softmax", "Sigmoid")
# Suffix of the names of nodes that clip to float16's range.
RANGE_CLIP = "/range_clip"
# Inputs with a fixed type, by operation: scales of Resize are float32 whatever it resizes.
FLOAT32_INPUTS = {"Resize": (1, 2)}


def parse_graph(exported: bytes) -> Any:
    """An exported graph as an onnx.ModelProto of `OPSET`, with everything that does not depend on images computed."""
    import onnx
    import onnx_ir
    from onnxscript import optimizer, version_converter

    graph = onnx_ir.from_proto(onnx.load_from_string(exported))
    no_limit = 1 << 40
    optimizer.fold_constants(graph, input_size_limit=no_limit, output_size_limit=no_limit)
    optimizer.remove_unused_nodes(graph)
    version_converter.convert_version(graph, OPSET)
    model = onnx_ir.to_proto(graph)
    _cast_images_first(model)
    return onnx.shape_inference.infer_shapes(model)


def _cast_images_first(model: Any) -> None:
    """Let only a cast read the bytes, as TensorRT requires: grey images are repeated by channel as floats."""
    import onnx

    (images,) = model.graph.input
    readers = [node for node in model.graph.node if images.name in node.input and node.op_type not in ("Cast", "Shape")]
    if not readers:
        return
    floats = f"{images.name}/float"
    cast = onnx.helper.make_node("Cast", [images.name], [floats], name=f"{floats}/cast", to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    for node in readers:
        node.input[list(node.input).index(images.name)] = floats
    del model.graph.value_info[:]  # types behind the cast are others now


def peaks(model: Any, images: NDArray[np.uint8], folder: Path) -> dict[str, float]:
    """Largest absolute value of every float tensor of a graph over some images, by ONNX Runtime.

    Args:
        model: onnx.ModelProto, float32.
        images: (N, S, S, C).
        folder: for temporary files.
    """
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    from prn_fast.build.tensorrt.quantization import ImageReader, saved

    path = saved(model, folder / "float.onnx")
    calibrater = MinMaxCalibrater(path, augmented_model_path=str(folder / "augmented.onnx"), symmetric=True)
    calibrater.augment_graph()
    calibrater.create_inference_session()
    calibrater.collect_data(ImageReader(images))
    found = calibrater.compute_data()
    return {name: float(np.max(np.abs(found[name].range_value))) for name in found.keys()}  # noqa: SIM118


def wide_nodes(model: Any, tensor_peaks: dict[str, float]) -> set[str]:
    """Names of the nodes whose output comes within `HEADROOM` of float16's largest number."""
    limit = FLOAT16_MAX / HEADROOM
    return {
        node.name
        for node in model.graph.node
        # An infinite or NaN peak exceeds any limit.
        if any(name in tensor_peaks and not tensor_peaks[name] <= limit for name in node.output)
    }


def balance_attention(model: Any) -> int:
    """Share the attention's factor 1/D between query and key, in the graph itself.

    The exported query is x * (w / D) + u / D with D up to a million: constants below float16's smallest number. Query
    constants are multiplied and keys divided by a power of two near sqrt(D), which changes no bit of a float32 result
    unless it is subnormal.

    Returns:
        how many attention products were changed.
    """
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    producers: dict[str, Any] = {name: node for node in graph.node for name in node.output}
    constants = {initializer.name: initializer for initializer in graph.initializer}

    def producer(tensor: str, operation: str) -> Any:
        node = producers.get(tensor)
        return node if node is not None and node.op_type == operation else None

    changed = 0
    for softmax in [node for node in graph.node if node.op_type == "Softmax"]:
        product = producer(softmax.input[0], "MatMul")
        add = product and producer(product.input[0], "Add")
        multiply = add and producer(add.input[0], "Mul")
        if not multiply:
            continue
        names = multiply.input[1], add.input[1]
        if not all(name in constants for name in names):
            continue
        size = math.prod(constants[names[0]].dims)
        factor = 2.0 ** round(math.log2(size) / 2)
        for node, name in zip((multiply, add), names, strict=True):
            value = numpy_helper.to_array(constants[name]) * np.float32(factor)
            node.input[1] = f"{name}/balanced/{node.name}"
            graph.initializer.append(numpy_helper.from_array(value, node.input[1]))
        key = product.input[1]
        divided = f"{key}/balanced/{factor:g}"
        if divided not in producers:
            divisor = f"{divided}/divisor"
            graph.initializer.append(numpy_helper.from_array(np.array(1 / factor, np.float32), divisor))
            scale = onnx.helper.make_node("Mul", [key, divisor], [divided], name=f"{product.name}/balance_key")
            scale.metadata_props.extend(product.metadata_props)
            graph.node.insert(list(graph.node).index(product), scale)
            producers[divided] = scale
        product.input[1] = divided
        changed += 1
    used = {name for node in graph.node for name in node.input}
    for initializer in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(initializer)
    return changed


def to_half(
    model: Any, precision: str, float32_modules: Collection[str] = (), float32_nodes: Collection[str] = ()
) -> Any:
    """A graph in half precision as the head of this file states.

    Args:
        model: onnx.ModelProto in float32, quantised or not, as `parse_graph` gives it; it is not changed.
        precision: "fp16" or "bf16".
        float32_modules, float32_nodes: kept in float32.
    Returns:
        a new onnx.ModelProto with the same inputs and outputs.
    """
    import onnx

    kept = nodes_of(model.graph.node, float32_modules) | set(float32_nodes)
    inside = nodes_of(model.graph.node, MODULES)
    half = {
        node.name
        for node in model.graph.node
        if node.name not in kept
        and node.op_type not in FLOAT32_OPERATIONS
        and (node.name in inside or node.op_type == "Concat")
    }
    return _TypedGraph(onnx.shape_inference.infer_shapes(model), precision, half).rewritten()


class _TypedGraph:
    """One pass over a float32 graph in the order of its nodes, which writes a graph of two float types."""

    def __init__(self, model: Any, precision: str, half: set[str]) -> None:
        import onnx

        self.model = model
        self.half = half
        self.float_type = onnx.TensorProto.FLOAT
        self.half_type = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
        self.constants = {one.name: one for one in model.graph.initializer}
        self.nodes: list[Any] = []
        self.written: dict[tuple[str, int], str] = {}  # tensor and type, to the name of that version of it
        self.initializers: dict[str, Any] = {}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.consumers: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        known = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self.types = {one.name: one.type.tensor_type.elem_type for one in known}

    def rewritten(self) -> Any:
        """The new model."""
        import onnx

        for node in self.model.graph.node:
            self._add(node)
        for output in self.model.graph.output:
            if self.types[output.name] != output.type.tensor_type.elem_type:
                raise AssertionError(f"the output {output.name} would be of half precision")
        graph = onnx.helper.make_graph(
            self.nodes,
            self.model.graph.name,
            list(self.model.graph.input),
            list(self.model.graph.output),
            list(self.initializers.values()),
        )
        typed = onnx.helper.make_model(graph, opset_imports=list(self.model.opset_import))
        typed.ir_version = self.model.ir_version
        return typed

    def _type_for(self, node: Any) -> int:
        """The float type that a node computes in."""
        if node.op_type == "QuantizeLinear":  # takes what is there, without a cast
            return self.types.get(node.input[0], self.float_type)
        if node.op_type == "DequantizeLinear":  # gives what is wanted
            (consumer, *_) = self.consumers[node.output[0]]
            return self._type_for(consumer)
        return self.half_type if node.name in self.half else self.float_type

    def _add(self, node: Any) -> None:
        import onnx

        wanted = self._type_for(node)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.domain == NAMESPACE:
            self._add_plugin(copy, wanted)
            return
        for index, name in enumerate(node.input):
            own = self.float_type if index in FLOAT32_INPUTS.get(node.op_type, ()) else wanted
            copy.input[index] = self._in_type(name, own)
        if node.op_type == "Cast" and self.types[node.output[0]] == self.float_type:
            copy.attribute[0].i = wanted
        self.nodes.append(copy)
        for name in node.output:
            if self.types.get(name) == self.float_type:
                self.types[name] = wanted

    def _add_plugin(self, node: Any, wanted: int) -> None:
        """A plugin's partial results are float32 whatever the type of its maps."""
        inputs, outputs = retype(node, wanted)
        for index, (name, kind) in enumerate(zip(list(node.input), inputs, strict=True)):
            node.input[index] = self._in_type(name, kind)
        self.nodes.append(node)
        self.types.update(zip(node.output, outputs, strict=True))

    def _in_type(self, name: str, wanted: int) -> str:
        """Name of a tensor in a float type; other tensors stay as they are."""
        if name in self.constants:
            return self._constant(name, wanted)
        current = self.types.get(name)
        if current not in (self.float_type, self.half_type) or current == wanted:
            return name
        if (name, wanted) not in self.written:
            self.written[name, wanted] = self._cast(name, wanted)
        return self.written[name, wanted]

    def _cast(self, name: str, wanted: int) -> str:
        """Add a cast, clipped in float32 if float16 is on one side of it."""
        import onnx
        from onnx import numpy_helper

        label = onnx.TensorProto.DataType.Name(wanted).lower()
        clips = self.half_type == onnx.TensorProto.FLOAT16 and not (
            name in self.producers and self.producers[name].op_type in BOUNDED_OPERATIONS
        )
        result = f"{name}/{label}"
        cast_input, cast_output = name, result
        if clips:
            bounds = ["float16_lowest", "float16_highest"]
            for bound, value in zip(bounds, (-FLOAT16_MAX, FLOAT16_MAX), strict=True):
                self.initializers[bound] = numpy_helper.from_array(np.array(value, np.float32), bound)
            clipped = f"{name}/{label}/clipped"
            if wanted == self.float_type:  # first the cast
                cast_output = clipped
                clip = onnx.helper.make_node("Clip", [clipped, *bounds], [result], name=f"{result}{RANGE_CLIP}")
            else:
                cast_input = clipped
                clip = onnx.helper.make_node("Clip", [name, *bounds], [clipped], name=f"{result}{RANGE_CLIP}")
        cast = onnx.helper.make_node("Cast", [cast_input], [cast_output], name=f"{result}/cast", to=wanted)
        self.nodes += [cast] if not clips else [cast, clip] if wanted == self.float_type else [clip, cast]
        return result

    def _constant(self, name: str, wanted: int) -> str:
        """Name of a constant in a float type; one that is no float32 tensor is taken over."""
        import onnx
        from onnx import numpy_helper

        constant = self.constants[name]
        if constant.data_type != self.float_type or wanted == self.float_type:
            self.initializers[name] = constant
            return name
        result = f"{name}/half"
        if result not in self.initializers:
            values = numpy_helper.to_array(constant)
            if wanted == onnx.TensorProto.FLOAT16:
                values = np.clip(values, -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)
            else:
                values = values.astype(onnx.helper.tensor_dtype_to_np_dtype(wanted))
            self.initializers[result] = numpy_helper.from_array(values, result)
        return result
