"""Which parts of the network may be quantised to eight bits, for every library: a rule found by measurement.

In the network, the backbone and the first fusion are never quantised: a residual is a small difference of large values,
squared, and rounding errors in it would pass directly into attention and decoder. The screen's backbone is: only
which images leave counts there, and those that stay run through the network's own.
"""

from collections.abc import Collection, Iterable
from typing import Any

# Modules to quantise, the most aggressive choice first; the first attempt that passes verification is kept.
ATTEMPTS = (
    ("model.attention", "model.fusion2", "model.decoder"),
    ("model.attention", "model.fusion2"),
    ("model.attention.0", "model.attention.1"),
    ("model.attention.0",),
)
# Name among the modules for the matrix products that find the nearest prototypes, which belong to no module. They read
# all prototypes for each image; if there are many, that takes as long as the backbone. If eight bits choose another
# prototype, it is about as near, and the residual to it is as exact as before.
PROTOTYPE_SEARCH = "prototype search"
# The module that computes a screen's distances to the memory of normal patches.
MEMORY_SEARCH = "model.learned_map"
# The same for the screen, of which only verdicts count: its backbone is quantised too; the last resort is no
# quantisation.
SCREEN_ATTEMPTS = (
    ("model.backbone", "screen", PROTOTYPE_SEARCH),
    ("model.backbone", "screen"),
    ("model.backbone",),
    (),
)
# Share of activations that may be clipped: squared residuals have few, very large values, which would otherwise
# stretch the 256 steps of a tensor over a range that is nearly empty.
CLIPPED_SHARE = 1e-5


def screen_attempts(reads_memory: bool) -> tuple[tuple[str, ...], ...]:
    """`SCREEN_ATTEMPTS`; of a screen that reads the memory, first one that quantises the distances to it, too."""
    return (*(((*SCREEN_ATTEMPTS[0], MEMORY_SEARCH),) if reads_memory else ()), *SCREEN_ATTEMPTS)


def nodes_of(nodes: Iterable[Any], modules: Collection[str]) -> set[str]:
    """Names of those nodes of an exported ONNX graph that belong to some modules of the network, or of the screen.

    `PROTOTYPE_SEARCH` among them means all matrix products of a screen's graph: it has no others.
    """

    def scopes(node: Any) -> str:
        return next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")

    def chosen(node: Any) -> bool:
        searches = PROTOTYPE_SEARCH in modules and node.op_type == "MatMul"
        return searches or any(f"'{module}" in scopes(node) for module in modules)

    return {node.name for node in nodes if chosen(node)}
