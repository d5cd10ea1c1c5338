"""Everything to a web server, by HTTP POST."""

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import prn_fast
from prn_fast.drift import Drift
from prn_fast.errors import ConfigError, LinescanError, one_line
from prn_fast.linescan.defects import Defect
from prn_fast.linescan.sinks.base import as_record
from prn_fast.linescan.sinks.outbox import OutboxSink
from prn_fast.linescan.snapshot import Snapshot
from prn_fast.linescan.sources.base import Gap

KEY_PREFIX = "whsec_"
_KEY_BYTES = (24, 64)
# Seconds for an answer, for the first message to be accepted, and for waiting messages at the end.
_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# Statuses that refuse this one message for ever; sending it again would hold up those behind it.
_REFUSALS = (400, 413, 415, 422)


class WebhookSink(OutboxSink):
    """Posts to a URL: "start", "defect", "gap", "drift" and "end" as JSON, one after the other, each at least once.

    Messages follow the Standard Webhooks specification: `webhook-id` is the same each time that a message is sent, and
    with a key, `webhook-signature` is its HMAC-SHA256 with id and `webhook-timestamp`.

    A message that is not answered with a status of 2xx is sent again, after growing pauses of up to half a minute.
    Meanwhile messages wait: ten thousand at most in memory, where those that are not taken within five seconds of the
    end are lost, or fifty thousand in a file, from which they are sent at the next start. Those beyond are lost, and so
    is a message that is refused for its content (400, 413, 415 or 422). Redirections are not followed. With a file, an
    inspection also starts while nobody answers.

    Args:
        url: http:// or https://, whose certificate must be valid.
        key: a file with a secret of 24 to 64 bytes in base64, with or without "whsec_" before it; None signs nothing.
        queue: a file for messages that wait, one for each inspection; None keeps them in memory.
    Raises:
        ConfigError: a URL that cannot work, or a file that cannot be used.
    """

    def __init__(self, url: str, key: Path | None = None, queue: Path | None = None) -> None:
        parts = _checked(url)
        self._url = url
        # The part after a question mark may be a secret.
        self._name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._key = None if key is None else read_key(key)
        super().__init__(queue)
        self._opener = urllib.request.build_opener(_NoRedirection)
        self._failure = "no answer"
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"prn-webhook {self._name}", daemon=True)

    @property
    def name(self) -> str:
        """See `Sink.name`."""
        return self._name

    def start(self, source: str) -> None:
        """See `Sink.start`."""
        self._thread.start()
        self._send(as_record("start", {"source": source}))
        if not self._on_disk and not self._wait_until_taken():
            self._end()
            raise LinescanError(f"{self._name}: takes no messages ({self._failure}); is the URL right?")

    def defect(self, defect: Defect) -> None:
        """See `Sink.defect`."""
        self._send(as_record("defect", defect.to_dict()))

    def gap(self, gap: Gap) -> None:
        """See `Sink.gap`."""
        self._send(as_record("gap", vars(gap)))

    def drift(self, drift: Drift) -> None:
        """See `Sink.drift`."""
        self._send(as_record("drift", drift.to_dict()))

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._wait_until_taken()
        self._forgets = not self._on_disk

    def finish(self, snapshot: Snapshot) -> None:
        """See `Sink.finish`."""
        self._send(as_record("end", snapshot.to_dict()))
        self._wait_until_taken()
        self._end()

    def _send(self, record: dict[str, Any]) -> None:
        if self._error is not None:
            raise self._error
        if self._outbox.add(f"msg_{uuid.uuid4().hex}", json.dumps(record, allow_nan=False)) is None:
            self._given_up += 1
        with self._changed:
            self._changed.notify_all()

    def _wait_until_taken(self) -> bool:
        """Whether all messages are accepted within five seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not len(self._outbox) or self._error is not None, _SECONDS)
        return not len(self._outbox)

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._outbox.close()

    # -- the sending thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:
            # The next message will show it.
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _send_all(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or len(self._outbox) > 0)
                if self._ended:
                    return
            number, name, payload = self._outbox.oldest()
            status = self._post(name, payload.encode())
            if status is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            with self._changed:
                self._given_up += status in _REFUSALS
                self._outbox.confirm(number)
                self._changed.notify_all()

    def _post(self, name: str, body: bytes) -> int | None:
        """Send a message; returns the status that accepted or refused it, None if it must be sent again."""
        request = urllib.request.Request(self._url, body, self._headers(name, body))
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            self._failure = f"status {error.code}"
            return error.code if error.code in _REFUSALS else None
        except (OSError, HTTPException, ValueError) as error:
            self._failure = one_line(getattr(error, "reason", None) or error)
            return None

    def _headers(self, name: str, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"prn_fast/{prn_fast.__version__}",
            "webhook-id": name,
            "webhook-timestamp": now,
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, name, now, body)
        return headers


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Turns a redirection into an error: following it would turn the POST into a GET and lose its message."""

    def redirect_request(self, *_: Any) -> None:
        return None


def signature(key: bytes, name: str, timestamp: str, body: bytes) -> str:
    """The value of `webhook-signature`: "v1," and the HMAC-SHA256 of id, timestamp and body in base64."""
    signed = b".".join((name.encode(), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def read_key(path: Path) -> bytes:
    """The secret in a file.

    Raises:
        ConfigError: it cannot be read, or is no secret of 24 to 64 bytes in base64.
    """
    wrong = ConfigError(
        f"{path}: holds no key; it takes {_KEY_BYTES[0]} to {_KEY_BYTES[1]} random bytes in base64, such as: "
        f"openssl rand -base64 32 > {path}"
    )
    try:
        text = path.read_text(encoding="ascii").strip()
        key = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeError, binascii.Error):
        raise wrong from None
    if not _KEY_BYTES[0] <= len(key) <= _KEY_BYTES[1]:
        raise wrong
    return key


def _checked(url: str) -> SplitResult:
    wrong = ConfigError("a webhook is named http[s]://HOST[:PORT]/PATH, without user and password: messages are signed")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or "@" in parts.netloc or "#" in url:
        raise wrong
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise wrong
    return parts
