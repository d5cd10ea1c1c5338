"""The embedded CPU engine: OpenVINO."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine, Thresholds
from prn_fast.engine.early_exit import Screening
from prn_fast.engine.openvino_graph import GRAPH_FILE, SCREEN_FILE, Graph
from prn_fast.engine.openvino_streams import RequestStream
from prn_fast.engine.tensor_names import OUTPUT_NAMES, SCREEN_OUTPUT_NAMES
from prn_fast.errors import EngineError
from prn_fast.model.config import SCREEN_STRIDE
from prn_fast.package import Package


class OpenVINOEngine(Engine):
    """Graphs built by `prn-build-engine --backend openvino`, compiled for this machine's CPU.

    `infer` runs one piece of a batch after the other on all threads, for latency; `infer_many` runs several images
    beside each other, for throughput. With early exit there are two graphs: the screen, and the network for the images
    that stay.

    Args:
        package: gives the shape of images; `folder`: the engine's files; `precision`: "fp32", "bf16" or "int8".
        batch: most images in one run of `infer`.
        threads: processor threads to use; None takes all that this process may.
        early_exit, screen_only: as for `open_engine`. An engine that was built without the screen runs whole.
        cut_shift: of the engine's own screen, see `Package.cut_shift`.
    Raises:
        EngineError: OpenVINO is not installed, or does not take a graph: one line that names its file. Some faults
            show only at the first inference of a size.
    """

    def __init__(
        self,
        package: Package,
        folder: Path,
        precision: str,
        batch: int = 8,
        threads: int | None = None,
        early_exit: bool = False,
        screen_only: bool = False,
        cut_shift: float = 0.0,
    ) -> None:
        config, name = package.config, f"openvino:{precision}"
        has_screen = (folder / SCREEN_FILE).exists()
        screening = Screening.of(
            package, early_exit=early_exit and has_screen, screen_only=screen_only, cut_shift=cut_shift
        )
        if screen_only and not has_screen:
            raise EngineError(
                f"{package.path}: its {name} was built without the screen; build it again: prn-build-engine"
            )
        super().__init__(
            name,
            config.image_size,
            config.image_channels,
            batch,
            thresholds=Thresholds.of(package),
            screening=screening,
        )
        threads = threads or len(os.sched_getaffinity(0))
        self._network = self._screen = None
        if screening is None or not screening.alone:
            self._network = Graph(folder / GRAPH_FILE, config, OUTPUT_NAMES, config.image_size, threads)
        if screening is not None:
            side = config.image_size // SCREEN_STRIDE
            self._screen = Graph(folder / SCREEN_FILE, config, SCREEN_OUTPUT_NAMES, side, threads)
        self._idle_streams: list[RequestStream] = []

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`."""
        assert self._network is not None
        return self._network.run(images)

    def screen(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.screen`."""
        return super().screen(images) if self._screen is None else self.in_parts(self._screen.run, images)

    def stream(self) -> RequestStream:
        """See `Engine.stream`; one that was closed is used again."""
        if self._idle_streams:
            return self._idle_streams.pop()
        return RequestStream(self._network, self._screen, self.screening, self._keep)

    def _keep(self, stream: RequestStream) -> None:
        if not self._closed:
            self._idle_streams.append(stream)

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """See `Engine.prepare`; one image is enough for each request of a stream."""
        stream = self.stream()
        stream.run_each(images[:1])
        stream.close()

    def release(self) -> None:
        """See `Engine.release`."""
        self._idle_streams.clear()
        for graph in (self._network, self._screen):
            if graph is not None:
                graph.release()
