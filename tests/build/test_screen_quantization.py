"""What of the screen is quantised in OpenVINO's graph, by each attempt."""

import numpy as np
import openvino
import pytest

from prn_fast.build import openvino as builder
from prn_fast.build.quantization import MEMORY_SEARCH, PROTOTYPE_SEARCH, SCREEN_ATTEMPTS, screen_attempts
from prn_fast.engine.openvino_graph import SCREEN_FILE, float_types
from tests.small_package import write_package

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """The first graphs of a screen that reads no memory, by what is quantised."""
    return first_graphs(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def graphs_with_memory(tmp_path_factory):
    """Those of one that does."""
    return first_graphs(tmp_path_factory.mktemp("memory"), learned=True)


def first_graphs(place, **options):
    """The first graph of the first two attempts."""
    package = write_package(place / "small.prn", screen=True, **options)
    folder = place / "graphs" / "candidate"
    folder.mkdir(parents=True)
    found = {}
    for candidate in builder.screens(package, "int8", folder):
        modules = tuple(candidate.record["quantized"])
        if modules not in found:
            found[modules] = openvino.Core().read_model(
                (folder / SCREEN_FILE).read_bytes(), (folder / "screen.bin").read_bytes()
            )
        if len(found) == 2:
            break
    return found


def source(value):
    """What a layer reads: its weights are eight bits, a conversion and a scale; maps are pooled and put together."""
    node = value.get_node()
    passed = ("Convert", "Multiply", "Subtract", "Reshape", "Transpose", "Concat", "MaxPool", "AvgPool")
    while node.get_type_name() in passed:
        node = node.input_value(0).get_node()
    return node


def quantised(graph, kind):
    """How many nodes of a kind there are, and how many of them read quantised values on both sides."""
    nodes = [node for node in graph.get_ops() if node.get_type_name() == kind]

    def is_quantised(value):
        node = source(value)
        return node.get_type_name() == "FakeQuantize" or node.get_element_type() in (openvino.Type.i8, openvino.Type.u8)

    return len(nodes), sum(all(is_quantised(node.input_value(side)) for side in (0, 1)) for node in nodes)


def test_the_first_attempt_quantises_backbone_head_and_the_search_for_prototypes(graphs):
    assert SCREEN_ATTEMPTS[0] == ("model.backbone", "screen", PROTOTYPE_SEARCH)
    graph = graphs[SCREEN_ATTEMPTS[0]]
    # Three scales: the largest holds most of the prototypes' values.
    assert quantised(graph, "MatMul") == (3, 3)
    count, found = quantised(graph, "Convolution")
    assert found == count > 25


def test_the_distances_to_a_memory_are_quantised_first_and_then_left_as_they_are(graphs_with_memory):
    first, second = screen_attempts(True)[:2]
    assert list(graphs_with_memory) == [first, second]
    assert (first, second) == ((*SCREEN_ATTEMPTS[0], MEMORY_SEARCH), SCREEN_ATTEMPTS[0])
    assert screen_attempts(False) == SCREEN_ATTEMPTS
    (count, found), (_, without) = (quantised(graphs_with_memory[one], "Convolution") for one in (first, second))
    assert (found, without) == (count, count - 1)
    assert quantised(graphs_with_memory[second], "MatMul") == (3, 3)


def test_the_second_leaves_the_search_as_it_is(graphs):
    graph = graphs[SCREEN_ATTEMPTS[1]]
    assert quantised(graph, "MatMul") == (3, 0)


def test_the_last_attempts_do_without_eight_bits():
    assert SCREEN_ATTEMPTS[-1] == ()
    assert float_types()[-1] == "f32"


def test_weights_that_are_added_over_channels_have_seven_bits(graphs_with_memory):
    graph = graphs_with_memory[screen_attempts(True)[0]]
    layers = [node for node in graph.get_ops() if node.get_type_name() in ("Convolution", "MatMul")]
    read = [source(node.input_value(side)) for node in layers for side in (0, 1)]
    weights = [node.get_data() for node in read if node.get_element_type() == openvino.Type.i8]
    assert len(weights) > 25
    assert max(np.abs(values.astype(int)).max() for values in weights) <= 64
