"""Any camera or frame grabber whose maker supplies a GenTL producer (a .cti file), through harvesters."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError, LinescanError, one_line, printable
from prn_fast.linescan.sources.camera import CameraLost, CameraSource, Grabbed, name_in_camera
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS
from prn_fast.linescan.sources.options import BLOCK_LINES, BUFFERS

_PRODUCER_FOLDERS = "GENICAM_GENTL64_PATH"
# GenTL's number for a multi-part payload.
_MULTI_PART = 10


def import_harvesters() -> Any:
    """The harvesters module, or a LinescanError that names the extra to install."""
    try:
        from harvesters import core
    except ImportError:
        raise LinescanError("harvesters is not installed: pip install 'prn-fast[gentl]'") from None
    return core


class GenTLSource(CameraSource):
    """A camera behind a GenTL producer.

    Blocks are read out of the producer's own buffers: harvesters' own view of them unpacks packed pixels, keeps
    padding, and treats a block that ended early as a whole one.

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
        lines: int = BLOCK_LINES,
        line_rate: float = 0.0,
        pixel_format: str = "Mono8",
        counter: str = "block",
        wrap: int = 0,
        buffers: int = BUFFERS,
    ) -> None:
        self.name = f"gentl:{printable(where)}"
        numbers = {"lines": lines, "line_rate": line_rate, "buffers": buffers}
        self.check(self.name, pixel_format, counter, width, device=device, **numbers)
        if wrap not in (0, GIGE_VISION_IDS):
            raise ConfigError(f"{self.name}: wrap is {wrap}; it is 0 or {GIGE_VISION_IDS}")
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
        super().__init__(
            self.name, self._width, pixel_format, lines, line_rate or None, ids=wrap or None, counter=counter
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
            nodes.PixelFormat.value = name_in_camera(pixel_format, nodes.PixelFormat.symbolics)
            if width:
                nodes.Width.value = width
            nodes.Height.value = lines
            if line_rate:
                nodes.AcquisitionLineRate.value = line_rate
            self._width = int(nodes.Width.value)
            self.check_size((width, lines), (self._width, int(nodes.Height.value)))
            acquirer.num_buffers = self._buffers
        except LinescanError:
            self.disconnect()
            raise
        except Exception as error:  # producers raise many kinds, without a common base
            self.disconnect()
            raise LinescanError(f"{self.name}: the camera cannot be opened ({one_line(error)})") from None
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
                self._lent.parent.queue_buffer(self._lent)
                self._lent = None
            # `fetch` would never return if only incomplete blocks came; their numbers become a gap.
            buffer = self._acquirer.try_fetch(timeout=timeout, is_raw=True)
        except Exception:  # as above
            raise CameraLost from None
        if buffer is None:
            return None
        self._lent = buffer
        arrival_ns = time.monotonic_ns()
        block_id = _told(buffer, "frame_id")
        if block_id is None:
            if not self._counts_lines:
                raise LinescanError(
                    f"{self.name}: the producer does not number blocks, so that a lost one would not show; "
                    "use counter=line"
                )
            block_id = 0
        return Grabbed(int(block_id), self._rows(buffer), arrival_ns)

    def _rows(self, buffer: Any) -> NDArray[np.uint8] | None:
        """The lines of a GenTL buffer, or of the first part of one in parts; None if it holds no picture."""
        part: Any = buffer
        if _told(buffer, "payload_type") == _MULTI_PART:
            parts = _told(buffer, "parts")
            if not parts:
                return None
            part = parts[0]
            offset, size = _told(part, "data_offset"), _told(part, "data_size")
            padding = _told(part, "x_padding")
        else:
            offset, size = _told(buffer, "image_offset"), _told(buffer, "size_filled")
            padding = _told(buffer, "padding_x")
        memory = np.frombuffer(buffer.raw_buffer, np.uint8)[offset or 0 :][:size]
        heights = [height for height in (_told(part, "delivered_image_height"), _told(part, "height")) if height]
        rows = self.rows_in(memory, min(heights, default=None), _told(part, "width") or None, padding or 0)
        return rows.copy() if self._counts_lines else rows

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


def _told(module: Any, name: str) -> Any:
    """What a producer tells about a buffer or part; None if it does not, as the standard mostly allows."""
    try:
        return getattr(module, name)
    except Exception:  # as above
        return None


def _producers(where: str) -> list[Path]:
    if where:
        try:
            there = Path(where).is_file()
        except (OSError, ValueError):  # a name that no file system takes
            there = False
        if not there:
            raise LinescanError(f"gentl:{printable(where)}: there is no such GenTL producer (.cti file)")
        return [Path(where)]
    folders = [Path(folder) for folder in os.environ.get(_PRODUCER_FOLDERS, "").split(os.pathsep) if folder]
    found = [file for folder in folders for file in sorted(folder.glob("*.cti"))]
    if not found:
        raise LinescanError(f"gentl: give the path of a .cti file, or set {_PRODUCER_FOLDERS} to its folder")
    return found
