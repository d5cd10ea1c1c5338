"""A headless Chromium, told what to do over its debugging socket."""

import asyncio
import base64
import json
import subprocess
import time
from pathlib import Path

import aiohttp

from tests.needs import BROWSER

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
    "--remote-debugging-port=0",
)


class Browser:
    """One page in a browser of its own; `folder` is its fresh user data. See `tests.needs.chromium`."""

    def __init__(self, url: str, folder: Path, size: tuple[int, int] = (1400, 800)) -> None:
        self._process = subprocess.Popen(
            [str(BROWSER), *FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={folder}", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        file = folder / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (file.is_file() and file.read_text()):
            assert time.monotonic() < deadline, "chromium does not start"
            time.sleep(0.05)
        self._port = int(file.read_text().split()[0])

    def evaluate(self, expression: str) -> object:
        """Value of a JavaScript expression in the page; promises are awaited."""
        arguments = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = asyncio.run(self._call("Runtime.evaluate", arguments))
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 30.0) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        """What the page looks like, as PNG."""
        path.write_bytes(base64.b64decode(asyncio.run(self._call("Page.captureScreenshot", {}))["data"]))

    async def _call(self, method: str, arguments: dict) -> dict:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self._port}/json") as answer:
                pages = [one for one in await answer.json(content_type=None) if one["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                await socket.send_json({"id": 1, "method": method, "params": arguments})
                async for message in socket:
                    content = json.loads(message.data)
                    if content.get("id") == 1:
                        return content["result"]
        raise RuntimeError(f"chromium does not answer {method}")

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(10)
