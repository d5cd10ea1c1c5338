"""The dashboard's web server: one page, and a websocket that carries frames and figures to it."""

import asyncio
import base64
import json
import threading
from dataclasses import dataclass, field
from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import cv2

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.dashboard.view import Frame, StripView
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.inspector import Inspected

if TYPE_CHECKING:
    from aiohttp import web

    from prn_fast.linescan.inspection import Inspection

DEFAULT_HOST = "127.0.0.1"
FRAMES_PER_SECOND = 30
_STATES_PER_SECOND = 5
_PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
}
_THUMBNAIL = 96
_MESSAGES_WAITING = 120
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(eq=False)
class _Viewer:
    """One open page: what is still to be sent, and the last defect that it knows."""

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

    Nobody can change anything from it. It listens on loopback unless told otherwise, and refuses requests that name
    another host or come from another site, so that no web page elsewhere can read it through a browser.

    Args:
        title: such as the package's name.
        width: pixels of the web.
        threshold: of the anomaly map.
        host, port: to listen on; port 0 takes a free one.
    Attributes:
        url: of the page.
    Raises:
        LinescanError: aiohttp is not installed.
        ConfigError: the port is taken, or the host is not this machine's.
    """

    def __init__(self, title: str, width: int, threshold: float, host: str = DEFAULT_HOST, port: int = 0) -> None:
        try:
            import aiohttp
        except ImportError:
            raise LinescanError("aiohttp is not installed: pip install 'prn-fast[linescan]'") from None
        del aiohttp
        self._view = StripView(width, threshold)
        self._hello = {
            "type": "hello",
            "title": title,
            "width": width,
            "factor": self._view.factor,
            "view_width": self._view.width,
            "threshold": threshold,
        }
        self._host, self._port = host, port
        self._inspection: Inspection | None = None
        self._viewers: set[_Viewer] = set()
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="prn-dashboard", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise ConfigError(f"the dashboard cannot listen on {host}:{port} ({self._failure.strerror})")
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._port}/"

    def watch(self, inspection: "Inspection") -> None:
        """Show the figures of an inspection."""
        self._inspection = inspection

    def add(self, inspected: Inspected) -> None:
        """Show the lines of a strip; an observer for `Inspection`."""
        self._view.add(inspected)

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    # -- the serving thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            self._check(request)
            return await handler(request)

        application = web.Application(middlewares=[guard])
        for path in _PAGE:
            application.router.add_get(path, self._page)
        application.router.add_get("/live", self._live)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._broadcast()
        finally:
            await runner.cleanup()

    def _check(self, request: "web.Request") -> None:
        """Refuse what a page of another site sends through a visitor's browser."""
        from aiohttp import web

        host = urlsplit(f"//{request.host}").hostname or ""
        if _is_loopback(self._host) and not _is_loopback(host):
            raise web.HTTPForbidden(text="this page is served to its own machine only")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text="requests from other sites are refused")

    async def _page(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        name, kind = _PAGE[request.path]
        text = (files("prn_fast.linescan.dashboard") / "page" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kind, headers=_HEADERS)

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

    async def _broadcast(self) -> None:
        tick = 0
        while not self._ended.is_set():
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
        # Read before the figures: those of an inspection that has ended are final.
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


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
