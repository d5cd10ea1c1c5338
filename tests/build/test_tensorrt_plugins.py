"""The graph that TensorRT's ONNX parser is given: a node for each kernel, and together what the network computes."""

from dataclasses import replace

import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch.nn import functional

from prn_fast.build.tensorrt_plugins import LOWERINGS, NAMESPACE, Lowering, lowerings_for, ops_for
from prn_fast.build.tensorrt_plugins.formulation import PLUGINS
from prn_fast.kernels import OPTIMIZED, REFERENCE
from prn_fast.model.config import PRNConfig, preset
from tests import needs
from tests.build.interpreted_plugins import run_plugin
from tests.build.plugin_graph import BATCH, CAPABILITY, attributes_of, exported, plugin_nodes, small_network, tensors_of
from tests.small_package import textured_images

# The small network is exported once for all of this file.
pytestmark = pytest.mark.long


def test_each_operation_is_its_plugins_and_nothing_else():
    counts: dict[str, int] = {}
    for node in plugin_nodes(exported()):
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert counts == {
        "distance": 3,
        "residual": 3,
        "project_upsample_add_1_2": 3,
        "project_upsample_add_2_1": 3,
        "logits_3": 3,
        "softmax": 3,
        "mixing_4": 3,
        "top_pixels": 1,
        "score": 1,
    }
    others = {node.op_type for node in exported().graph.node if not node.domain}
    # What the operations are made of in the optimized formulation.
    assert not others & {
        "ArgMin",
        "Gather",
        "MatMul",
        "Gemm",
        "Softmax",
        "TopK",
        "Sigmoid",
        "Reshape",
        "Einsum",
        "Tile",
    }
    # The decoder's own.
    assert sum(node.op_type == "Resize" for node in exported().graph.node) == 4


def test_parser_finds_every_node_s_plugin_and_attributes():
    for node in plugin_nodes(exported()):
        attributes = attributes_of(node)
        assert attributes.pop("plugin_namespace") == NAMESPACE.encode()
        assert attributes.pop("aot") == 1
        plugin = PLUGINS[node.op_type]
        assert set(attributes) == set(plugin.all_attributes)
        for name, kind in plugin.all_attributes.items():
            assert isinstance(attributes[name], kind), name
        assert len(node.input) == len(plugin.inputs)
        assert attributes["capability"] == 10 * CAPABILITY[0] + CAPABILITY[1]
    assert {one.domain: one.version for one in exported().opset_import}[NAMESPACE] == 1


def test_weights_are_constants_as_the_kernels_read_them():
    constants = {one.name for one in exported().graph.initializer}
    for node in plugin_nodes(exported()):
        for name, tensor in zip(PLUGINS[node.op_type].inputs, node.input, strict=True):
            weight = name.startswith(("prototypes", "projection", "value", "weight", "bias"))
            assert (tensor in constants) == weight, (node.op_type, name)
            if name.startswith(("projection", "value")):
                assert tensors_of(exported())[tensor][1][0] == 2  # query and key are folded into one scale and bias


def test_shapes_follow_from_the_inputs():
    known = tensors_of(exported())
    for node in plugin_nodes(exported()):
        shapes = [tuple(3 if size == -1 else size for size in known[name][1]) for name in node.input]
        given = PLUGINS[node.op_type].shapes(shapes, attributes_of(node))
        expected = [tuple(3 if size == -1 else size for size in known[name][1]) for name in node.output]
        assert list(given)[: len(expected)] == expected, node.op_type


def plugin_operator(name: str) -> type[OpRun]:
    """ONNX's reference implementation of a plugin: its kernel in Triton's interpreter."""

    class Operator(OpRun):
        op_domain = NAMESPACE

        def _run(self, *inputs, **attributes):
            values = {key: attributes[key] for key in PLUGINS[name].all_attributes}
            outputs = run_plugin(PLUGINS[name], [torch.from_numpy(one) for one in inputs], values, BATCH)
            return tuple(one.numpy() for one in outputs)

    Operator.__name__ = name
    return Operator


class Conv(OpRun):
    """ONNX's own reference convolution takes minutes for this network."""

    op_domain = ""

    def _run(self, x, w, b=None, **attributes):
        top, left, bottom, right = attributes["pads"]
        padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
        bias = None if b is None else torch.from_numpy(b)
        strides, groups = attributes["strides"], attributes["group"]
        return (functional.conv2d(padded, torch.from_numpy(w), bias, strides, groups=groups).numpy(),)


@pytest.mark.parametrize("batch", [1])
def test_graph_with_its_kernels_computes_what_the_network_computes(batch):
    operators = [plugin_operator(name) for name in {node.op_type for node in plugin_nodes(exported())}]
    evaluator = ReferenceEvaluator(exported(), new_ops=[Conv, *operators])
    model = small_network()
    images = textured_images(batch, model.config.image_channels, 50 + batch)
    scores, maps = evaluator.run(None, {"images": images})
    with torch.no_grad():
        expected_scores, expected_maps = model.detect(torch.from_numpy(images))
    # Rounding in float32 grows through a random network; a wrong formula would show in the first digit.
    torch.testing.assert_close(torch.from_numpy(maps), expected_maps, rtol=0, atol=5e-3)
    torch.testing.assert_close(torch.from_numpy(scores), expected_scores, rtol=0, atol=5e-3)
    assert float((torch.from_numpy(maps) - expected_maps).abs().mean()) < 1e-4


def test_one_table_says_what_becomes_of_every_operation():
    assert set(LOWERINGS) == set(OPTIMIZED.__dataclass_fields__)
    config = preset("r18")
    assert ops_for("tensorrt-rtx", config, CAPABILITY, BATCH) == OPTIMIZED
    turing = ops_for("tensorrt-rtx", config, (7, 5), BATCH)
    assert turing == replace(OPTIMIZED, prototype_residual=REFERENCE.prototype_residual)
    plugins = ops_for("tensorrt", config, CAPABILITY, BATCH)
    for name, lowering in LOWERINGS.items():
        assert (getattr(plugins, name) == getattr(OPTIMIZED, name)) == (lowering["tensorrt"] == Lowering.NATIVE), name


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(PRNConfig(patch_divisors=(1, 2, 4, 8, 8)), id="five-patch-sizes"),
        pytest.param(PRNConfig(image_size=192, patch_divisors=(1, 3)), id="no-power-of-two"),
        pytest.param(PRNConfig(patch_divisors=(1,)), id="whole-map"),
        pytest.param(PRNConfig(projection="pointwise"), id="pointwise"),
    ],
)
def test_attention_that_no_plugin_takes_is_native(config):
    assert lowerings_for("tensorrt", config, CAPABILITY)["multi_size_attention"] == Lowering.NATIVE
    assert ops_for("tensorrt", config, CAPABILITY, BATCH).multi_size_attention == OPTIMIZED.multi_size_attention


@needs.library("tensorrt_rtx_bindings", "tensorrt")
def test_tensorrt_s_own_parser_looks_for_every_node_in_the_plugin_registry():
    # The parser that comes with TensorRT-RTX, which has no plugins to find.
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity, line):
            self.lines.append(line)

    known = tensors_of(exported())
    constants = {one.name: one for one in exported().graph.initializer}
    for node in {node.op_type: node for node in plugin_nodes(exported())}.values():
        log = Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        graph = onnx.helper.make_graph(
            [node],
            "one",
            [value_of(name, *known[name]) for name in node.input if name not in constants],
            [value_of(node.output[0], *known[node.output[0]])],
            [constants[name] for name in node.input if name in constants],
        )
        model = onnx.helper.make_model(graph, opset_imports=list(exported().opset_import))
        assert not parser.parse(model.SerializeToString())
        assert "Plugin not found" in parser.get_error(0).desc()
        wanted = f"pluginName: {node.op_type}, pluginVersion: 1, pluginNamespace: {NAMESPACE}"
        assert any(wanted in line for line in log.lines), log.lines


def value_of(name: str, element_type: int, dimensions: list[int]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, element_type, ["batch" if one == -1 else one for one in dimensions])
