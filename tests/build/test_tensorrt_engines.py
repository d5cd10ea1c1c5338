"""TensorRT-RTX engines, built here without a GPU, and what the inspector's listing says of them."""

import pytest
import torch

from prn_fast.build.export import export_onnx
from prn_fast.build.profiles import BatchProfile
from prn_fast.build.tensorrt import targets
from prn_fast.build.tensorrt.compile import compile_graph
from prn_fast.build.tensorrt.graph import balance_attention, parse_graph, to_half
from prn_fast.build.tensorrt.report import Binding, activations, convolution_types, parse_listing, summary
from prn_fast.build.tensorrt_plugins import ops_for
from prn_fast.engine.tensorrt_flavours import FLAVOURS
from prn_fast.errors import EngineError
from prn_fast.kernels import OPTIMIZED
from prn_fast.model.config import PRNConfig
from prn_fast.model.prn import PRN
from tests.build.tensorrt_graphs import SIDE, network, typed

RTX = FLAVOURS["tensorrt-rtx"]
# The smallest selection that holds each network with each precision of the plan, each capability, and both batches.
MATRIX = [
    ("r18", "fp32", ("8.6",), "4"),
    ("r18", "fp16", ("8.9", "12.0"), "1:2:4"),
    ("r18", "int8", ("12.0",), "1:2:4"),
    ("lite0", "fp32", ("8.0",), "1:2:4"),
    ("lite0", "fp16", ("12.1",), "2"),
    ("lite0", "int8", ("8.6",), "1:2:4"),
    ("lite0", "bf16", ("8.0",), "1:2:4"),
    ("lite0", "fp8", ("8.9",), "1:2:4"),
]
CONVOLUTION_TYPES = {
    "fp32": {"Float"},
    "fp16": {"Half"},
    "bf16": {"BFloat16", "Float"},
    "int8": {"Int8", "Half", "Float"},
    "fp8": {"FP8", "Half", "Float"},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "precision", "capabilities", "batch"), MATRIX, ids=["-".join((n, p, *c, b)) for n, p, c, b in MATRIX]
)
def test_an_engine_is_built_and_fused(name, precision, capabilities, batch):
    subject, model = network(name), typed(name, precision)
    profile = BatchProfile.parse(batch)
    phases = []
    compiled = compile_graph(
        RTX,
        model.SerializeToString(),
        profile,
        capabilities,
        on_share=lambda phase, share: phases.append((phase, share)),
    )
    assert len(compiled.plan) > 1_000_000
    assert "Engine generation completed" in compiled.log
    assert phases[0][1] == 0.0
    assert phases[-1][1] == 1.0
    layers, bindings = parse_listing(compiled.listing)

    static = profile.smallest == profile.largest
    dim = profile.usual if static else -1
    sizes = (profile.smallest, profile.usual, profile.largest)
    channels = subject.model.config.image_channels
    assert [(one.name, one.mode, one.type, one.dimensions[1:]) for one in bindings] == [
        ("images", "Input", "UInt8", (SIDE, SIDE, channels)),
        ("scores", "Output", "Float", ()),
        ("maps", "Output", "Float", (SIDE, SIDE)),
    ]
    assert {one.dimensions[0] for one in bindings} <= {dim, -1}
    assert bindings[0].profile == sizes

    found = convolution_types(layers)
    assert set(found) == CONVOLUTION_TYPES[precision]
    if precision in ("int8", "fp8"):
        # Attention and second fusion; what reads one tensor may have become one layer.
        quantised = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
        assert found[{"int8": "Int8", "fp8": "FP8"}[precision]] >= quantised - 6
    where = activations(layers, model.graph)
    assert len(where["fused"]) > 30
    assert where["apart"] == []
    assert where["unlisted"] == []
    # Biases and residual sums too: fewer layers than half the nodes.
    report = summary(layers, model.graph)
    assert report["layers"] < 0.5 * report["nodes"]
    assert all(layer.inputs or layer.outputs or layer.constants for layer in layers if layer.kind == "correlation")


@pytest.mark.long
def test_full_size_r18_builds_for_all_capabilities():
    torch.manual_seed(0)
    config = PRNConfig(prototypes=(4, 4, 4))
    model = PRN(config, OPTIMIZED).eval()  # its weights have their real sizes; their values do not matter here
    typed_model = to_half(parse_graph(export_onnx(model)), "fp16")
    capabilities = targets(RTX, RTX.load(), "fp16", None, None)
    assert {"8.6", "8.9", "12.0"} <= set(capabilities)
    compiled = compile_graph(RTX, typed_model.SerializeToString(), BatchProfile(1, 8, 32), capabilities)
    layers, bindings = parse_listing(compiled.listing)
    assert bindings[0] == Binding("images", "Input", "UInt8", (-1, 256, 256, 3), (1, 8, 32))
    assert activations(layers, typed_model.graph)["apart"] == []
    assert convolution_types(layers)["Half"] > 60  # the others are parts of larger fusions
    assert len(compiled.plan) > 100e6


@pytest.mark.parametrize(
    ("capabilities", "precision", "message"),
    [
        (("9.0",), "fp16", r"builds for no compute capability 9\.0, only for .*--backend tensorrt$"),
        (("7.5",), "fp32", r"no fp32 engine for compute capability 7\.5: it needs 8\.0"),
        (("7.5",), "bf16", r"no bf16 engine for compute capability 7\.5: it needs 8\.0"),
        (("8.6",), "fp8", r"no fp8 engine for compute capability 8\.6: it needs 8\.9"),
        (("ampere",), "fp16", "'ampere' is not a compute capability; write it as in 8.9"),
    ],
    ids=["unknown", "turing-fp32", "turing-bf16", "fp8", "word"],
)
def test_capabilities_that_cannot_be_are_refused(capabilities, precision, message):
    with pytest.raises(EngineError, match=message):
        targets(RTX, RTX.load(), precision, capabilities, None)


@pytest.mark.long
def test_turing_takes_no_float32_products():
    """Should a later TensorRT-RTX compile them, this says that the refusals above and `Lowering.DIRECT` can go."""
    with pytest.raises(EngineError, match="FP32 GEMM is not supported"):
        compile_graph(RTX, typed("lite0", "fp16").SerializeToString(), BatchProfile(1, 1, 1), ("7.5",))


@pytest.mark.long
@pytest.mark.parametrize("name", ["lite0", "r18"])
def test_turing_finds_the_prototype_without_a_product(name):
    subject = network(name)
    ops = ops_for("tensorrt-rtx", subject.model.config, (7, 5), 1)
    graph = parse_graph(export_onnx(subject.model, ops=ops))
    balance_attention(graph)
    typed_model = to_half(graph, "fp16")
    compiled = compile_graph(RTX, typed_model.SerializeToString(), BatchProfile(1, 2, 4), ("7.5", "8.6"))
    layers, _ = parse_listing(compiled.listing)
    assert activations(layers, typed_model.graph)["apart"] == []
    # The expanded differences, (B K, C h w), never leave the layer that sums them: it expands, subtracts and sums.
    parts = ("expand", "sub", "linalg_vector_norm")
    whole = [layer for layer in layers if all(any(part in node for node in layer.nodes) for part in parts)]
    assert len(whole) == 3


@pytest.mark.parametrize(
    ("asked", "here", "message"),
    [
        (None, None, "builds on the GPU that it builds for, and there is none here"),
        (("8.6",), "8.9", r"builds for the GPU at hand, of compute capability 8\.9, not for 8\.6"),
    ],
)
def test_tensorrt_builds_for_the_gpu_at_hand_only(asked, here, message):
    with pytest.raises(EngineError, match=message):
        targets(FLAVOURS["tensorrt"], None, "fp16", asked, here)
    assert targets(FLAVOURS["tensorrt"], None, "fp16", ("8.9",), "8.9") == ("8.9",)


def test_a_graph_that_cannot_be_read_is_one_line():
    with pytest.raises(EngineError, match="TensorRT-RTX cannot read the graph: ") as caught:
        compile_graph(RTX, b"no graph", BatchProfile(1, 1, 1), ("8.9",))
    assert "\n" not in str(caught.value)


def test_a_graph_that_cannot_be_built_is_one_line():
    from onnx import TensorProto, helper

    shape = ["batch", 8, 8, 3]
    graph = helper.make_graph(
        [helper.make_node("Det", ["images"], ["maps"], name="determinant")],
        "strange",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    with pytest.raises(EngineError, match=r"TensorRT-RTX cannot (read|build)") as caught:
        compile_graph(RTX, model.SerializeToString(), BatchProfile(1, 1, 1), ("8.9",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FLAVOURS)
def test_a_missing_library_says_what_to_install(name, monkeypatch):
    for module in FLAVOURS[name].modules:
        monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(EngineError, match=r"is not installed: .*(prn-fast\[tensorrt\]|tensorrt-cu13)"):
        FLAVOURS[name].load()


@pytest.mark.parametrize("text", ["", "a", "1:2", "4:2:8", "0:1:2", "1:8:4", "-1", "1:2:3:4", "1.5"])
def test_bad_batches_are_refused(text):
    with pytest.raises(EngineError, match=r"batch .*write MIN:OPT:MAX"):
        BatchProfile.parse(text)


def test_batches_are_read():
    assert BatchProfile.parse("1:8:32") == BatchProfile(1, 8, 32)
    assert BatchProfile.parse("8") == BatchProfile(8, 8, 8)
    assert str(BatchProfile.parse("1:8:32")) == "1:8:32"
