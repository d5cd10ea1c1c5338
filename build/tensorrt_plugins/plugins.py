"""Every Triton kernel of the network as a TensorRT plugin: tensors, attributes, shapes, launch.

A plugin is one kernel; an operation of two kernels is two plugins with a tensor between them. TensorRT asks for shapes
before it knows types and layouts, and for kernels before it knows the batch. So shapes are stated over any kind of
number, and whatever depends on the batch inside a kernel is settled for the optimum of the profile; only the grid and
the number of images follow the batch.

Attributes are whole numbers or lists of them: TensorRT's ONNX parser ends a string with a zero byte that its Python
side leaves on. They are

- "capability": compute capability that the kernel is compiled for, 86 for 8.6;
- "splits": programs that share a map; it sets the shape of what they write, so every tactic has the same;
- "grids": of the attention;
- "full": how many of the inputs are full-size maps;
- "element_type" and "size": ONNX's number of the map's type, and C H W, where no input tells them.

Not here: the normalising of images (TensorRT lets no plugin read bytes; its own layers do it) and the kernels that cut
and stitch a camera's strip, which are not part of the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch

from prn_fast.errors import EngineError
from prn_fast.kernels.anomaly_score.reference import TOP_PIXELS
from prn_fast.kernels.launch import Launch, Tile, ceil_div
from prn_fast.kernels.tiles import Capability, tile_for

NAMESPACE = "prn_fast"
# A plugin has a fixed number of inputs: there is one for each number of grids up to this.
MOST_GRIDS = 4

# Numbers of ONNX's TensorProto.DataType.
ELEMENT_TYPES = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}

Shape = tuple[Any, ...]
Attributes = Mapping[str, Any]


class Kind(Enum):
    """What a tensor of a plugin is."""

    MAP = "values of the maps' type, in the maps' layout"
    ROWS = "values of the maps' type, row-major"
    FLOATS = "float32, row-major"


@dataclass(frozen=True)
class Use:
    """One use of a plugin in a network: all that its kernel depends on.

    Attributes:
        shapes: of the inputs, with the batch that is the profile's optimum.
        dtype: of the maps.
        channels_last: the maps' layout.
        attributes: of the plugin.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    channels_last: bool
    attributes: Attributes

    @property
    def batch(self) -> int:
        """Images at the optimum."""
        return self.shapes[0][0]

    @property
    def capability(self) -> Capability:
        """Major and minor number."""
        return divmod(self.attributes["capability"], 10)


@dataclass(frozen=True)
class Plugin:
    """A kernel as TensorRT sees it.

    Attributes:
        name: without the namespace.
        kernel: key of `tiles.tile_for`.
        inputs: name and kind of each, in the kernel's order.
        outputs: kind of each.
        shapes: shapes of the outputs from those of the inputs and the attributes; dimensions may be symbolic, and stand
            left of an operator.
        launch: for a use and a tile; None if the tile cannot give the shapes that the attributes ask for.
        attributes: type of each beside "capability", `int` or `list`, in the order of registration.
        images_axis: axis of the grid that counts images.
        variants: changes of the device's tile that make further tactics: a factor for each named block, or "warps".
    """

    name: str
    kernel: str
    inputs: Mapping[str, Kind]
    outputs: tuple[Kind, ...]
    shapes: Callable[[Sequence[Shape], Attributes], tuple[Shape, ...]]
    launch: Callable[[Use, Tile], Launch | None]
    attributes: Mapping[str, type] = field(default_factory=dict)
    images_axis: int = 1
    variants: tuple[Mapping[str, float], ...] = ()

    @property
    def all_attributes(self) -> dict[str, type]:
        """Type of each attribute, the capability last."""
        return {**self.attributes, "capability": int}

    def tactics(self, use: Use) -> list[Launch]:
        """Launches that compute the same in different tiles, the device's own first."""
        own = tile_for(self.kernel, use.capability, use.dtype)
        found: list[Launch] = []
        for tile in (own, *(varied(own, changes) for changes in self.variants)):
            launch = self.launch(use, tile)
            # A block that is too large for the map is cut down, to what may be there already.
            if launch is None or any(same_code(launch, other) for other in found):
                continue
            if launch.grid[self.images_axis] != ceil_div(use.batch, images_per_program(launch)):
                raise EngineError(f"plugin {self.name}: axis {self.images_axis} of its grid does not count images")
            found.append(launch)
        if not found:
            raise EngineError(f"plugin {self.name}: no tile of the device gives {dict(use.attributes)}")
        return found

    def grid(self, launch: Launch, batch: Any, divide: Callable[[Any, int], Any]) -> tuple[Any, ...]:
        """Programs along each axis for a batch, which may be symbolic; `divide` rounds up."""
        each = images_per_program(launch)
        images = batch if each == 1 else divide(batch, each)
        return tuple(images if axis == self.images_axis else count for axis, count in enumerate(launch.grid))


def images_per_program(launch: Launch) -> int:
    """Images that one program works on."""
    return int(launch.constants.get("BLOCK_B", 1))


def same_code(launch: Launch, other: Launch) -> bool:
    """Whether two launches of a kernel compile to the same code."""
    return launch.constants == other.constants and launch.tile.warps == other.tile.warps


def varied(tile: Tile, changes: Mapping[str, float]) -> Tile:
    """A tile with some blocks, or "warps", multiplied."""
    blocks = {name: int(value * changes.get(name, 1)) for name, value in tile.blocks.items()}
    return replace(tile, blocks=blocks, warps=int(tile.warps * changes.get("warps", 1)))


def split(launch: Launch, blocks: int, splits: int) -> Launch:
    """The launch with its blocks spread over so many programs along axis 0.

    Programs past the map's end write what changes no result: zeros, or the same number for every prototype.
    """
    constants = {**launch.constants, "STEPS": ceil_div(blocks, splits)}
    return replace(launch, constants=constants, grid=(splits, *launch.grid[1:]))


def values_of(shape: Sequence[int]) -> int:
    """Values of one image's map."""
    size = 1
    for dimension in shape[1:]:
        size *= dimension
    return size


def attention_shape(use: Use, channels: int, height: int, width: int) -> Any:
    """What the attention's kernels are planned for."""
    from prn_fast.kernels.multi_size_attention.fused import AttentionShape

    grids = tuple(use.attributes["grids"])
    return AttentionShape(use.batch, channels, height, width, grids, use.dtype, use.channels_last)


def plan_distance(use: Use, tile: Tile) -> Launch:
    """`distance_kernel`."""
    from prn_fast.kernels.prototype_residual import fused

    size = values_of(use.shapes[0])
    launch = fused.plan_distance(use.batch, use.shapes[1][0], size, use.dtype, tile)
    return split(launch, ceil_div(size, tile.blocks["BLOCK_D"]), use.attributes["splits"])


def plan_residual(use: Use, tile: Tile) -> Launch:
    """`residual_kernel`."""
    from prn_fast.kernels.prototype_residual import fused

    maps, prototypes, partials = use.shapes
    return fused.plan_residual(use.batch, prototypes[0], values_of(maps), partials[2], use.dtype, tile)


def plan_logits(use: Use, tile: Tile) -> Launch:
    """`logits_kernel`."""
    from prn_fast.kernels.multi_size_attention import fused

    shape = attention_shape(use, *use.shapes[0][1:])
    launch = fused.plan_logits(shape, tile)
    return split(launch, ceil_div(shape.size, tile.blocks["BLOCK_D"]), use.attributes["splits"])


def plan_softmax(use: Use, tile: Tile) -> Launch:
    """`softmax_kernel`; of the map it needs only the number of values."""
    from prn_fast.kernels.multi_size_attention import fused

    return fused.plan_softmax(attention_shape(use, use.attributes["size"], 1, 1), use.shapes[0][1], tile)


def plan_mixing(use: Use, tile: Tile) -> Launch:
    """`mixing_kernel`."""
    from prn_fast.kernels.multi_size_attention import fused

    return fused.plan_mixing(attention_shape(use, *use.shapes[0][1:]), tile)


def plan_project_upsample_add(use: Use, tile: Tile) -> Launch:
    """`project_upsample_add_kernel`."""
    from prn_fast.kernels.multi_scale_fusion import fused

    full = use.attributes["full"]
    coarse = (len(use.shapes) - full) // 3
    _, channels, height, width = use.shapes[0]
    sizes = [(shape[1], shape[2], shape[3]) for shape in use.shapes[full : full + coarse]]
    return fused.plan_project_upsample_add(
        use.batch, channels, height, width, full, sizes, use.dtype, use.channels_last, tile
    )


def plan_top_pixels(use: Use, tile: Tile) -> Launch | None:
    """`top_pixels_kernel`."""
    from prn_fast.kernels.anomaly_score import fused

    launch = fused.plan_top_pixels(use.batch, values_of(use.shapes[0]), use.dtype, tile)
    return launch if launch.grid[0] == use.attributes["splits"] else None


def plan_score(use: Use, tile: Tile) -> Launch:
    """`score_kernel`."""
    from prn_fast.kernels.anomaly_score import fused

    return fused.plan_score(use.batch, use.shapes[0][1], tile)


def partial_logits(grids: Sequence[int]) -> int:
    """Partial logits of one image and split."""
    from prn_fast.kernels.multi_size_attention.fused import AttentionShape

    return AttentionShape(1, 1, 1, 1, tuple(grids), torch.float32, False).entries


def attention_weights(grids: Sequence[int]) -> int:
    """Attention weights of one image."""
    from prn_fast.kernels.multi_size_attention.fused import AttentionShape

    return AttentionShape(1, 1, 1, 1, tuple(grids), torch.float32, False).weights


def same_shape(shapes: Sequence[Shape], attributes: Attributes) -> tuple[Shape, ...]:
    """One output of the first input's shape."""
    return (tuple(shapes[0]),)


def several(stem: str, count: int, kind: Kind) -> dict[str, Kind]:
    """Inputs stem0, stem1, ... of a kind."""
    return {f"{stem}{index}": kind for index in range(count)}


DISTANCE = Plugin(
    "distance",
    "distance",
    {"features": Kind.MAP, "prototypes": Kind.MAP},
    (Kind.FLOATS,),
    lambda shapes, attributes: ((shapes[0][0], shapes[1][0], attributes["splits"]),),
    plan_distance,
    {"splits": int},
    variants=({"BLOCK_D": 2}, {"warps": 2}),
)
RESIDUAL = Plugin(
    "residual",
    "residual",
    {"features": Kind.MAP, "prototypes": Kind.MAP, "partials": Kind.FLOATS},
    (Kind.MAP,),
    same_shape,
    plan_residual,
    variants=({"BLOCK_D": 2},),
)
SOFTMAX = Plugin(
    "softmax",
    "softmax",
    {"partials": Kind.FLOATS},
    (Kind.ROWS,),
    lambda shapes, attributes: ((shapes[0][0], attention_weights(attributes["grids"])),),
    plan_softmax,
    {"grids": list, "size": int, "element_type": int},
    variants=({"warps": 0.5},),
)
TOP_PIXELS_OF_MAP = Plugin(
    "top_pixels",
    "top_pixels",
    {"logits": Kind.ROWS},
    (Kind.FLOATS, Kind.FLOATS),
    lambda shapes, attributes: (
        (shapes[0][0], shapes[0][2], shapes[0][3]),
        (shapes[0][0], attributes["splits"], TOP_PIXELS),
    ),
    plan_top_pixels,
    {"splits": int},
    variants=({"warps": 0.5},),
)
SCORE = Plugin(
    "score",
    "score",
    {"candidates": Kind.FLOATS},
    (Kind.FLOATS,),
    lambda shapes, attributes: ((shapes[0][0],),),
    plan_score,
    images_axis=0,
    variants=({"warps": 0.5},),
)


def logits(grids: int) -> Plugin:
    """Partial logits of so many grids above 1."""
    return Plugin(
        f"logits_{grids}",
        "logits",
        {"maps": Kind.MAP, **several("projection", grids, Kind.MAP)},
        (Kind.FLOATS,),
        lambda shapes, attributes: ((shapes[0][0], attributes["splits"], partial_logits(attributes["grids"])),),
        plan_logits,
        {"grids": list, "splits": int},
        variants=({"BLOCK_D": 0.5},),
    )


def mixing(grids: int) -> Plugin:
    """Attention of so many grids, applied to a map."""
    return Plugin(
        f"mixing_{grids}",
        "mixing",
        {"maps": Kind.MAP, "attention": Kind.ROWS, **several("value", grids, Kind.MAP)},
        (Kind.MAP,),
        lambda shapes, attributes: ((shapes[0][0], shapes[0][1] * grids, shapes[0][2], shapes[0][3]),),
        plan_mixing,
        {"grids": list},
        variants=({"BLOCK_D": 0.5},),
    )


def project_upsample_add(full: int, coarse: int) -> Plugin:
    """Sum of so many full maps and projected, upsampled coarse maps."""
    return Plugin(
        f"project_upsample_add_{full}_{coarse}",
        "project_upsample_add",
        {
            **several("full", full, Kind.MAP),
            **several("coarse", coarse, Kind.MAP),
            **several("weight", coarse, Kind.ROWS),
            **several("bias", coarse, Kind.ROWS),
        },
        (Kind.MAP,),
        same_shape,
        plan_project_upsample_add,
        {"full": int},
        images_axis=2,
        variants=({"BLOCK_C": 0.5}, {"warps": 0.5}),
    )


PLUGINS: dict[str, Plugin] = {
    plugin.name: plugin
    for plugin in (
        DISTANCE,
        RESIDUAL,
        *(logits(grids) for grids in range(1, MOST_GRIDS + 1)),
        SOFTMAX,
        *(mixing(grids) for grids in range(1, MOST_GRIDS + 1)),
        project_upsample_add(1, 2),
        project_upsample_add(2, 1),
        TOP_PIXELS_OF_MAP,
        SCORE,
    )
}
