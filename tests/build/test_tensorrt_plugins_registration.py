"""Registration with TensorRT's own bindings, and the answers that it gets while it builds an engine."""

import copy
import sys

import onnx
import pytest

from prn_fast.build.tensorrt_plugins import register_plugins, retype
from prn_fast.build.tensorrt_plugins.formulation import PLUGINS
from prn_fast.build.tensorrt_plugins.ptx import SHARED_MEMORY, parameters_of
from prn_fast.errors import EngineError
from prn_fast.kernels.launch import ceil_div
from prn_fast.kernels.plugin import ELEMENT_TYPES, Kind
from tests import needs
from tests.build.plugin_graph import BATCH, TYPES, attributes_of, exported, plugin_nodes, tensors_of
from tests.build.tensorrt_session import ask

pytestmark = [needs.c_compiler, pytest.mark.long]
MOST = 19


def question(node: onnx.NodeProto, element_type: int) -> dict:
    """A node of the exported graph, in another type, as the session takes it."""
    node = copy.deepcopy(node)
    types, _ = retype(node, element_type)
    known = tensors_of(exported())
    return {
        "name": node.op_type,
        "attributes": {
            name: value for name, value in attributes_of(node).items() if name in PLUGINS[node.op_type].all_attributes
        },
        "inputs": [{"type": TYPES[kind], "dims": known[name][1]} for kind, name in zip(types, node.input, strict=True)],
        "batch": BATCH,
        "most": MOST,
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """One node of each plugin of the exported graph, in float16: node, answer."""
    first = {node.op_type: node for node in reversed(plugin_nodes(exported()))}
    questions = [question(node, onnx.TensorProto.FLOAT16) for node in first.values()]
    found = ask(questions, tmp_path_factory.mktemp("tensorrt"))
    return dict(zip(first, zip(questions, found, strict=True), strict=True))


def test_every_operation_of_the_network_is_asked_for(answers):
    assert set(answers) == {
        "distance",
        "residual",
        "logits_3",
        "softmax",
        "mixing_4",
        "project_upsample_add_1_2",
        "project_upsample_add_2_1",
        "top_pixels",
        "score",
    }


def test_tensorrt_infers_the_shapes_and_types_of_the_exported_graph(answers):
    known = tensors_of(exported())
    for node in plugin_nodes(exported()):
        question, answer = answers[node.op_type]
        if question["attributes"] != {key: attributes_of(node)[key] for key in question["attributes"]}:
            continue  # another scale; shapes below are of the first
        _, types = retype(copy.deepcopy(node), onnx.TensorProto.FLOAT16)
        assert answer["types"] == [TYPES[kind] for kind in types], node.op_type
        if [known[name][1] for name in node.input] != [one["dims"] for one in question["inputs"]]:
            continue
        for batch, shapes in answer["shapes"].items():
            expected = [[int(batch) if one == -1 else one for one in known[name][1]] for name in node.output if name]
            assert shapes[: len(expected)] == expected, node.op_type


def test_maps_may_lie_in_rows_of_pixels_or_of_channels(answers):
    for name, (_, answer) in answers.items():
        kinds = [*PLUGINS[name].inputs.values(), *PLUGINS[name].outputs]
        layouts = ["LINEAR", "HWC8"] if Kind.MAP in kinds else ["LINEAR"]
        assert answer["combinations"] == [
            [["FLOAT" if kind == Kind.FLOATS else "HALF", layout if kind == Kind.MAP else "LINEAR"] for kind in kinds]
            for layout in layouts
        ], name


def test_every_layout_has_several_tactics(answers):
    for name, (_, answer) in answers.items():
        tactics = {}
        for kernel in answer["kernels"]:
            tactics.setdefault(tuple(kernel["layouts"]), []).append(kernel["tactic"])
        assert len(tactics) == len(answer["combinations"])
        for numbers in tactics.values():
            assert min(numbers) == 1
            assert len(set(numbers)) == len(numbers) >= 2, name


def test_a_kernel_takes_inputs_then_the_number_of_images_then_outputs(answers):
    for name, (question, answer) in answers.items():
        pointers, outputs = ["u64"] * len(question["inputs"]), ["u64"] * len(answer["types"])
        for kernel in answer["kernels"]:
            assert [kind for _, kind in parameters_of(kernel["ptx"])] == [*pointers, "u32", *outputs], name
            assert kernel["numbers"] == {str(batch): [batch] for batch in range(1, MOST + 1)}


def test_grids_follow_the_batch_and_blocks_do_not(answers):
    for name, (_, answer) in answers.items():
        axis = PLUGINS[name].images_axis
        for kernel in answer["kernels"]:
            grids = kernel["grids"]
            others = {tuple(size for place, size in enumerate(grid) if place != axis) for grid in grids.values()}
            assert len(others) == 1, name
            images = [grids[str(batch)][axis] for batch in range(1, MOST + 1)]
            each = next(batch for batch, count in enumerate(images, start=1) if count == 2) - 1
            assert images == [ceil_div(batch, each) for batch in range(1, MOST + 1)], name
            assert f".reqntid {kernel['threads']}" in kernel["ptx"]
            assert kernel["shared_memory"] <= SHARED_MEMORY


def test_an_engine_carries_no_paths_of_source_files(answers):
    for _, answer in answers.values():
        for kernel in answer["kernels"]:
            assert ".py" not in kernel["ptx"]
            assert ".target sm_86" in kernel["ptx"]


def test_partial_results_stay_float32_whatever_the_maps_are():
    for node in plugin_nodes(exported()):
        for number in ELEMENT_TYPES.values():
            changed = copy.deepcopy(node)
            inputs, outputs = retype(changed, number)
            assert len(inputs) == len(node.input)
            if node.op_type == "softmax":
                assert (inputs, outputs) == ([onnx.TensorProto.FLOAT], [number])
                assert attributes_of(changed)["element_type"] == number
            if node.op_type.startswith(("distance", "logits")):
                assert outputs == [onnx.TensorProto.FLOAT]
                assert set(inputs) == {number}


def test_a_missing_tensorrt_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="TensorRT's plugins cannot be imported"):
        register_plugins()
