"""The page to review predictions with, and what it asks for."""

import asyncio
import base64
import binascii
import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prn_fast.errors import ConfigError, DataError, PRNError
from prn_fast.local_server import HEADERS, LOOPBACK, LocalServer
from prn_fast.review import pictures
from prn_fast.review.decisions import DEFAULT_KIND, Decisions, Mark
from prn_fast.review.predictions import Predicted, Predictions

if TYPE_CHECKING:
    from aiohttp import web

# Of a painted mask, with room for base64.
_MAX_BYTES = 32 << 20
_DATA_URL = "data:image/png;base64,"


class ReviewPage:
    """Serves the review of some predictions from a thread of its own, until `close`.

    Who can reach it: see `LocalServer`. As it writes files, its address holds a token on loopback, too: other users of
    the machine do not decide.

    Args:
        predictions: to go through.
        decisions: where the answers go.
        kind: of defects, unless the page says another.
        host, port: to listen on; port 0 takes a free one.
    Attributes:
        url: of the page, with the token.
    Raises:
        ConfigError: as `LocalServer`.
    """

    def __init__(
        self,
        predictions: Predictions,
        decisions: Decisions,
        kind: str = DEFAULT_KIND,
        host: str = LOOPBACK,
        port: int = 0,
    ) -> None:
        self._predictions = predictions
        self._decisions = decisions
        self._kind = kind
        self._numbers = {one.name: number for number, one in enumerate(predictions.items)}
        self._deciding = asyncio.Lock()
        threshold = predictions.pixel_threshold
        pictures_of: dict[str, tuple[str, Callable[[Predicted], bytes]]] = {
            "picture": ("image/jpeg", lambda item: pictures.picture(item.path)),
            "thumbnail": ("image/jpeg", lambda item: pictures.thumbnail(item.path)),
            "heat": ("image/png", lambda item: pictures.heat(item, threshold)),
            "outlines": ("application/json", lambda item: json.dumps(pictures.outlines(item, threshold)).encode()),
            "mask": ("image/png", self._mask),
        }
        routes: dict[tuple[str, str], Any] = {
            ("GET", f"{name}/{{number}}"): functools.partial(self._send_picture, kind, make)
            for name, (kind, make) in pictures_of.items()
        }
        routes |= {("GET", "items"): self._items, ("POST", "decide"): self._decide, ("POST", "undo"): self._undo}
        self._server = LocalServer(
            "the review page",
            "prn-review",
            ("prn_fast.review", "page"),
            routes,
            extra="linescan",
            host=host,
            port=port,
            always_token=True,
            most_bytes=_MAX_BYTES,
        )
        self.url = self._server.url

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    # -- the serving thread -------------------------------------------------------------------------------------

    async def _items(self, request: "web.Request") -> "web.Response":
        current = self._decisions.current()
        return _json(
            {
                "title": self._predictions.title,
                "output": str(self._decisions.output),
                "kind": self._kind,
                "items": [
                    {
                        "name": one.name,
                        "score": one.score,
                        "verdict": one.verdict,
                        "reason": one.reason,
                        "has_map": one.map is not None,
                        **_decided(current.get(one.name)),
                    }
                    for one in self._predictions.items
                ],
            }
        )

    async def _send_picture(
        self, kind: str, make: Callable[[Predicted], bytes], request: "web.Request"
    ) -> "web.Response":
        from aiohttp import web

        item = self._item(request.match_info["number"])
        try:
            content = await asyncio.to_thread(make, item)
        except PRNError as error:
            return _json({"error": str(error)}, 404)
        return web.Response(body=content, content_type=kind, headers=HEADERS)

    def _item(self, number: str) -> Predicted:
        from aiohttp import web

        if not number.isascii() or not number.isdigit() or int(number) >= len(self._predictions.items):
            raise web.HTTPNotFound(text="there is no such prediction")
        return self._predictions.items[int(number)]

    def _mask(self, item: Predicted) -> bytes:
        """What was painted, or what the prediction proposes."""
        decision = self._decisions.of(item.name)
        painted = None if decision is None else self._decisions.mask_of(decision)
        if painted is not None:
            return pictures.encode_mask(pictures.at_shown_size(painted, item))
        return pictures.encode_mask(pictures.proposed_mask(item, self._predictions.pixel_threshold))

    async def _decide(self, request: "web.Request") -> "web.Response":
        wanted = await _body(request)
        item = self._item(str(wanted.get("number")))

        def decide() -> dict[str, Any]:
            mark = wanted.get("mark")
            if mark not in list(Mark):
                raise ConfigError(f"{mark!r} is no mark; choose from {', '.join(Mark)}")
            if item.reason:
                raise DataError(f"{item.name}: {item.reason}")
            mask = None
            if mark == Mark.DEFECT:
                mask = pictures.decode_mask(_png_of(wanted.get("mask"), item.name), item)
            decision = self._decisions.decide(item.name, Mark(mark), str(wanted.get("kind") or self._kind), mask)
            return {"number": self._numbers[item.name], **_decided(decision)}

        return await self._answer(decide)

    async def _undo(self, request: "web.Request") -> "web.Response":
        await _body(request)

        def undo() -> dict[str, Any]:
            name = self._decisions.undo()
            if name is None:
                raise ConfigError("nothing is left to undo")
            # It may be of an earlier run over other images.
            return {"number": self._numbers.get(name), "name": name, **_decided(self._decisions.of(name))}

        return await self._answer(undo)

    async def _answer(self, function: Callable[[], dict[str, Any]]) -> "web.Response":
        """One decision at a time; the page is told what is wrong with it."""
        async with self._deciding:
            try:
                return _json(await asyncio.to_thread(function))
            except PRNError as error:
                return _json({"error": str(error)}, 400)


def _decided(decision: Any) -> dict[str, str]:
    return {"mark": "", "kind": ""} if decision is None else {"mark": str(decision.mark), "kind": decision.kind}


def _png_of(url: Any, name: str) -> bytes:
    if not isinstance(url, str) or not url.startswith(_DATA_URL):
        raise DataError(f"{name}: mark where the defect is, with the brush or a box")
    try:
        return base64.b64decode(url.removeprefix(_DATA_URL), validate=True)
    except binascii.Error:
        raise DataError(f"{name}: the mask is damaged") from None


async def _body(request: "web.Request") -> dict[str, Any]:
    """The JSON object of a request. A page of another site could send none of this type without being asked first."""
    from aiohttp import web

    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send JSON")
    try:
        content = await request.json()
    except ValueError:
        raise web.HTTPBadRequest(text="this is not JSON") from None
    if not isinstance(content, dict):
        raise web.HTTPBadRequest(text="this is not an object")
    return content


def _json(content: Any, status: int = 200) -> "web.Response":
    from aiohttp import web

    return web.json_response(content, status=status, headers=HEADERS)
