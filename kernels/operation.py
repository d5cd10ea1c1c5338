"""The interface of an operation to the rest of the project: `operation.py` in its folder states it, once.

The sets of formulations, the table of kernels, checks and benchmarks, the search for tiles, the GPU kit and TensorRT's
plugins read it from there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from prn_fast.kernels.launch import Launch
from prn_fast.kernels.plugin import Plugin
from prn_fast.kernels.tile_normalize.reference import tile_positions
from prn_fast.kernels.tiles import Capability
from prn_fast.kernels.traffic import BytesMoved

GRIDS = (1, 2, 4, 8)


@dataclass(frozen=True)
class PyramidLevel:
    """One scale of a PRN with the ResNet-18 backbone and 256x256 images: C_s channels, side h_s, K prototypes."""

    channels: int
    side: int
    prototypes: int = 20

    @property
    def size(self) -> int:
        """Number of values of a feature map."""
        return self.channels * self.side**2

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.side}x{self.side}"


@dataclass(frozen=True)
class Strip:
    """Lines of a camera: their number, the pixels and channels of each, and how they are cut into tiles."""

    lines: int
    width: int
    channels: int
    side: int
    overlap: int

    @property
    def tiles(self) -> int:
        """Tiles of the strip."""
        return len(tile_positions(self.lines, self.width, self.side, self.overlap))

    @property
    def name(self) -> str:
        """As tables have it."""
        return f"{self.lines}x{self.width}"


SCALES = (PyramidLevel(64, 64), PyramidLevel(128, 32), PyramidLevel(256, 16))


@dataclass(frozen=True)
class Shapes:
    """Sizes that operations are compiled, checked and timed at: those of the real network by default.

    Attributes:
        strip: one block of an 8k monochrome camera: one row of tiles.
    """

    scales: tuple[PyramidLevel, ...] = SCALES
    strip: Strip = Strip(lines=256, width=8192, channels=1, side=256, overlap=32)
    image_side: int = 256

    @property
    def image(self) -> str:
        """As tables have it."""
        return f"{self.image_side}x{self.image_side}"


REAL = Shapes()


@dataclass(frozen=True)
class Draw:
    """Random inputs of a dtype on a device; maps and weights channels-last."""

    dtype: torch.dtype
    device: torch.device

    def maps(self, *shape: int, spread: float = 1.0) -> Tensor:
        """Normal values."""
        values = torch.randn(shape, device=self.device) * spread
        values = values.to(self.dtype)
        return values.to(memory_format=torch.channels_last) if values.ndim == 4 else values

    def pixels(self, *shape: int) -> Tensor:
        """Bytes."""
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)


@dataclass(frozen=True)
class Case:
    """One operation at one shape with random inputs.

    Attributes:
        arguments: of all formulations.
        published: what defines the result.
        optimized: the same without waste, in plain PyTorch.
        fused: the operation, as training calls it.
        traffic: gives the bytes that the fused formulation moves, and the published one; needs Triton's kernels. None
            for what is checked but not timed on its own.
        trained: positions of the arguments that have a gradient.
        engine_arguments: what the engine passes to `fused` instead, weights prepared once.
        kernel: which it shows, if `fused` is one of an operation's formulations, not the one that is chosen.
    """

    op: str
    shape: str
    arguments: tuple[Any, ...]
    published: Callable[..., Any]
    optimized: Callable[..., Any]
    fused: Callable[..., Any]
    traffic: Callable[[], tuple[BytesMoved, BytesMoved]] | None
    trained: tuple[int, ...] = ()
    engine_arguments: tuple[Any, ...] | None = None
    kernel: str | None = None

    def run(self) -> Any:
        """The operation as the engine calls it."""
        return self.fused(*(self.engine_arguments or self.arguments))

    @property
    def input_bytes(self) -> int:
        """Bytes of all tensors that go in."""
        return sum(t.nbytes for t in tree_leaves(self.engine_arguments or self.arguments) if isinstance(t, Tensor))


@dataclass(frozen=True)
class Space:
    """Values to try of each block size, of warps and of stages: all combinations."""

    blocks: Mapping[str, Sequence[int]]
    warps: Sequence[int] = (4, 8)
    stages: Sequence[int] = (1,)


# Shape, kernel and launch of every kernel of an operation: for shapes, a batch, the maps' dtype, a capability and the
# layout (channels-last or not). Needs triton.
Launches = Callable[[Shapes, int, torch.dtype, Capability, bool], Iterator[tuple[str, str, Launch]]]


def no_cases(batch: int, shapes: Shapes, draw: Draw) -> Iterator[Case]:
    """The cases of a backward, which is checked with its operation."""
    return iter(())


@dataclass(frozen=True)
class Operation:
    """An operation, with everything that the rest of the project needs of it.

    Attributes:
        name: also the field of `Ops`, where a network is built from it.
        reference: the published formulation; with `optimized` and `fused` it makes the three sets of operations.
        registered: all that it has registered with PyTorch.
        kernels: for each, the tiles to try; None for kernels whose tiles are not searched.
        launches: of the kernels, as an engine or, for a backward, training starts them.
        cases: what is checked and timed; for a batch, shapes and inputs.
        plugins: a TensorRT plugin for each kernel of the network's.
        plugged: the operation formulated in them; its first argument is the graph that nodes are put in.
    """

    name: str
    reference: Callable[..., Any]
    optimized: Callable[..., Any]
    fused: Callable[..., Any]
    registered: tuple[Any, ...]
    kernels: Mapping[str, Space | None]
    launches: Launches
    cases: Callable[[int, Shapes, Draw], Iterator[Case]] = no_cases
    plugins: tuple[Plugin, ...] = ()
    plugged: Callable[..., Any] | None = None

    def case(
        self,
        shape: str,
        arguments: tuple[Any, ...],
        traffic: Callable[[], tuple[BytesMoved, BytesMoved]] | None,
        trained: tuple[int, ...] = (),
        engine_arguments: tuple[Any, ...] | None = None,
    ) -> Case:
        """A case of the whole operation."""
        formulations = self.reference, self.optimized, self.fused
        return Case(self.name, shape, arguments, *formulations, traffic, trained, engine_arguments)

    @property
    def training(self) -> bool:
        """Whether only training runs it."""
        return self.cases is no_cases
