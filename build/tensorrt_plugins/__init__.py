"""The project's Triton kernels inside TensorRT engines, as plugins that need no Python at run time.

Building with them takes two calls: `register_plugins`, once per process, and `ops_for`, which gives the formulation to
export the network in. `LOWERINGS` states how each operation is lowered for each flavour of TensorRT.
"""

from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any

from prn_fast.build.tensorrt_plugins.formulation import NAMESPACE, PLUGINS, PluginGraph
from prn_fast.build.tensorrt_plugins.registration import register_plugins
from prn_fast.kernels import NETWORK, OPTIMIZED, REFERENCE, Ops
from prn_fast.kernels.multi_size_attention.plugin import supports
from prn_fast.kernels.plugin import Kind
from prn_fast.kernels.tiles import Capability
from prn_fast.model.config import PRNConfig

__all__ = ["LOWERINGS", "NAMESPACE", "Lowering", "lowerings_for", "ops_for", "register_plugins", "retype"]


class Lowering(Enum):
    """What an operation becomes in an engine."""

    PLUGIN = "a plugin for each of its Triton kernels"
    NATIVE = "the flavour's own layers, from the optimized formulation"
    DIRECT = "the flavour's own layers, from the published formulation, which has no matrix product"


# By operation (a field of `Ops`) and flavour. TensorRT lets no plugin read bytes, so normalising has none.
LOWERINGS: dict[str, dict[str, Lowering]] = {
    one.name: {"tensorrt": Lowering.PLUGIN if one.plugins else Lowering.NATIVE, "tensorrt-rtx": Lowering.NATIVE}
    for one in NETWORK
}

# Below it TensorRT-RTX compiles no float32 matrix product. What it makes of the published distances is one kernel that
# writes nothing but the distances; it reads each map as often as there are prototypes.
FLOAT32_PRODUCTS: Capability = (8, 0)


def lowerings_for(flavour: str, config: PRNConfig, capability: Capability) -> dict[str, Lowering]:
    """What each operation of a network becomes: the table, except for attention over grids that no plugin takes, and
    for distances on a device (the lowest of those that the engine is for) that lacks float32 matrix products."""
    chosen = {name: lowering[flavour] for name, lowering in LOWERINGS.items()}
    if config.score != "learned":
        del chosen["learned_score"]
    if capability < FLOAT32_PRODUCTS and chosen["prototype_residual"] == Lowering.NATIVE:
        chosen["prototype_residual"] = Lowering.DIRECT
    # The kernels, and with them Triton, are imported only if they would become plugins.
    if chosen["multi_size_attention"] == Lowering.PLUGIN:
        elementwise = config.projection == "elementwise"
        if not elementwise or not all(supports(config.attention_grids(side)) for side in config.sides):
            chosen["multi_size_attention"] = Lowering.NATIVE
    return chosen


def ops_for(flavour: str, config: PRNConfig, capability: Capability, batch: int) -> Ops:
    """The operations in the formulation to export a network in.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".
        config: of the network.
        capability: compute capability of the device that the engine is for; the lowest where it is for several.
        batch: that the engine is tuned for, the optimum of its profile; every other batch of the profile runs, too.
    """
    graph = PluginGraph(capability, batch)
    chosen = lowerings_for(flavour, config, capability)
    plugged = {
        one.name: partial(one.plugged, graph)
        for one in NETWORK
        if one.plugged is not None and chosen[one.name] == Lowering.PLUGIN
    }
    direct = {name: getattr(REFERENCE, name) for name in chosen if chosen[name] == Lowering.DIRECT}
    return replace(OPTIMIZED, **plugged, **direct)


def retype(node: Any, element_type: int) -> tuple[list[int], list[int]]:
    """Give a plugin's node of an ONNX graph maps of another type.

    Args:
        node: onnx.NodeProto in the domain `NAMESPACE`; its "element_type" is changed if it has one.
        element_type: ONNX's number of the maps' type, one of `ELEMENT_TYPES`.
    Returns:
        The types that its inputs and its outputs have then: partial results are float32 whatever the maps are.
    """
    for attribute in node.attribute:
        if attribute.name == "element_type":
            attribute.i = element_type
    plugin = PLUGINS[node.op_type]

    def types(kinds: Any) -> list[int]:
        return [1 if kind == Kind.FLOATS else element_type for kind in kinds]

    return types(plugin.inputs.values()), types(plugin.outputs)
