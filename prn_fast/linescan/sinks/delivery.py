"""One sink's own queue and thread: a slow sink delays no other, and a failing one harms no other."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prn_fast.errors import LinescanError

if TYPE_CHECKING:
    from prn_fast.linescan.sinks.base import Sink
    from prn_fast.linescan.snapshot import Snapshot

# Limits of one sink: messages that may wait, and bytes of the pictures in them.
MAX_MESSAGES = 1000
MAX_PICTURE_BYTES = 256 << 20
# A sink that is busy with one call for longer, while others wait, is left behind.
STUCK_SECONDS = 30.0


@dataclass(frozen=True)
class _Call:
    function: Callable[[], None]
    picture_bytes: int = 0
    is_message: bool = True


class Delivery:
    """Passes events to a sink, in a thread of its own.

    Args:
        sink: that gets the events.
        name: that no other sink of the inspection has.
        on_error: takes each error of the sink, in the thread that notices it.
    Attributes:
        lost: messages that did not fit into the queue, or came after the sink had failed, or that the sink lost.
        waiting: messages in the queue, and those that the sink has yet to deliver.
    """

    def __init__(self, sink: "Sink", name: str, on_error: Callable[[BaseException], None]) -> None:
        self.sink = sink
        self.name = name
        self._on_error = on_error
        self._calls: deque[_Call] = deque()
        self._picture_bytes = 0
        self._lost = 0
        self._current: _Call | None = None
        self._current_since = 0.0
        self._error: BaseException | None = None
        self._started = False
        # No more calls are made: it has finished, or the sink was left behind.
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"prn-sink {name}", daemon=True)

    @property
    def lost(self) -> int:
        """See the class."""
        return self._lost + self.sink.lost

    @property
    def waiting(self) -> int:
        """See the class."""
        with self._changed:
            return self._messages_in_hand() + self.sink.waiting

    def start(self, source: str) -> None:
        """Start the thread and the sink.

        Raises:
            BaseException: what the sink raised; it has not started then.
        """
        self._thread.start()
        self._tell(partial(self.sink.start, source))
        if self._error is not None:
            raise self._error
        self._started = True

    def put(self, function: Callable[[], None], picture_bytes: int = 0, *, wait: bool = False) -> None:
        """Queue a message; one for which there is no room is lost and counted.

        Args:
            function: passes the event to the sink.
            picture_bytes: of the picture that it holds.
            wait: for room, as long as the sink takes anything.
        """
        with self._changed:
            while wait and not self._takes(picture_bytes) and self._error is None and not self._closed:
                self._wait_for_sink()
            if self._takes(picture_bytes) and self._error is None and not self._closed:
                self._add(_Call(function, picture_bytes))
            else:
                self._lost += 1

    def drain(self) -> None:
        """Wait until the sink has received and delivered everything."""
        if self._started:
            self._tell(self.sink.flush)

    def finish(self, snapshot: "Snapshot") -> None:
        """Tell the end, if the sink has started, and end the thread."""
        if self._started:
            self._tell(partial(self.sink.finish, snapshot))
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _tell(self, function: Callable[[], None]) -> None:
        """Queue a call that is not a message, and wait until it has run, or the sink is left behind."""
        with self._changed:
            if not self._closed:
                self._add(_Call(function, is_message=False))
            while not self._closed and (self._calls or self._current is not None):
                self._wait_for_sink()

    def _takes(self, picture_bytes: int) -> bool:
        """Whether there is room; a picture that is too large by itself may go alone."""
        return len(self._calls) < MAX_MESSAGES and (
            not self._picture_bytes or self._picture_bytes + picture_bytes <= MAX_PICTURE_BYTES
        )

    def _add(self, call: _Call) -> None:
        self._calls.append(call)
        self._picture_bytes += call.picture_bytes
        self._changed.notify_all()

    def _messages_in_hand(self) -> int:
        calls = [*self._calls, *([self._current] if self._current is not None else [])]
        return sum(call.is_message for call in calls)

    def _wait_for_sink(self) -> None:
        """Wait for the thread to make a call, and leave the sink behind if it is stuck; the lock is held."""
        self._changed.wait(0.1)
        if self._current is None or time.monotonic() - self._current_since < STUCK_SECONDS or self._closed:
            return
        self._closed = True
        self._lost += self._messages_in_hand()
        self._calls.clear()
        error = LinescanError(f"{self.name}: has not answered for {STUCK_SECONDS:.0f} s; is the disk or network there?")
        self._error = self._error or error
        self._on_error(error)

    # -- the sink's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (call := self._next()) is not None:
            error: BaseException | None = None
            # A sink that has failed is only notified of the end.
            made = not call.is_message or self._error is None
            if made:
                try:
                    call.function()
                except BaseException as raised:
                    error = raised
                    if not self._closed:
                        self._on_error(error)
            with self._changed:
                if self._closed:
                    return
                self._current = None
                self._picture_bytes -= call.picture_bytes
                self._error = self._error or error
                self._lost += call.is_message and (not made or error is not None)
                self._changed.notify_all()

    def _next(self) -> _Call | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._calls) or self._closed)
            if self._closed:
                return None
            self._current, self._current_since = self._calls.popleft(), time.monotonic()
            return self._current


def unique_names(sinks: "Sequence[Sink]") -> list[str]:
    """The sinks' names, numbered where several have the same."""
    seen: Counter[str] = Counter()
    names = []
    for sink in sinks:
        seen[sink.name] += 1
        names.append(sink.name if seen[sink.name] == 1 else f"{sink.name} #{seen[sink.name]}")
    return names
