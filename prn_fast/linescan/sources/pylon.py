"""Basler cameras, through pypylon; its emulated camera (PYLON_CAMEMU=1) is one of them."""

import time
from typing import Any

import numpy as np

from prn_fast.errors import LinescanError, one_line, printable
from prn_fast.linescan.sources.camera import CameraLost, CameraSource, Grabbed, name_in_camera
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS
from prn_fast.linescan.sources.options import BLOCK_LINES, BUFFERS


def import_pylon() -> Any:
    """The pypylon module, or a LinescanError that names the extra to install."""
    try:
        from pypylon import pylon
    except ImportError:
        raise LinescanError("pypylon is not installed: pip install 'prn-fast[pylon]'") from None
    return pylon


class PylonSource(CameraSource):
    """A Basler line camera; blocks are fetched without a copy, in order of arrival.

    Lines are numbered by the camera's block numbers. A camera without them (the emulator) is numbered by what pylon
    received, failed buffers included; what was lost before pylon saw it then goes unnoticed.

    Args:
        where: serial number; empty takes the first camera.
        width, lines, line_rate, pixel_format, counter, buffers: as for `AravisSource`.
    """

    fault = "failed"

    def __init__(
        self,
        where: str = "",
        *,
        width: int = 0,
        lines: int = BLOCK_LINES,
        line_rate: float = 0.0,
        pixel_format: str = "Mono8",
        counter: str = "block",
        buffers: int = BUFFERS,
    ) -> None:
        self.name = f"pylon:{printable(where)}"
        numbers = {"lines": lines, "line_rate": line_rate, "buffers": buffers}
        self.check(self.name, pixel_format, counter, width, where=where, **numbers)
        self._pylon = import_pylon()
        self._where = where
        self._settings = (width, lines, line_rate, pixel_format)
        self._buffers = buffers
        self._lent: Any = None
        self.camera: Any = None
        self.connect()
        super().__init__(
            self.name,
            self._width,
            pixel_format,
            lines,
            self._rate(),
            ids=self._ids(),
            counter=counter,
        )

    def connect(self) -> None:
        """See `CameraSource.connect`."""
        pylon = self._pylon
        width, lines, line_rate, pixel_format = self._settings
        factory = pylon.TlFactory.GetInstance()
        try:
            if self._where:
                wanted = pylon.DeviceInfo()
                wanted.SetSerialNumber(self._where)
                camera = pylon.InstantCamera(factory.CreateFirstDevice(wanted))
            else:
                camera = pylon.InstantCamera(factory.CreateFirstDevice())
            camera.Open()
            if width:
                # The emulator accepts any width.
                if _has(camera, "ForceFailedBuffer") and camera.WidthMax.GetValue() < width:
                    camera.WidthMax.SetValue(width)
                camera.Width.SetValue(width)
            camera.Height.SetValue(lines)
            camera.PixelFormat.SetValue(name_in_camera(pixel_format, camera.PixelFormat.Symbolics))
            if line_rate:
                self._set_rate(camera, line_rate, lines)
            camera.MaxNumBuffer.SetValue(self._buffers)
            self._width = int(camera.Width.GetValue())
            self.check_size((width, lines), (self._width, int(camera.Height.GetValue())))
        except pylon.GenericException as error:
            raise LinescanError(f"{self.name}: {one_line(error)}") from None
        self.camera = camera

    def start(self) -> None:
        """See `CameraSource.start`."""
        try:
            self.camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)
        except self._pylon.GenericException:
            raise CameraLost from None

    def _ids(self) -> int | None:
        return GIGE_VISION_IDS if self.camera.GetDeviceInfo().GetDeviceClass() == "BaslerGigE" else None

    @staticmethod
    def _set_rate(camera: Any, line_rate: float, lines: int) -> None:
        for name in ("AcquisitionLineRate", "AcquisitionLineRateAbs"):
            if _has(camera, name):
                getattr(camera, name).SetValue(line_rate)
                return
        # The emulator is an area camera: a block is one of its frames, and its exposure bounds their rate.
        camera.ExposureTimeAbs.SetValue(camera.ExposureTimeAbs.GetMin())
        camera.AcquisitionFrameRateEnable.SetValue(True)
        camera.AcquisitionFrameRateAbs.SetValue(line_rate / lines)

    def _rate(self) -> float | None:
        for name in ("ResultingLineRate", "ResultingLineRateAbs", "AcquisitionLineRate", "AcquisitionLineRateAbs"):
            if _has(self.camera, name):
                return float(getattr(self.camera, name).GetValue())
        return self._settings[2] or None

    def grab(self, timeout: float) -> Grabbed | None:
        """See `CameraSource.grab`."""
        pylon = self._pylon
        if self._lent is not None:
            self._lent.Release()
            self._lent = None
        if self.camera.IsCameraDeviceRemoved():
            raise CameraLost
        try:
            result = self.camera.RetrieveResult(int(timeout * 1000), pylon.TimeoutHandling_Return)
        except pylon.GenericException:
            raise CameraLost from None
        if not result.IsValid():
            return None
        self._lent = result
        rows = None
        if result.GrabSucceeded():
            memory = np.frombuffer(result.GetMemoryView(), np.uint8)[: result.GetPayloadSize()]
            rows = self.rows_in(memory, result.GetHeight(), result.GetWidth(), result.GetPaddingX())
            if self._counts_lines:
                rows = rows.copy()
        return Grabbed(result.BlockID or result.ImageNumber, rows, time.monotonic_ns())

    def disconnect(self) -> None:
        """See `CameraSource.disconnect`."""
        if self._lent is not None:
            self._lent.Release()
            self._lent = None
        if self.camera is not None:
            self.camera.Close()
            self.camera.DestroyDevice()
            self.camera = None


def _has(camera: Any, name: str) -> bool:
    """Whether the camera has a feature, and lets it be used now."""
    from pypylon import genicam

    node = camera.GetNodeMap().GetNode(name)
    return node is not None and genicam.IsAvailable(node)
