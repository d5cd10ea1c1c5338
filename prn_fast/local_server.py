"""A web server for pages of this machine, which no other web page can reach through a browser."""

import asyncio
import hmac
import re
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from importlib.resources import files
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from prn_fast.errors import ConfigError
from prn_fast.extras import require_extra

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = "127.0.0.1"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TOKEN_BYTES = 16
_HOST = re.compile(r"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._-]+))(:[0-9]{1,5})?")
_CONTENT_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class LocalServer:
    """Serves a page and what belongs to it from a thread of its own, until `close`.

    It listens on loopback unless told otherwise. Where the network can reach it, the page's address holds a secret
    token, new each time, without which nothing is answered. In any case it refuses requests that name another host than
    its own or come from another site, so that no web page elsewhere can use it through a browser (DNS rebinding, forged
    requests). Nothing is encrypted.

    Args:
        name: for messages, such as "the dashboard".
        command: that prints the address, for messages.
        page: where the page's files are, as (package, folder); index.html is the page itself.
        routes: handlers by method and path, such as ("GET", "live") or ("POST", "decide").
        extra: of setup.py, which brings aiohttp.
        host, port: to listen on; port 0 takes a free one.
        always_token: also on loopback, where other users of this machine could reach it.
        most_bytes: of a request.
        serving: runs beside the server in its thread, and ends soon after its event is set, which `close` does; None
            only waits for that.
    Attributes:
        url: of the page, with the token if there is one.
    Raises:
        ConfigError: the port is taken, the host is not this machine's, or aiohttp is not installed.
    """

    def __init__(
        self,
        name: str,
        command: str,
        page: tuple[str, str],
        routes: "Mapping[tuple[str, str], Handler]",
        *,
        extra: str,
        host: str = LOOPBACK,
        port: int = 0,
        always_token: bool = False,
        most_bytes: int = 1 << 20,
        serving: Callable[[asyncio.Event], Awaitable[None]] | None = None,
    ) -> None:
        require_extra(extra, "aiohttp")
        self._command = command
        self._routes = routes
        self._page = files(page[0]) / page[1]
        self._host, self._port = host, port
        self._token = secrets.token_urlsafe(_TOKEN_BYTES) if always_token or not is_loopback(host) else ""
        self._own_names = _names_of(host)
        self._most_bytes = most_bytes
        self._serving = serving
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._started = threading.Event()
        self._failure: OSError | UnicodeError | None = None
        self._thread = threading.Thread(target=self._run, name=f"prn-server {name}", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            why = getattr(self._failure, "strerror", None) or self._failure
            raise ConfigError(f"{name} cannot listen on {host}:{port} ({why})")
        self.url = self._make_url()

    def _make_url(self) -> str:
        # The address that means "all of this machine's" leads nowhere from another one.
        host = socket.gethostname() if _is_any(self._host) else self._host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self._port}/{f'{self._token}/' if self._token else ''}"

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    # -- the serving thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except (OSError, UnicodeError) as error:
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

        application = web.Application(middlewares=[guard], client_max_size=self._most_bytes)
        base = "/{token}/" if self._token else "/"
        application.router.add_get(base, self._file)
        for file in self._page.iterdir():
            application.router.add_get(base + file.name, self._file)
        for (method, path), handler in self._routes.items():
            application.router.add_route(method, base + path, handler)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await (self._ended.wait() if self._serving is None else self._serving(self._ended))
        finally:
            await runner.cleanup()

    def _check(self, request: "web.Request") -> None:
        """Refuse what does not know the token, or what a page of another site sends through a visitor's browser."""
        from aiohttp import web

        host = request.headers.get("Host", "")
        if not self._is_own(_hostname(host)):
            raise web.HTTPForbidden(text="this page is not served under that name")
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise web.HTTPForbidden(text="requests from other sites are refused")
        # Nonexistent paths must not reveal whether the token is right, either.
        token = request.path.removeprefix("/").partition("/")[0].encode(errors="replace")
        if self._token and not hmac.compare_digest(token, self._token.encode()):
            raise web.HTTPForbidden(text=f"open the address that {self._command} printed: it holds a token")

    def _is_own(self, host: str) -> bool:
        """Whether a browser that was sent to this host can only have been sent here."""
        if is_loopback(self._host):
            return is_loopback(host)
        if _is_any(self._host):
            # Whoever owns a name can make it lead here; an address leads where it says.
            return host in self._own_names or _is_address(host)
        return host in self._own_names

    async def _file(self, request: "web.Request") -> "web.Response":
        from aiohttp import web

        name = request.path.rpartition("/")[2] or "index.html"
        text = (self._page / name).read_text(encoding="utf-8")
        kind = _CONTENT_TYPES[name[name.rindex(".") :]]
        return web.Response(text=text, content_type=kind, headers=HEADERS)


def parse_address(option: str, text: str, default_port: int) -> tuple[str, int]:
    """Host and port of an option's [HOST]:PORT; without a host, loopback.

    Raises:
        ConfigError: it is no such address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{option} is {text!r}; give [HOST]:PORT, such as :{default_port}")
    return host.strip("[]") or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)


def _hostname(host: str) -> str:
    """The name or address in a Host header, in lower case; empty for a malformed one."""
    found = _HOST.fullmatch(host)
    return "" if found is None else (found["address"] or found["name"]).lower()


def _names_of(host: str) -> set[str]:
    """Under what names a page is served that listens on a host which is not loopback."""
    names = {host.lower()}
    if _is_any(host):
        names |= {"localhost", socket.gethostname().lower()}
    elif not _is_address(host):
        with suppress(OSError, UnicodeError):  # listening fails next, and says why
            names |= {str(one[4][0]) for one in socket.getaddrinfo(host, None)}
    return names


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_any(host: str) -> bool:
    """Whether a host means all addresses of this machine."""
    return host == "" or (_is_address(host) and ip_address(host).is_unspecified)
