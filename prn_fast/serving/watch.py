"""Keeps a server running: restarts it when it ends, a worker dies, or known answers are wrong or do not come."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from prn_fast.engine.kserve import NoAnswerError, ServerBusyError
from prn_fast.engine.remote import RemoteEngine
from prn_fast.errors import EngineError, EngineUnavailableError, PRNError
from prn_fast.serving.tritonserver import TritonServer

START_SECONDS = 300.0
# Between two canaries, where nobody says otherwise.
CANARY_SECONDS = 2.0
_POLL_SECONDS = 0.2
# A server that is busy may let a canary wait; one that lets this many in a row wait hangs.
_MAX_UNANSWERED = 3
_CANARY_DEADLINE = 30.0
_LONGEST_PAUSE = 60.0


class Watch:
    """Runs a server until it is told to stop.

    Args:
        server: not started.
        every: seconds between two canaries; whether processes have died is looked at all the time.
        say: takes lines about what happens.
    """

    def __init__(self, server: TritonServer, every: float, say: Callable[[str], None]) -> None:
        self._server = server
        self._every = every
        self._say = say
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let `run` return; any thread, and in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Start the server and keep it serving.

        Raises:
            EngineError: it does not start, or fails its first canary: to try again would help nobody.
        """
        pause = 1.0
        first = True
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                fault = self._serve()
            except PRNError as error:
                if self._stopping.is_set():
                    return
                if first:
                    raise
                fault = str(error)
            self._server.stop()
            if fault is None:
                return
            first = False
            # One that keeps failing is not started in a tight loop.
            pause = 1.0 if time.monotonic() - began > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            self._say(f"{fault}; it is started again")
            self._stopping.wait(pause - 1.0)

    def _serve(self) -> str | None:
        """Start it and watch it; returns what went wrong, or None after `stop`."""
        server = self._server
        server.start()
        server.wait(START_SECONDS, self._stopping.is_set)
        engines: list[RemoteEngine] = []
        try:
            for address in server.addresses():
                engines.append(self._opened(address))
            for engine, http in zip(engines, server.addresses("http"), strict=True):
                told = engine.description
                self._say(f"ready: {engine.name} and {http} ({told.engine}, threshold {told.threshold:.3f})")
            self._say(f"metrics: {server.metrics_url}")
            return self._watch(engines)
        finally:
            for engine in engines:
                with suppress(EngineError):
                    engine.close()

    def _opened(self, address: str) -> RemoteEngine:
        """An engine for canaries; a machine that is busy may take its time for the first answers."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                # Before archives, which may keep the queue filled.
                return RemoteEngine(address, timeout=_CANARY_DEADLINE, priority=1, in_flight=1, shared_memory="off")
            except (NoAnswerError, ServerBusyError):
                if self._stopping.is_set() or self._server.fault is not None or time.monotonic() > end:
                    raise

    def _watch(self, engines: list[RemoteEngine]) -> str | None:
        due = time.monotonic() + self._every
        unanswered = dict.fromkeys(range(len(engines)), 0)
        while not self._stopping.wait(_POLL_SECONDS):
            if (fault := self._server.fault) is not None:
                return fault
            if time.monotonic() < due:
                continue
            due = time.monotonic() + self._every
            for number, engine in enumerate(engines):
                try:
                    engine.verify()
                    unanswered[number] = 0
                except ServerBusyError:
                    pass
                except NoAnswerError as error:
                    unanswered[number] += 1
                    if unanswered[number] >= _MAX_UNANSWERED:
                        return str(error)
                except EngineUnavailableError as error:
                    return str(error)
                except EngineError as error:
                    return str(error)
        return None
