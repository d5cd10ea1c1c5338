"""Messages that wait until their receiver has confirmed them, in memory or on disk."""

import sqlite3
import threading
from pathlib import Path

from prn_fast.errors import ConfigError, LinescanError
from prn_fast.linescan.sinks.base import Sink

MAX_IN_MEMORY = 10_000
# MQTT numbers messages under way with 16 bits.
MAX_ON_DISK = 50_000


class Outbox:
    """A bounded queue of messages, each kept until it is confirmed. Usable from any thread.

    Args:
        path: an SQLite file, so that messages outlive the process; made if needed. None keeps them in memory.
        most: messages that may wait.
    Raises:
        ConfigError: the file cannot be used, is no outbox, or another process uses it.
    """

    def __init__(self, path: Path | None, most: int) -> None:
        self._path = path
        self._most = most
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                ":memory:" if path is None else path, timeout=1.0, isolation_level=None, check_same_thread=False
            )
            # One process alone may use the file; if it dies, nothing is lost.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, topic TEXT, payload TEXT)"
            )
            (self._count,) = self._database.execute("SELECT count(*) FROM messages").fetchone()
        except sqlite3.Error as error:
            raise ConfigError(
                f"{path}: cannot be used as a queue ({error}); choose another file, one for each inspection"
            ) from None

    def __len__(self) -> int:
        return self._count

    def add(self, topic: str, payload: str) -> int | None:
        """Keep a message; returns its number, or None if there is no room.

        Raises:
            LinescanError: the file cannot be written.
        """
        with self._lock:
            if self._count >= self._most:
                return None
            try:
                added = self._database.execute("INSERT INTO messages (topic, payload) VALUES (?, ?)", (topic, payload))
            except sqlite3.Error as error:
                raise LinescanError(f"{self._path}: cannot be written ({error}); is the disk full?") from None
            self._count += 1
            return added.lastrowid

    def confirm(self, number: int) -> None:
        """Forget a message; one that cannot be removed is sent again after a restart."""
        with self._lock:
            self._count -= 1
            try:
                self._database.execute("DELETE FROM messages WHERE number = ?", (number,))
            except sqlite3.Error as error:
                del error

    def messages(self) -> list[tuple[int, str, str]]:
        """Number, topic and payload of all that wait, oldest first.

        Raises:
            LinescanError: the file cannot be read.
        """
        with self._lock:
            try:
                return self._database.execute("SELECT number, topic, payload FROM messages ORDER BY number").fetchall()
            except sqlite3.Error as error:
                raise LinescanError(f"{self._path}: cannot be read ({error})") from None

    def oldest(self) -> tuple[int, str, str]:
        """Number, topic and payload of the message that has waited longest; there must be one.

        Raises:
            LinescanError: the file cannot be read.
        """
        with self._lock:
            try:
                return self._database.execute(
                    "SELECT number, topic, payload FROM messages ORDER BY number LIMIT 1"
                ).fetchone()
            except sqlite3.Error as error:
                raise LinescanError(f"{self._path}: cannot be read ({error})") from None

    def close(self) -> None:
        """Release the file; what waits in it is kept."""
        with self._lock:
            self._database.close()


class OutboxSink(Sink):
    """A sink whose messages wait in an outbox until their receiver has confirmed them.

    Args:
        queue: a file for messages that wait, see `Outbox`; None keeps them in memory.
    Raises:
        ConfigError: as `Outbox`.
    """

    def __init__(self, queue: Path | None) -> None:
        self._on_disk = queue is not None
        self._outbox = Outbox(queue, MAX_IN_MEMORY if queue is None else MAX_ON_DISK)
        self._given_up = 0
        # After the end, messages in memory are lost unless they are still confirmed.
        self._forgets = False

    @property
    def lost(self) -> int:
        """See `Sink.lost`."""
        return self._given_up + (len(self._outbox) if self._forgets else 0)

    @property
    def waiting(self) -> int:
        """See `Sink.waiting`."""
        return 0 if self._forgets else len(self._outbox)
