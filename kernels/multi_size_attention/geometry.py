"""The sizes of one attention over a map, which its kernels know at compile time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prn_fast.kernels.launch import MIN_ROWS, memory_format_of

FINEST_GRID = 8


def supports(grids: Sequence[int]) -> bool:
    """Whether the kernels take these grids: powers of two, 8 at most, one of them above 1."""
    return 1 < max(grids) <= FINEST_GRID and all(grid & (grid - 1) == 0 for grid in grids)


@dataclass(frozen=True)
class Geometry:
    """One image's map and the grids that it is cut into; the kernels' constexpr argument `G`.

    Every grid is a power of two that divides height and width, 8 at most.
    """

    channels: int
    height: int
    width: int
    grids: tuple[int, ...]
    channels_last: bool

    @classmethod
    def of(cls, maps: Tensor, grids: Sequence[int]) -> "Geometry":
        """That of maps (B, C, H, W); a ValueError for grids that the kernels do not take."""
        if not supports(grids):
            raise ValueError(
                f"grids must be powers of two up to {FINEST_GRID}, one of them above 1, not {tuple(grids)}"
            )
        _, channels, height, width = maps.shape
        return cls(channels, height, width, tuple(grids), memory_format_of(maps) == torch.channels_last)

    @property
    def attending(self) -> tuple[int, ...]:
        """The grids of more than one token, in order."""
        return tuple(grid for grid in self.grids if grid > 1)

    @property
    def finest(self) -> int:
        """Sub-tokens along a side."""
        return max(self.grids)

    @property
    def sub_tokens(self) -> int:
        """T: sub-tokens of the map."""
        return self.finest**2

    @property
    def rows(self) -> int:
        """Sub-tokens, padded to the smallest side of a product."""
        return max(MIN_ROWS, self.sub_tokens)

    @property
    def mixing_rows(self) -> tuple[int, ...]:
        """For each grid, rows of the products that mix its tokens: those, filled up to the least side of a product."""
        return tuple(max(MIN_ROWS, grid**2) for grid in self.grids)

    @property
    def run(self) -> int:
        """A power of two: from each multiple of it on, so many values of a sub-token lie side by side in memory."""
        side_by_side = self.channels if self.channels_last else self.width // self.finest
        return side_by_side & -side_by_side

    @property
    def values(self) -> int:
        """Values of the map."""
        return self.channels * self.height * self.width

    @property
    def size(self) -> int:
        """D: values of one sub-token."""
        return self.values // self.sub_tokens

    @property
    def entries(self) -> int:
        """Values of one split's partial logits."""
        return sum(self.sub_tokens * grid**2 for grid in self.attending)

    @property
    def weights(self) -> int:
        """Attention weights of one image."""
        return sum(grid**4 for grid in self.attending)

    @property
    def tokens(self) -> int:
        """Tokens of one image, of all grids but 1."""
        return sum(grid**2 for grid in self.attending)

    @property
    def weight_sums(self) -> tuple[tuple[int, int], ...]:
        """For each grid, the number of weights (scale, bias; w and u above 1) and the values of each."""
        return tuple((4 if grid > 1 else 2, self.values // grid**2) for grid in self.grids)

    @property
    def sums(self) -> int:
        """Values of the gradients of all weights."""
        return sum(count * values for count, values in self.weight_sums)
