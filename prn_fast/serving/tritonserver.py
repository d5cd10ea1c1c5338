"""NVIDIA's tritonserver as a child process: found, started with the Python of this process, watched and ended."""

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prn_fast.child_processes import end_with_parent
from prn_fast.errors import ConfigError, EngineUnavailableError
from prn_fast.extras import require_extra
from prn_fast.serving.repository import PYTHON, backend_of, models_in

if TYPE_CHECKING:
    import psutil

VARIABLE = "PRN_FAST_TRITONSERVER"
INSTALL = "pip install --no-deps nvidia-pytriton"
SHARED_MEMORY = Path("/dev/shm")
_SECONDS_TO_END = 5
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Program:
    """A tritonserver.

    Attributes:
        binary: the program.
        bundle: the folder of a `nvidia-pytriton` that it lies in, which keeps a Python backend for each version of
            Python; None where the server knows its own backends, as in NVIDIA's containers.
    """

    binary: Path
    bundle: Path | None


def find_program() -> Program:
    """The tritonserver of the environment variable, else that of an installed nvidia-pytriton, else on the PATH.

    A ConfigError says how to install one.
    """
    named = os.environ.get(VARIABLE)
    if named:
        binary = Path(named)
        if not binary.is_file():
            raise ConfigError(f"{VARIABLE} is {named}, where no file is; name the program tritonserver")
        return _program(binary)
    installed = importlib.util.find_spec("pytriton")  # not imported: its own dependencies are not needed
    if installed is not None and installed.submodule_search_locations:
        binary = Path(installed.submodule_search_locations[0]) / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            return _program(binary)
    on_path = shutil.which("tritonserver") or shutil.which("tritonserver", path="/opt/tritonserver/bin")
    if on_path:
        return Program(Path(on_path), None)
    raise ConfigError(f"tritonserver is not installed: {INSTALL}, or run in NVIDIA's container")


def _program(binary: Path) -> Program:
    bundle = binary.parents[1]
    return Program(binary, bundle if (bundle / "python_backend_stubs").is_dir() else None)


@dataclass(frozen=True)
class Ports:
    """Where a server listens.

    Attributes:
        host: its address; 127.0.0.1 keeps it to this machine.
        grpc, http, metrics: 0 takes a free one.
        metrics_host: address for metrics; "" takes the host.
    """

    host: str = "127.0.0.1"
    grpc: int = 8001
    http: int = 8000
    metrics: int = 8002
    metrics_host: str = ""

    def settled(self) -> "Ports":
        """With free ports in place of 0."""
        with free_ports(3) as free:
            given = (self.grpc, self.http, self.metrics)
            grpc, http, metrics = (port or other for port, other in zip(given, free, strict=True))
            return Ports(self.host, grpc, http, metrics, self.metrics_host or self.host)


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody listens on, held for as long as the block runs."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class TritonServer:
    """One server process for a model repository.

    Args:
        repository: as `prn-serve export` writes it.
        ports: where it listens.
        log: file that its output is appended to; None leaves it on this process's stderr.
    Raises:
        ConfigError: no server or no package is there, or this Python is not a shared library.
    """

    def __init__(self, repository: Path, ports: Ports, log: Path | None = None) -> None:
        require_extra("serve", "psutil", "tritonclient")
        self.repository = repository
        self.models = models_in(repository)
        for model in self.models:
            if (backend := backend_of(repository / model)) != PYTHON:
                raise ConfigError(
                    f"{repository / model}: is for the backend {backend}, whose answers nobody here can watch; start a "
                    f"server that has it by itself: tritonserver --model-repository={repository}"
                )
        self.program = find_program()
        self.ports = ports.settled()
        self.log = log
        self._libraries = _python_library() if self.program.bundle is not None else []
        self._prefix = f"prn_fast-serve-{secrets.token_hex(4)}"
        self._backends: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._workers: list[psutil.Process] = []

    def addresses(self, scheme: str = "grpc") -> list[str]:
        """What clients on this machine open, one address a model."""
        port = self.ports.grpc if scheme == "grpc" else self.ports.http
        return [f"{scheme}://{self.host}:{port}/{model}" for model in self.models]

    @property
    def host(self) -> str:
        """By which this machine reaches it."""
        return _reached(self.ports.host)

    @property
    def metrics_url(self) -> str:
        """Of the figures for Prometheus, as this machine reaches them."""
        return f"http://{_reached(self.ports.metrics_host)}:{self.ports.metrics}/metrics"

    @property
    def pid(self) -> int:
        """Of the running server; 0 where there is none."""
        return 0 if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Start the process, which ends with the thread that calls this; `wait` waits for it to be ready."""
        arguments, environment = self._command()
        output: Any = None if self.log is None else self.log.open("ab")
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output if output is not None else sys.stderr.fileno() if _has_handle(sys.stderr) else None,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, who end it in order
                preexec_fn=end_with_parent,
            )
        finally:
            if output is not None:
                output.close()
        self._workers = []

    def _command(self) -> tuple[list[str], dict[str, str]]:
        ports = self.ports
        arguments = [
            str(self.program.binary),
            f"--model-repository={self.repository}",
            f"--grpc-address={ports.host}",
            f"--http-address={ports.host}",
            f"--metrics-address={ports.metrics_host}",
            f"--grpc-port={ports.grpc}",
            f"--http-port={ports.http}",
            f"--metrics-port={ports.metrics}",
            f"--exit-timeout-secs={_SECONDS_TO_END}",
            "--log-info=false",
            "--disable-auto-complete-config",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
        ]
        environment = dict(os.environ)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
        if self.program.bundle is not None:
            arguments.append(f"--backend-directory={self._bundled_backends()}")
            own = self.program.bundle.parents[1] / "nvidia_pytriton.libs"
            libraries = [*self._libraries, str(own), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
            environment["LD_LIBRARY_PATH"] = ":".join(libraries)
        return arguments, environment

    def _bundled_backends(self) -> Path:
        """A folder of backends with the Python backend for this version of Python, which the bundle keeps aside."""
        assert self.program.bundle is not None
        stub = "triton_python_backend_stub"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        source = self.program.bundle / "python_backend_stubs" / version / stub
        if not source.is_file():
            raise ConfigError(f"{self.program.binary}: has no Python backend for Python {version}; use another Python")
        if self._backends is None:
            self._backends = tempfile.TemporaryDirectory(prefix="prn-serve-")
            python = Path(self._backends.name) / "python"
            python.mkdir()
            for entry in (self.program.bundle / "backends" / "python").iterdir():
                (python / entry.name).symlink_to(entry)
            (python / stub).symlink_to(source)
        # What a wheel brings is not always marked as a program.
        for program in (self.program.binary, source):
            if not os.access(program, os.X_OK):
                program.chmod(program.stat().st_mode | 0o111)
        return Path(self._backends.name)

    def wait(self, seconds: float, give_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until all models are loaded.

        Raises:
            EngineUnavailableError: it ended, took longer, or `give_up` holds; says where to look.
        """
        import tritonclient.grpc

        end = time.monotonic() + seconds
        where = "above" if self.log is None else f"in {self.log}"
        host = self.addresses()[0].split("/")[2]
        while True:
            # A channel of its own each time: one that was refused waits before it tries again.
            with tritonclient.grpc.InferenceServerClient(host) as client, suppress(Exception):
                if client.is_server_ready(client_timeout=1):
                    break
            if not self.pid:
                raise EngineUnavailableError(f"{self.repository}: the server ended while it started; see {where}")
            if time.monotonic() > end or give_up():
                raise EngineUnavailableError(f"{self.repository}: is not ready within {seconds:g} s; see {where}")
            time.sleep(_POLL_SECONDS)
        self._workers = self._living_workers()

    def workers(self) -> list[int]:
        """Process numbers of the models' workers."""
        return [one.pid for one in self._living_workers()]

    def _living_workers(self) -> "list[psutil.Process]":
        import psutil

        if not self.pid:
            return []
        with suppress(psutil.Error):
            children = psutil.Process(self.pid).children()
            return [one for one in children if one.status() != psutil.STATUS_ZOMBIE]
        return []

    @property
    def fault(self) -> str | None:
        """What happened to the server or one of its workers, since `wait`; None if all are there."""
        if not self.pid:
            return "the server has ended"
        # A worker that died is not started again, and each inference that falls to it fails.
        gone = len(self._workers) - len(self._living_workers())
        return f"{gone} of {len(self._workers)} workers have died" if gone > 0 else None

    def stop(self) -> None:
        """End the process, after what it is at; a worker that is gone would keep it waiting, so it is then killed.

        Its workers are ended, too, also those of a server that has died: they notice that late, or not where they hang.
        """
        process = self._process
        workers = {*self._workers, *self._living_workers()}
        if process is not None and process.poll() is None:
            if self.fault is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS_TO_END + 1)
            process.kill()
            process.wait()
        for worker in workers:
            with suppress(ProcessLookupError):
                if worker.is_running():  # and no other process has its number by now
                    os.kill(worker.pid, signal.SIGKILL)
        self._process = None
        self._workers = []
        with suppress(OSError):
            for entry in SHARED_MEMORY.glob(f"{self._prefix}*"):
                entry.unlink()

    def close(self) -> None:
        """`stop`, and remove what was made for it."""
        self.stop()
        if self._backends is not None:
            self._backends.cleanup()
            self._backends = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reached(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


def _python_library() -> list[str]:
    """Folders to look for this Python's shared library in; a ConfigError where there is none anywhere."""
    folder, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if folder and (Path(folder) / name).is_file() and ".so" in name:
        return [str(folder)]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        ctypes.CDLL(f"libpython{version}.so.1.0")
    except OSError:
        raise ConfigError(
            f"the server needs Python {version} as a shared library: apt-get install libpython{version}, or use a "
            "Python that was built with --enable-shared"
        ) from None
    return []


def _has_handle(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
