"""One serialised engine of a TensorRT library, loaded on a GPU, and its runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.cuda_graph import CudaGraph
from prn_fast.engine.cuda_memory import CudaDevice, DeviceImages, DeviceRows, Staging
from prn_fast.engine.tensor_names import INPUT_NAME
from prn_fast.errors import EngineError


@dataclass(frozen=True)
class Weights:
    """What runs beside each other share.

    Attributes:
        engine: the library's.
        runtime_config, runtime_cache: TensorRT-RTX's; None for a flavour that has none.
        cache_file: where the kernels that it compiles are kept; None: nowhere.
    """

    engine: Any
    runtime_config: Any = None
    runtime_cache: Any = None
    cache_file: Path | None = None


class Program:
    """An execution context with outputs of its own, which reads images from a staging that others read, too.

    Args:
        name: of the engine, for people.
        weights: loaded.
        device: its stream is worked on.
        images: (rows, S, S, C) uint8.
        outputs: names of scores (n,) and maps (n, side, side).
        side: of the maps.
        smallest: number of images that the engine takes.
        capture: from the second run of a number of images on, the whole run is one CUDA graph.
        logger: of the library, see `error_logger`.
    """

    def __init__(
        self,
        name: str,
        weights: Weights,
        device: CudaDevice,
        images: Staging,
        outputs: tuple[str, str],
        side: int,
        smallest: int,
        capture: bool,
        logger: Any,
    ) -> None:
        self.weights = weights
        self._name, self._device, self._smallest, self._logger = name, device, smallest, logger
        # TensorRT-RTX captures by itself.
        self._capture = capture and weights.runtime_config is None
        config = () if weights.runtime_config is None else (weights.runtime_config,)
        self.context = weights.engine.create_execution_context(*config)
        if self.context is None:
            raise EngineError(f"{name}: no execution context could be made: {logger.first or 'out of memory?'}")
        rows = len(images.host)
        self._images = images
        self._scores: Staging = device.staging((rows,), np.float32)
        self._maps: Staging = device.staging((rows, side, side), np.float32)
        self._graphs: dict[int, CudaGraph] = {}
        for output, staging in zip(outputs, (self._scores, self._maps), strict=True):
            self.context.set_tensor_address(output, staging.pointer)

    def run(
        self, images: NDArray[np.uint8] | DeviceImages | DeviceRows
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores (n,) and maps (n, side, side) of images, no more than the staging holds; copies."""
        count = len(images)
        rows = max(count, self._smallest)
        first = 0
        if isinstance(images, DeviceImages):
            # The last part of many may be short: it is run together with images before it, and those are left out.
            first = rows - count
            if first > images.before:
                raise EngineError(f"{count} images on the GPU: {self._name} takes {rows} or more there")
            self._enqueue(images.pointer - first * images.row_bytes, rows)
            self._download(rows)
        elif isinstance(images, DeviceRows):
            for place, source in enumerate(images.pointers):
                self._device.copy(self._images.pointer + place * images.row_bytes, source, images.row_bytes)
            self._enqueue(self._images.pointer, rows)
            self._download(rows)
        else:
            self._images.host[:count] = images
            self._run_staged(rows)
        self._device.synchronize()
        part = slice(first, first + count)
        return self._scores.host[part].copy(), self._maps.host[part].copy()

    def close(self) -> None:
        """Free the graphs and the context."""
        for graph in self._graphs.values():
            graph.close()
        self._graphs, self.context = {}, None

    def _run_staged(self, rows: int) -> None:
        """Upload, compute and download, as one graph from the second time on."""
        if rows in self._graphs:
            self._graphs[rows].launch()
            return
        self._work(rows)
        if self._capture:
            self._device.synchronize()
            self._graphs[rows] = CudaGraph(self._device.stream, lambda: self._work(rows))

    def _work(self, rows: int) -> None:
        self._images.upload(rows)
        self._enqueue(self._images.pointer, rows)
        self._download(rows)

    def _download(self, rows: int) -> None:
        self._scores.download(rows)
        self._maps.download(rows)

    def _enqueue(self, pointer: int, rows: int) -> None:
        self.context.set_input_shape(INPUT_NAME, (rows, *self._images.host.shape[1:]))
        self.context.set_tensor_address(INPUT_NAME, pointer)
        if not self.context.execute_async_v3(self._device.stream):
            raise EngineError(f"{self._name}: the GPU refused the work: {self._logger.first or 'no reason given'}")
