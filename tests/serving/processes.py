"""`prn-serve run` as a process of its own, and the processes below it."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.processes import running

SECONDS = 280
_READY = re.compile(r"ready: (grpc\S+) and (http\S+)")


@dataclass
class Serving:
    """A running `prn-serve run`.

    Attributes:
        process: the command.
        lines: what it has printed so far.
    """

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)

    @property
    def server(self) -> psutil.Process:
        """The tritonserver."""
        (server,) = psutil.Process(self.process.pid).children()
        return server

    @property
    def worker(self) -> psutil.Process:
        """What runs the package."""
        (worker,) = self.server.children()
        return worker

    def wait_ready(self, times: int) -> str:
        """The gRPC address, once it has said for so many times that it is ready."""
        deadline = time.monotonic() + SECONDS
        while len(ready := [found for line in self.lines if (found := _READY.match(line))]) < times:
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)
        return ready[-1][1]


@contextmanager
def serving(repository: Path, log: Path) -> Iterator[Serving]:
    """`prn-serve run` on free ports, ended by SIGTERM unless the block has ended it."""
    ports = ["--grpc-port=0", "--http-port=0", "--metrics=:0"]
    command = [sys.executable, "-m", "prn_fast.cli.serve", "run", repository, *ports, f"--log={log}", "--canary-s=0.5"]
    with running(command, stdout=subprocess.PIPE, text=True) as process:
        found = Serving(process)

        def follow() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                found.lines.append(line)

        reading = threading.Thread(target=follow, daemon=True)
        reading.start()
        yield found
        if process.poll() is None:
            process.terminate()
            process.wait(60)
            assert process.returncode == 0
        reading.join()
