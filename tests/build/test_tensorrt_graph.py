"""The graphs that go into TensorRT, executed by ONNX Runtime and OpenVINO and compared with eager."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from prn_fast.build.graph_engine import OnnxRuntimeGraph, OpenVINOGraph
from prn_fast.build.tensorrt.graph import FLOAT16_MAX, HEADROOM, balance_attention, parse_graph, to_half, wide_nodes
from prn_fast.build.tensorrt_plugins import NAMESPACE
from prn_fast.engine.parity import TOLERANCES, compare
from tests.build.tensorrt_graphs import network, quantised, typed

# The small networks are exported once for all of this file.
pytestmark = pytest.mark.long
# The networks are random, with saturated attention: they magnify the rounding of half precision and of eight bits.
MAGNIFIED = 3
NETWORKS = ("lite0", "r18")
# All of its weights are random, and eight bits turn its maps upside down; single convolutions are compared instead.
CHAOTIC = (("r18", "int8"), ("r18", "fp8"))


def allowed(precision):
    """Mean difference of the maps."""
    return TOLERANCES[precision].mean_map * (1 if precision == "fp32" else MAGNIFIED)


def found_by(engine, name, precision, tmp_path):
    subject = network(name)
    file = tmp_path / "graph.onnx"
    file.write_bytes(typed(name, precision).SerializeToString())
    package = SimpleNamespace(config=subject.model.config, calibration=lambda name: 0.5, early_exit=None)
    with engine(package, file) as opened:
        return opened.infer(subject.images)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_onnx_runtime_agrees_with_eager(name, precision, tmp_path):
    parity = compare(found_by(OnnxRuntimeGraph, name, precision, tmp_path), network(name).expected)
    assert parity.max_score < 0.1
    if (name, precision) not in CHAOTIC:
        assert parity.mean_map < allowed(precision)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_quantised_convolution_is_close_to_the_float_one(name, precision):
    """The first ones, which read what was computed in float32: their noise is their own."""
    subject, model = network(name), quantised(name, precision)
    outputs = [
        node.output[0]
        for node in subject.graph.graph.node
        if node.op_type == "Conv" and ".0.block." in node.input[1] and "conv2" not in node.input[1]
    ]
    assert len(outputs) == 6  # the first convolution and the shortcut, at three scales
    for expected, found in zip(*(tensors(one, outputs, subject.images) for one in (subject.graph, model)), strict=True):
        noise = np.square(found - expected).mean() / np.square(expected).mean()
        assert noise < {"int8": 0.01, "fp8": 0.02}[precision]


def tensors(model, names, images):
    """Values of some tensors of a graph."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(list(names), {"images": images})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_openvino_agrees_with_eager(name, precision, tmp_path):
    parity = compare(found_by(OpenVINOGraph, name, precision, tmp_path), network(name).expected)
    assert parity.mean_map < allowed(precision)
    assert parity.max_score < 0.1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_a_typed_graph_is_valid_and_keeps_its_interface(name, precision):
    model = typed(name, precision)
    onnx.checker.check_model(model, full_check=precision != "bf16")
    types = {one.name: one.type.tensor_type.elem_type for one in (*model.graph.input, *model.graph.output)}
    assert types == {"images": TensorProto.UINT8, "scores": TensorProto.FLOAT, "maps": TensorProto.FLOAT}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    readers = {node.op_type for node in model.graph.node if "images" in node.input}
    assert readers <= {"Cast", "Shape"}  # TensorRT lets nothing else read bytes


def types_of(model):
    """Element type of each tensor of a typed graph, by onnx's own inference and by the types of constants."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=False)
    known = {one.name: one.type.tensor_type.elem_type for one in inferred.graph.value_info}
    return known | {one.name: one.data_type for one in model.graph.initializer}


@pytest.mark.parametrize(("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_half_precision_is_where_it_is_meant(precision, half):
    model = typed("r18", precision)
    types = types_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    kept = [node for node in convolutions if types[node.input[1]] == TensorProto.FLOAT]
    assert {types[node.input[1]] for node in convolutions} <= {half, TensorProto.FLOAT}
    backbone = [node for node in convolutions if "model.backbone" in node.input[1]]
    assert len(backbone) > 15
    assert len(kept) == (len(backbone) if precision == "bf16" else 0)
    for node in model.graph.node:
        if node.op_type in ("Softmax", "Sigmoid", "TopK", "ArgMin", "Pow"):
            assert types[node.input[0]] == TensorProto.FLOAT, node.name


def small_attention(size: int) -> onnx.ModelProto:
    """x -> softmax((x w / D + u / D) x^T) x with constants as the exporter leaves them, in module model.attention."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], name="mul"),
        helper.make_node("Add", ["scaled", "u"], ["query"], name="add"),
        helper.make_node("Transpose", ["x"], ["key"], perm=[0, 2, 1], name="transpose"),
        helper.make_node("MatMul", ["query", "key"], ["logits"], name="product"),
        helper.make_node("Softmax", ["logits"], ["weights"], axis=-1, name="softmax"),
        helper.make_node("MatMul", ["weights", "x"], ["mixed"], name="mix"),
        helper.make_node("Sigmoid", ["mixed"], ["y"], name="sigmoid"),
    ]
    for node in nodes:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'model.attention.0']")
    constants = [
        numpy_helper.from_array((rng.normal(size=size) / size).astype(np.float32), name) for name in ("w", "u")
    ]
    shape = [1, 4, size]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def run(model, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def test_balancing_changes_no_float32_result_and_saves_float16():
    size = 1 << 17
    plain, balanced = small_attention(size), small_attention(size)
    assert balance_attention(balanced) == 1
    assert balance_attention(plain) == 1  # of a second copy: the count is of products, not of a process
    plain = small_attention(size)
    x = np.random.default_rng(1).normal(size=(1, 4, size)).astype(np.float32) * 4
    np.testing.assert_allclose(run(balanced, x), run(plain, x), rtol=1e-5, atol=1e-6)

    def logits_constants(model):
        return np.concatenate([numpy_helper.to_array(one).ravel() for one in model.graph.initializer if one.dims])

    # 1 / D rounds to a few subnormal steps of float16; sqrt(D) / D does not.
    smallest_normal = 2.0**-14
    assert np.mean(np.abs(logits_constants(plain)) < smallest_normal) > 0.9
    assert np.mean(np.abs(logits_constants(balanced)) < smallest_normal) < 0.1


def test_values_beyond_float16_never_become_infinite():
    model = small_attention(16)
    half = to_half(model, "fp16")
    clips = [node for node in half.graph.node if node.op_type == "Clip"]
    assert clips
    x = np.full((1, 4, 16), 3e5, np.float32)  # squares, and the input itself, are beyond 65504
    x[:, 1] *= -1
    assert np.isfinite(run(half, x)).all()


def test_nodes_near_float16s_largest_number_stay_in_float32():
    model = small_attention(16)
    limit = FLOAT16_MAX / HEADROOM
    assert wide_nodes(model, {"logits": limit * 1.01, "query": limit * 0.99}) == {"product"}
    assert wide_nodes(model, {"logits": float("nan"), "query": float("inf")}) == {"product", "add"}
    kept = to_half(model, "fp16", float32_nodes={"product"})
    assert types_of(kept)["logits"] == TensorProto.FLOAT
    assert types_of(to_half(model, "fp16"))["logits"] == TensorProto.FLOAT16


@pytest.mark.parametrize(("precision", "half"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_plugins_get_half_maps_and_keep_float32_sums(precision, half):
    """x -> logits plugin -> softmax plugin -> mixing plugin -> sigmoid, in module model.attention."""
    plugin = {"domain": NAMESPACE}
    nodes = [
        helper.make_node("logits_1", ["x", "projection"], ["partials"], name="logits", **plugin),
        helper.make_node(
            "softmax", ["partials"], ["weights"], name="softmax", element_type=TensorProto.FLOAT, **plugin
        ),
        helper.make_node("mixing_1", ["x", "weights", "value"], ["mixed"], name="mixing", **plugin),
        helper.make_node("Sigmoid", ["mixed"], ["y"], name="sigmoid"),
    ]
    for node in nodes:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'model.attention.0']")
    constants = [numpy_helper.from_array(np.ones((2, 8, 4, 4), np.float32), name) for name in ("projection", "value")]
    interface = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "plugins", interface[:1], interface[1:], constants)
    imports = [helper.make_opsetid("", 19), helper.make_opsetid(NAMESPACE, 1)]
    model = to_half(helper.make_model(graph, opset_imports=imports, ir_version=10), precision)
    found = {node.op_type: node for node in model.graph.node if node.domain == NAMESPACE}
    constant_types = {one.name: one.data_type for one in model.graph.initializer}
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    assert constant_types[found["logits_1"].input[1]] == constant_types[found["mixing_1"].input[2]] == half
    assert casts[found["logits_1"].input[0]].attribute[0].i == half
    assert found["softmax"].input[0] == "partials"  # float32 as the plugin before gave it
    assert found["softmax"].attribute[0].i == half
    assert found["mixing_1"].input[1] == "weights"
    (sigmoid,) = (node for node in model.graph.node if node.op_type == "Sigmoid")
    assert sigmoid.input[0] != "mixed"  # cast back to float32


@pytest.mark.parametrize(("precision", "eight"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)])
def test_quantisation_is_of_the_kind_that_tensorrt_takes(precision, eight):
    model = typed("r18", precision)
    constants = {one.name: one for one in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    quantised = 0
    for node in (node for node in model.graph.node if node.op_type == "Conv"):
        activation, weight = (producers.get(name) for name in node.input[:2])
        is_quantised = weight is not None and weight.op_type == "DequantizeLinear"
        assert is_quantised == (activation is not None and activation.op_type == "DequantizeLinear")
        if not is_quantised:
            continue
        quantised += 1
        stored, scale, zero = (constants[name] for name in weight.input)
        assert stored.data_type == eight
        assert scale.dims == [stored.dims[0]]  # one scale an output channel
        assert not np.any(numpy_helper.to_array(zero).astype(np.float32))
        assert not np.any(numpy_helper.to_array(constants[activation.input[2]]).astype(np.float32))
        assert node.input[2] in constants  # the bias, not quantised
        assert constants[node.input[2]].data_type == TensorProto.FLOAT16
    names = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    assert quantised == 3 * 3 + 6  # three layers' blocks, and the second fusion
    assert any("model.backbone" in name for name in names)
    # Nothing is quantised between a convolution and its activation.
    for node in (node for node in model.graph.node if node.op_type == "QuantizeLinear"):
        source = producers.get(node.input[0])
        assert source is None or source.op_type != "Conv"


def test_folding_leaves_nothing_to_compute_that_depends_on_no_image():
    subject = network("lite0")
    folded = parse_graph(subject.exported)
    constants = {one.name for one in folded.graph.initializer}
    for node in folded.graph.node:
        assert not all(name in constants for name in node.input if name), node.name


def test_graphs_are_left_alone():
    before = network("lite0").graph.SerializeToString()
    typed("lite0", "int8")
    assert network("lite0").graph.SerializeToString() == before
