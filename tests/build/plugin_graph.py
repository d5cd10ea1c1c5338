"""A small network exported in plugins, for tests."""

import functools
from typing import Any

import onnx

from prn_fast.build.export import export_onnx
from prn_fast.build.tensorrt_plugins import NAMESPACE, ops_for
from prn_fast.model.prn import PRN
from tests.small_package import small_config, small_model

CAPABILITY = (8, 6)
BATCH = 8
# TensorRT's names of ONNX's types.
TYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF", onnx.TensorProto.BFLOAT16: "BF16"}


@functools.cache
def small_network() -> PRN:
    return small_model(small_config())


@functools.cache
def exported() -> onnx.ModelProto:
    """Shared: do not change it."""
    model = small_network()
    return onnx.load_from_string(export_onnx(model, ops=ops_for("tensorrt", model.config, CAPABILITY, BATCH)))


def plugin_nodes(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in graph.graph.node if node.domain == NAMESPACE]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def tensors_of(graph: onnx.ModelProto) -> dict[str, tuple[int, list[int]]]:
    """Type and dimensions of every tensor with a name; -1 is the batch."""
    found = {one.name: (one.data_type, list(one.dims)) for one in graph.graph.initializer}
    for value in [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]:
        tensor = value.type.tensor_type
        found[value.name] = (tensor.elem_type, [-1 if one.dim_param else one.dim_value for one in tensor.shape.dim])
    return found
