"""Cameras that speak GigE Vision or USB3 Vision, through Aravis."""

import ctypes
import importlib.util
import sys
import threading
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import LinescanError, printable
from prn_fast.linescan.sources.camera import CameraLost, CameraSource, Grabbed, monotonic_from_epoch, name_in_camera
from prn_fast.linescan.sources.line_numbers import GIGE_VISION_IDS
from prn_fast.linescan.sources.options import BLOCK_LINES, BUFFERS

# Debian's bindings are here, where a virtual environment does not look.
_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
_LIBRARY = "libaravis-0.8.so.0"


def import_aravis() -> Any:
    """The Aravis bindings, or a LinescanError that says what to install."""
    try:
        if importlib.util.find_spec("gi") is None:
            spec = PathFinder.find_spec("gi", [_SYSTEM_PACKAGES])
            if spec is None or spec.loader is None:
                raise ImportError("gi")
            module = importlib.util.module_from_spec(spec)
            sys.modules["gi"] = module
            try:
                spec.loader.exec_module(module)
            except ImportError:
                del sys.modules["gi"]
                raise
        import gi

        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis
    except (ImportError, ValueError):
        raise LinescanError(
            "Aravis is not installed: apt-get install gir1.2-aravis-0.8 python3-gi, "
            "or pip install 'prn-fast[aravis]' beside a libaravis of your own"
        ) from None
    return Aravis


def import_received_size() -> Callable[[Any], int]:
    """A function that returns how many bytes of an `Aravis.Buffer` were received.

    The bindings return it only together with a copy of all these bytes, so the C function is called.
    """
    try:
        get_data = ctypes.CDLL(_LIBRARY).arv_buffer_get_data
    except OSError:
        raise LinescanError(f"Aravis is not installed: there is no {_LIBRARY}") from None
    get_data.restype, get_data.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    def received_size(buffer: Any) -> int:
        size = ctypes.c_size_t()
        get_data(get_pointer(buffer.__gpointer__, None), size)
        return size.value

    return received_size


class AravisSource(CameraSource):
    """A GenICam line camera on the network or on USB.

    Buffers are filled by Aravis' own thread; Python only hands them on, and they are stamped when their first packet
    arrives. A camera that is lost (Aravis notices about five seconds later) is looked for until it is back.

    Args:
        where: the camera's name or address as Aravis lists it; empty takes the first.
        width: pixels in a line; 0 leaves the camera's own setting.
        lines: lines in a block.
        line_rate: lines per second; 0 leaves the camera's own setting (an encoder, for instance).
        pixel_format: GenICam name.
        counter: as for `CameraSource`.
        packet_size: bytes, GigE Vision; 0 leaves it to Aravis. Jumbo frames (9000) cost far less processor time.
        buffers: blocks that may wait for Python.
    """

    def __init__(
        self,
        where: str = "",
        *,
        width: int = 0,
        lines: int = BLOCK_LINES,
        line_rate: float = 0.0,
        pixel_format: str = "Mono8",
        counter: str = "block",
        packet_size: int = 0,
        buffers: int = BUFFERS,
    ) -> None:
        self.name = f"aravis:{printable(where)}"
        numbers = {"lines": lines, "line_rate": line_rate, "packet_size": packet_size, "buffers": buffers}
        self.check(self.name, pixel_format, counter, width, where=where, **numbers)
        self._aravis = import_aravis()
        self._received_size = import_received_size()
        self._where = where
        self._settings = (width, lines, line_rate, pixel_format)
        self._packet_size = packet_size
        self._buffers = buffers
        self._camera: Any = None
        self._stream: Any = None
        self._lent: Any = None
        self._memory: dict[Any, NDArray[Any]] = {}
        self._lost = threading.Event()
        self.connect()
        reported = self._rate()
        super().__init__(self.name, self._width, pixel_format, lines, reported, ids=self._ids(), counter=counter)

    def connect(self) -> None:
        """See `CameraSource.connect`."""
        aravis = self._aravis
        width, lines, line_rate, pixel_format = self._settings
        aravis.update_device_list()
        try:
            camera = aravis.Camera.new(self._where or None)
            if camera is None:
                raise LinescanError(f"{self.name}: there is no such camera; is it on and reachable?")
            available = camera.dup_available_pixel_formats_as_strings()
            camera.set_pixel_format_from_string(name_in_camera(pixel_format, available))
            if width:
                camera.set_integer("Width", width)
            camera.set_integer("Height", lines)
            self._width = camera.get_integer("Width")
            self.check_size((width, lines), (self._width, camera.get_integer("Height")))
            if line_rate:
                camera.set_float("AcquisitionLineRate", line_rate)
            if camera.is_gv_device():
                # Its bypass of the kernel's network stack receives nothing on loopback.
                camera.gv_set_stream_options(aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
                if self._packet_size:
                    camera.gv_set_packet_size(self._packet_size)
            stream = camera.create_stream(None, None)
            if camera.is_gv_device():
                # With the default size, blocks arrive incomplete as soon as the process is late once.
                stream.set_property("socket-buffer", aravis.GvStreamSocketBuffer.FIXED)
                stream.set_property("socket-buffer-size", max(4 << 20, 4 * camera.get_payload()))
            self._memory = {}
            for _ in range(self._buffers):
                memory = np.zeros(camera.get_payload(), np.uint8)
                buffer = aravis.Buffer.new_full(memory.nbytes, memory.ctypes.data, None, None)
                self._memory[buffer] = memory
                stream.push_buffer(buffer)
            self._lost.clear()
            camera.get_device().connect("control-lost", lambda _: self._lost.set())
        except LinescanError:
            raise
        except Exception as error:  # GLib errors share no base class that can be named without gi
            message = getattr(error, "message", str(error))
            raise LinescanError(f"{self.name}: {printable(message)}") from None
        self._camera, self._stream = camera, stream

    def start(self) -> None:
        """See `CameraSource.start`."""
        try:
            self._camera.start_acquisition()
        except Exception:  # as above
            raise CameraLost from None

    def _ids(self) -> int | None:
        return GIGE_VISION_IDS if self._camera.is_gv_device() else None

    def _rate(self) -> float | None:
        try:
            return float(self._camera.get_float("AcquisitionLineRate"))
        except Exception:  # as above; a camera on an encoder need not have a rate
            return None

    def grab(self, timeout: float) -> Grabbed | None:
        """See `CameraSource.grab`."""
        if self._lent is not None:
            self._stream.push_buffer(self._lent)
            self._lent = None
        buffer = self._stream.timeout_pop_buffer(int(timeout * 1e6))
        if buffer is None:
            if self._lost.is_set():
                raise CameraLost
            return None
        self._lent = buffer
        rows = None
        if buffer.get_status() == self._aravis.BufferStatus.SUCCESS:
            rows = self._rows(buffer)
        return Grabbed(buffer.get_frame_id(), rows, monotonic_from_epoch(buffer.get_system_timestamp()))

    def _rows(self, buffer: Any) -> NDArray[np.uint8]:
        """The lines of a buffer, as many as its header says and its bytes hold.

        A camera that does not know the length of a block beforehand announces a whole one and ends it early.
        """
        payload = self._aravis.BufferPayloadType
        memory = self._memory[buffer][: self._received_size(buffer)]
        if buffer.get_payload_type() not in (payload.IMAGE, payload.EXTENDED_CHUNK_DATA, payload.MULTIPART):
            return self.rows_in(memory, None)
        _, _, width, height = buffer.get_image_region()
        return self.rows_in(memory, height, width, buffer.get_image_padding()[0])

    def disconnect(self) -> None:
        """See `CameraSource.disconnect`."""
        camera, stream = self._camera, self._stream
        self._camera = self._stream = self._lent = None
        if camera is None:
            return
        try:
            camera.stop_acquisition()
        except Exception as error:  # as above; a camera that is gone cannot be told to stop
            del error
        # The receiving thread writes into our memory until the stream is gone.
        del camera, stream
        self._memory = {}
