"""The engine that the builder made of a graph: layers, fused nodes, types and sizes, in the engine inspector's words.

With `ProfilingVerbosity.DETAILED` the builder writes the inspector's listing to its log, so that it can be read on a
machine without a GPU, where no engine can be loaded. Where one can, the inspector gives the same lines.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prn_fast.build.tensorrt.graph import RANGE_CLIP

# Start of the log message that holds the listing.
LISTING = "Layers:\n"
BYTES = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "FP8": 1, "Int32": 4, "Int64": 8, "Bool": 1}
# Layers that only order work on streams or compute shapes.
BOOKKEEPING = ("signal", "wait", "shape_call", "entry", "exit")


@dataclass(frozen=True)
class Tensor:
    """An input or output of a layer: name, dimensions (-1 is the batch) and type in the inspector's words."""

    name: str
    dimensions: tuple[int, ...]
    type: str

    def bytes_per_image(self) -> int:
        """Size at a batch of one."""
        return math.prod(abs(size) for size in self.dimensions) * BYTES.get(self.type, 4)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        name, kind: in the inspector's words; a "correlation" is a convolution.
        nodes: of the ONNX graph, that are computed in it.
        inputs, outputs, constants: its tensors.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]


@dataclass(frozen=True)
class Binding:
    """An input or output of the engine; `profile` is the batch's (min, opt, max), empty for an output."""

    name: str
    mode: str
    type: str
    dimensions: tuple[int, ...]
    profile: tuple[int, ...]


def parse_listing(listing: str) -> tuple[list[Layer], list[Binding]]:
    """Layers and bindings in the inspector's listing of one line per layer."""
    layers, bindings = [], []
    # The nodes of a layer are divided by a character of their own, some by a line break.
    for entry in re.split(r"\n(?= ?Name: )", listing.removeprefix(LISTING)):
        if ", LayerType: " in entry:
            layers.append(_layer(entry))
        elif ", IOMode: " in entry:
            bindings.append(_binding(entry))
    return layers, bindings


def _layer(entry: str) -> Layer:
    match = re.match(
        r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>\[.*?\]), Constants: (?P<constants>\[.*?\])"
        r", Outputs: (?P<outputs>\[.*?\]), TacticName: (?P<rest>.*)",
        entry,
        re.DOTALL,
    )
    if match is None:  # a layer in an unknown form: its name and nodes still count
        name, _, rest = entry.removeprefix("Name: ").partition(", LayerType: ")
        return Layer(name, rest.split(",")[0], _nodes(entry), (), (), ())
    return Layer(
        match["name"],
        match["kind"],
        _nodes(match["rest"]),
        *(_tensors(match[part]) for part in ("inputs", "outputs", "constants")),
    )


def _nodes(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"\[ONNX Layer: ([^\]]+)\]", text)))


def _tensors(text: str) -> tuple[Tensor, ...]:
    found = re.findall(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)", text)
    return tuple(Tensor(name, _numbers(sizes), kind) for name, sizes, kind in found)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _binding(entry: str) -> Binding:
    match = re.match(r" ?Name: (\w+), IOMode: (\w+), DataType: (\w+), Dimensions: \[([-\d,]*)\]", entry)
    assert match is not None, entry
    shapes = re.findall(r"(?:Min|Opt|Max)Shape: \[([-\d,]+)\]", entry)
    return Binding(match[1], match[2], match[3], _numbers(match[4]), tuple(_numbers(shape)[0] for shape in shapes))


def activations(layers: Iterable[Layer], graph: Any) -> dict[str, list[str]]:
    """Where the activations of convolutions are computed.

    Args:
        layers: of the engine.
        graph: the onnx.GraphProto that went in.
    Returns:
        names of the Relu and Clip nodes that follow a convolution, or the sum of one with something: "fused" in one
        layer with it, "apart" in a layer of their own, or "unlisted" in no layer that names them.
    """
    producers = {name: node for node in graph.node for name in node.output}
    place = {node: number for number, layer in enumerate(layers) for node in layer.nodes}
    found: dict[str, list[str]] = {"fused": [], "apart": [], "unlisted": []}
    for node in graph.node:
        source = producers.get(node.input[0]) if node.op_type in ("Relu", "Clip") else None
        # Clipping to a type's range is part of a cast.
        if source is None or source.op_type not in ("Conv", "Add") or node.name.endswith(RANGE_CLIP):
            continue
        fed_by = [source, *(producers[name] for name in source.input if name in producers)]
        if not any(one.op_type == "Conv" for one in fed_by):
            continue
        if node.name not in place:
            found["unlisted"].append(node.name)
        else:
            together = place[node.name] in {place.get(one.name) for one in fed_by}
            found["fused" if together else "apart"].append(node.name)
    return found


def summary(layers: Sequence[Layer], graph: Any) -> dict[str, Any]:
    """Figures of a listing, JSON-ready: what the manifest records."""
    working = [layer for layer in layers if layer.kind not in BOOKKEEPING]
    moved = sum(tensor.bytes_per_image() for layer in working for tensor in (*layer.inputs, *layer.outputs))
    where = activations(layers, graph)
    return {
        "nodes": len(graph.node),
        "layers": len(working),
        "layers_by_kind": dict(Counter(layer.kind for layer in working).most_common()),
        "convolutions_by_type": dict(convolution_types(working).most_common()),
        "activations_fused": len(where["fused"]),
        "activations_apart": where["apart"],
        "activations_unlisted": where["unlisted"],
        "bytes_moved_per_image": moved,
    }


def convolution_types(layers: Iterable[Layer]) -> Counter[str]:
    """Number of convolutions by the type that they read."""
    convolutions = [layer for layer in layers if layer.kind == "correlation"]
    return Counter(layer.inputs[0].type if layer.inputs else "unknown" for layer in convolutions)


def to_json(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Layers for a file."""
    return [asdict(layer) for layer in layers]
