"""Any camera or frame grabber whose maker supplies a GenTL producer (a .cti file), through harvesters."""

import os
import time
from pathlib import Path
from typing import Any

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.sources.camera import CameraLost, CameraSource, Grabbed
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS

_PRODUCER_FOLDERS = "GENICAM_GENTL64_PATH"


def import_harvesters() -> Any:
    """The harvesters module, or a LinescanError that names the extra to install."""
    try:
        from harvesters import core
    except ImportError:
        raise LinescanError("harvesters is not installed: pip install 'prn-fast[gentl]'") from None
    return core


class GenTLSource(CameraSource):
    """A camera behind a GenTL producer.

    Args:
        where: path of the producer's .cti file; empty takes those in the folders of GENICAM_GENTL64_PATH.
        device: the camera's identity as the producer lists it; empty takes the first.
        wrap: the block number after which the producer's count begins again with 1; 0 if it does not wrap, 65535 for
            GigE Vision cameras with 16-bit block numbers.
        width, lines, line_rate, pixel_format, counter, buffers: as for `AravisSource`.
    """

    def __init__(
        self,
        where: str = "",
        *,
        device: str = "",
        width: int = 0,
        lines: int = 256,
        line_rate: float = 0.0,
        pixel_format: str = "Mono8",
        counter: str = "block",
        wrap: int = 0,
        buffers: int = 16,
    ) -> None:
        self._core = import_harvesters()
        self._producers = _producers(where)
        self._where = where
        self._device = device
        self._settings = (width, lines, line_rate, pixel_format)
        self._buffers = buffers
        self._harvester: Any = None
        self._acquirer: Any = None
        self._lent: Any = None
        self.connect()
        if wrap not in (0, GIGE_VISION_IDS):
            raise ConfigError(f"gentl:{where}: wrap is {wrap}; it is 0 or {GIGE_VISION_IDS}")
        super().__init__(
            f"gentl:{where}", self._width, pixel_format, lines, line_rate or None, ids=wrap or None, counter=counter
        )

    def connect(self) -> None:
        """See `CameraSource.connect`."""
        width, lines, line_rate, pixel_format = self._settings
        self._harvester = self._core.Harvester()
        try:
            for producer in self._producers:
                self._harvester.add_file(str(producer))
            self._harvester.update()
            acquirer = self._harvester.create({"id_": self._device} if self._device else 0)
            nodes = acquirer.remote_device.node_map
            nodes.PixelFormat.value = pixel_format
            if width:
                nodes.Width.value = width
            nodes.Height.value = lines
            if line_rate:
                nodes.AcquisitionLineRate.value = line_rate
            self._width = int(nodes.Width.value)
            acquirer.num_buffers = self._buffers
        except Exception as error:  # producers raise many kinds, without a common base
            self.disconnect()
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LinescanError(f"gentl:{self._where}: the camera cannot be opened ({message})") from None
        self._acquirer = acquirer

    def start(self) -> None:
        """See `CameraSource.start`."""
        try:
            self._acquirer.start()
        except Exception:  # as above
            raise CameraLost from None

    def grab(self, timeout: float) -> Grabbed | None:
        """See `CameraSource.grab`."""
        try:
            if self._lent is not None:
                self._lent.queue()
                self._lent = None
            buffer = self._acquirer.fetch(timeout=timeout)
        except self._core.TimeoutException:
            return None
        except Exception:  # as above
            raise CameraLost from None
        self._lent = buffer
        arrival_ns = time.monotonic_ns()
        component = buffer.payload.components[0] if buffer.payload.components else None
        rows = None
        if component is not None and buffer.module.is_complete() is not False:
            rows = component.data.reshape(component.height, -1)
            if self._counts_lines:
                rows = rows.copy()
        return Grabbed(int(buffer.module.frame_id), rows, arrival_ns)

    def disconnect(self) -> None:
        """See `CameraSource.disconnect`."""
        acquirer, harvester = self._acquirer, self._harvester
        self._acquirer = self._harvester = self._lent = None
        for release in (acquirer and acquirer.stop, acquirer and acquirer.destroy, harvester and harvester.reset):
            try:
                if release:
                    release()
            except Exception as error:  # a camera that is gone cannot be told to stop
                del error


def _producers(where: str) -> list[Path]:
    if where:
        if not Path(where).is_file():
            raise LinescanError(f"gentl:{where}: there is no such GenTL producer (.cti file)")
        return [Path(where)]
    folders = [Path(folder) for folder in os.environ.get(_PRODUCER_FOLDERS, "").split(os.pathsep) if folder]
    found = [file for folder in folders for file in sorted(folder.glob("*.cti"))]
    if not found:
        raise LinescanError(f"gentl: give the path of a .cti file, or set {_PRODUCER_FOLDERS} to its folder")
    return found
