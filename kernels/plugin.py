"""A Triton kernel of the network as a TensorRT plugin: tensors, attributes, shapes, launch.

`plugin.py` in an operation's folder states its plugins, and the operation formulated in them.

A plugin is one kernel; an operation of two kernels is two plugins with a tensor between them. TensorRT asks for shapes
before it knows types and layouts, and for kernels before it knows the batch. So shapes are stated over any kind of
number, and whatever depends on the batch inside a kernel is fixed for the optimum of the profile; only the grid and the
number of images follow the batch.

Attributes are whole numbers or lists of them: TensorRT's ONNX parser ends strings with a zero byte, which its Python
side does not remove. They are

- "capability": compute capability that the kernel is compiled for, 86 for 8.6;
- "splits": programs that share a map; it sets the shape of what they write, so every tactic has the same;
- "grids": of the attention;
- "full": how many of the inputs are full-size maps;
- "element_type" and "size": ONNX's number of the map's type, and C H W, where no input has them.

Without plugins are the normalising of images (TensorRT lets no plugin read bytes; its own layers do it) and the kernels
that cut and stitch a camera's strip, which are not part of the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor

from prn_fast.errors import EngineError
from prn_fast.kernels.launch import Launch, Tile, ceil_div
from prn_fast.kernels.tiles import Capability, tile_for

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
    """One use of a plugin in a network: everything that its kernel depends on.

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
            # A block too large for the map is reduced, perhaps to one that is there already.
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
    """The launch with its blocks spread over a number of programs along axis 0.

    Programs past the map's end write values that change no result: zeros, or the same number for every prototype.
    """
    constants = {**launch.constants, "STEPS": ceil_div(blocks, splits)}
    return replace(launch, constants=constants, grid=(splits, *launch.grid[1:]))


def values_of(shape: Sequence[int]) -> int:
    """Values of one image's map."""
    size = 1
    for dimension in shape[1:]:
        size *= dimension
    return size


def same_shape(shapes: Sequence[Shape], attributes: Attributes) -> tuple[Shape, ...]:
    """One output of the first input's shape."""
    return (tuple(shapes[0]),)


def several(stem: str, count: int, kind: Kind) -> dict[str, Kind]:
    """Inputs stem0, stem1, ... of a kind."""
    return {f"{stem}{index}": kind for index in range(count)}


class Graph(Protocol):
    """The graph that a formulation in plugins adds its nodes to, and what it is built for."""

    @property
    def capability(self) -> Capability:
        """The compute capability that kernels are compiled for."""

    @property
    def batch(self) -> int:
        """The optimum."""

    def node(self, plugin: Plugin, inputs: Sequence[Tensor], **attributes: Any) -> Sequence[Tensor]:
        """Outputs of a new node; its "capability" is set."""
