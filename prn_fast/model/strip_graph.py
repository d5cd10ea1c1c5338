"""A row of a strip's tiles through the network: lines in, one map out, with nothing in between but on the device."""

import torch
from torch import Tensor, nn

from prn_fast.kernels.anomaly_score import stitch_tiles
from prn_fast.kernels.tile_normalize import tile_normalize, tile_positions
from prn_fast.model.engine_graph import EngineGraph


class StripGraph(nn.Module):
    """uint8 lines (S, W, C) to the raw scores (N,) of their tiles, along the line, and their map (S, W), float32.

    Args:
        graph: the whole network; its weights are shared.
        width: W, at least S.
        overlap: pixels that neighbouring tiles share.
        batch: most tiles in one run of the network; more are cut into runs of nearly equal size.
    Raises:
        ConfigError: a width or an overlap out of range.
    """

    def __init__(self, graph: EngineGraph, width: int, overlap: int, batch: int) -> None:
        super().__init__()
        self.model = graph.model
        self.channels_last = graph.memory_format == torch.channels_last
        self.width, self.overlap = width, overlap
        side = self.model.config.image_size
        count = len(tile_positions(side, width, side, overlap))
        runs = -(-count // batch)
        self.parts = [slice(run * count // runs, (run + 1) * count // runs) for run in range(runs)]

    def forward(self, lines: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        model, side = self.model, self.model.config.image_size
        dtype = model.decoder.out.weight.dtype
        tiles = tile_normalize(lines, 0, side, side, self.overlap, model.mean, model.std, dtype, self.channels_last)
        found = [self.model.detect_normalized(tiles[part]) for part in self.parts]
        scores, maps = (torch.cat(one) for one in zip(*found, strict=True))
        return scores, stitch_tiles(maps, side, self.width, self.overlap)
