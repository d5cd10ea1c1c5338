"""The dashboard's web server: one page, and a websocket that carries frames and figures to it."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2

from prn_fast.linescan.dashboard.view import Frame, StripView
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.inspector import Inspected
from prn_fast.local_server import LOOPBACK, LocalServer

if TYPE_CHECKING:
    from aiohttp import web

    from prn_fast.linescan.inspection import Inspection

FRAMES_PER_SECOND = 30
_STATES_PER_SECOND = 5
_THUMBNAIL = 96
_MESSAGES_WAITING = 120


@dataclass(eq=False)
class _Viewer:
    """One open page: its queue of messages, and the last defect that it knows."""

    messages: "asyncio.Queue[str | bytes]" = field(default_factory=lambda: asyncio.Queue(_MESSAGES_WAITING))
    last_defect: int = 0

    def send(self, message: str | bytes) -> None:
        """Queue a message; a page that does not keep up misses some."""
        if not self.messages.full():
            self.messages.put_nowait(message)


class Dashboard:
    """Serves the page of one inspection from a thread of its own, until `close`.

    It shows the lines that `add` gets, and the figures of the inspection that `watch` names; defects have pictures
    where the inspector keeps crops.

    It is read-only. For who can reach it, see `LocalServer`.

    Args:
        title: such as the package's name.
        width: pixels of the web.
        threshold: of the anomaly map.
        host, port: to listen on; port 0 takes a free one.
    Attributes:
        url: of the page, with the token if there is one.
    Raises:
        ConfigError: the port is taken, the host is not this machine's, or aiohttp is not installed.
    """

    def __init__(self, title: str, width: int, threshold: float, host: str = LOOPBACK, port: int = 0) -> None:
        self._view = StripView(width, threshold)
        self._hello = {
            "type": "hello",
            "title": title,
            "width": width,
            "factor": self._view.factor,
            "view_width": self._view.width,
            "threshold": threshold,
        }
        self._inspection: Inspection | None = None
        self._viewers: set[_Viewer] = set()
        self._server = LocalServer(
            "the dashboard",
            "prn-inspect",
            ("prn_fast.linescan.dashboard", "page"),
            {("GET", "live"): self._live},
            extra="linescan",
            host=host,
            port=port,
            serving=self._broadcast,
        )
        self.url = self._server.url

    def watch(self, inspection: "Inspection") -> None:
        """Show the figures of an inspection."""
        self._inspection = inspection

    def add(self, inspected: Inspected) -> None:
        """Show the lines of a strip; an observer for `Inspection`."""
        self._view.add(inspected)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    # -- the serving thread -------------------------------------------------------------------------------------

    async def _live(self, request: "web.Request") -> "web.WebSocketResponse":
        from aiohttp import web

        socket = web.WebSocketResponse(heartbeat=10.0)
        await socket.prepare(request)
        viewer = _Viewer()
        viewer.send(json.dumps(self._hello))
        self._viewers.add(viewer)
        self._view.watched = True
        sending = asyncio.create_task(_send_all(socket, viewer))
        try:
            async for _ in socket:
                pass
        finally:
            self._viewers.discard(viewer)
            self._view.watched = bool(self._viewers)
            sending.cancel()
        return socket

    async def _broadcast(self, ended: asyncio.Event) -> None:
        tick = 0
        while not ended.is_set():
            if self._viewers:
                for frame in await asyncio.to_thread(self._view.take):
                    message = _pack(frame)
                    for viewer in self._viewers:
                        viewer.send(message)
                if tick % (FRAMES_PER_SECOND // _STATES_PER_SECOND) == 0:
                    self._send_state()
            tick += 1
            await asyncio.sleep(1 / FRAMES_PER_SECOND)
        self._send_state()
        await asyncio.sleep(0.1)

    def _send_state(self) -> None:
        if self._inspection is None:
            return
        # Read before the figures: once an inspection has ended, its figures are final.
        ended = self._inspection.ended
        snapshot = self._inspection.snapshot()
        state = {"type": "state", "ended": ended, **snapshot.to_dict()}
        for viewer in self._viewers:
            new = [one for one in reversed(snapshot.recent) if one.number > viewer.last_defect]
            viewer.last_defect = max([viewer.last_defect, *(one.number for one in new)])
            viewer.send(json.dumps({**state, "new_defects": [_with_thumbnail(one) for one in new]}))


async def _send_all(socket: "web.WebSocketResponse", viewer: _Viewer) -> None:
    while not socket.closed:
        message = await viewer.messages.get()
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_str(message)


def _pack(frame: Frame) -> bytes:
    """Header length (4 bytes, little-endian), header (JSON), picture, heat."""
    header = json.dumps(
        {
            "first_line": frame.first_line,
            "line_factor": frame.line_factor,
            "rows": frame.rows,
            "picture_bytes": len(frame.picture),
        }
    ).encode()
    return len(header).to_bytes(4, "little") + header + frame.picture + frame.heat


def _with_thumbnail(defect: Defect) -> dict[str, Any]:
    values = defect.to_dict()
    if defect.crop is not None:
        picture = defect.crop
        shrink = max(1.0, max(picture.shape[:2]) / _THUMBNAIL)
        size = max(1, round(picture.shape[1] / shrink)), max(1, round(picture.shape[0] / shrink))
        small = cv2.resize(picture[:, :, ::-1].copy(), size, interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(".jpg", small)
        values["picture"] = f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
    return values
