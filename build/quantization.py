"""What eight bits may stand for, whatever library quantises: a rule found by measuring.

The backbone and the first fusion are never quantised: a residual is a small difference of large values, squared, and
its rounding is what the attention and the decoder then look at.
"""

from collections.abc import Collection, Iterable
from typing import Any

# What goes to eight bits, by modules of the network, boldest first; the first attempt that passes verification is kept.
ATTEMPTS = (
    ("model.attention", "model.fusion2", "model.decoder"),
    ("model.attention", "model.fusion2"),
    ("model.attention.0", "model.attention.1"),
    ("model.attention.0",),
)
# Share of activations that may be clipped: squared residuals have few, very large values, which would otherwise
# stretch the 256 steps of a tensor over a range that is nearly empty.
CLIPPED_SHARE = 1e-5


def nodes_of(nodes: Iterable[Any], modules: Collection[str]) -> set[str]:
    """Names of those nodes of an exported ONNX graph that belong to some modules of the network."""

    def scopes(node: Any) -> str:
        return next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")

    return {node.name for node in nodes if any(f"'{module}" in scopes(node) for module in modules)}
