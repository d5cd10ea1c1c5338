"""A model on a server that speaks the KServe v2 protocol: its address, and asking it by the `tritonclient` library."""

import contextlib
import math
import re
import threading
import urllib.parse
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prn_fast.errors import ConfigError, EngineError, EngineUnavailableError, one_line, printable

PORTS = {"grpc": 8001, "http": 8000}
SHARED_MEMORY = ("auto", "on", "off")
# Of options: kind, least and most.
_LIMITS: dict[str, tuple[type, float, float]] = {
    "timeout": (float, 0.001, 3600),
    "patience": (float, 0, 86400),
    "in_flight": (int, 1, 64),
    "batch": (int, 0, 4096),
    "priority": (int, 0, 100),
}
LARGEST_MESSAGE = 2**31 - 1
# A server that was started again is found within a second; by default gRPC may look away for two minutes.
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# What Triton says, whatever the status, while a model's process is gone, or not there yet.
_AWAY = re.compile(r"not healthy|unhealthy|no available versions|not ready|unloaded|shutting down", re.IGNORECASE)
_FULL = re.compile(r"exceeds? maximum queue size", re.IGNORECASE)
_LATE = re.compile(r"request timeout expired|deadline exceeded", re.IGNORECASE)
_FORGOTTEN = re.compile(r"unable to find (system )?shared memory region", re.IGNORECASE)
_ABSENT = ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED", "502", "503")


class NoAnswerError(EngineUnavailableError):
    """No answer came in time; the server may still be working on it, so that asking again at once adds to its load."""


class ServerBusyError(EngineUnavailableError):
    """The server's queue is full."""


class RegionForgottenError(EngineUnavailableError):
    """The server was restarted after a region of shared memory was registered with it."""


@dataclass(frozen=True)
class Address:
    """Where a model is served, and how to ask it: SCHEME://HOST[:PORT]/NAME[/VERSION][?OPTION=VALUE&...].

    Attributes:
        scheme: "grpc" or "http".
        host: with its port.
        model, version: version "" is the newest.
        timeout: most seconds that an answer may take.
        patience: seconds that an engine asks again for, while the server is away.
        in_flight: requests that may be on their way at the same time.
        batch: most images in one request; 0 is the server's most.
        priority: 1 is served first; 0 is the server's default.
        shared_memory: "auto" uses it with a server on this host, if the server can.
    Raises:
        ConfigError: a value out of range.
    """

    scheme: str
    host: str
    model: str
    version: str = ""
    timeout: float = 10.0
    patience: float = 2.0
    in_flight: int = 2
    batch: int = 0
    priority: int = 0
    shared_memory: str = "auto"

    def __post_init__(self) -> None:
        for name, (_, least, most) in _LIMITS.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise ConfigError(f"{self}: {name} is '{value}'; give a number from {least:g} to {most:g}")
        if self.shared_memory not in SHARED_MEMORY:
            told = printable(str(self.shared_memory))
            raise ConfigError(f"{self}: shared_memory is '{told}'; choose {', '.join(SHARED_MEMORY)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that a text states; a ConfigError says what is wrong with it."""
        usage = "write it such as grpc://HOST:8001/NAME, with options such as ?timeout=5"
        try:
            url = urllib.parse.urlsplit(text)
            port = url.port
            options = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
        except ValueError as error:
            raise ConfigError(f"{printable(text)}: {one_line(error)}; {usage}") from None
        parts = url.path.strip("/").split("/")
        if url.scheme not in PORTS or not url.hostname or len(parts) not in (1, 2) or not parts[0]:
            raise ConfigError(f"{printable(text)}: is no address of a served package; {usage}")
        if len(parts) == 2 and not parts[1].isdecimal():
            raise ConfigError(f"{printable(text)}: version {parts[1]!r} is not a number; {usage}")
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        values = {name: _option(text, name, value) for name, value in options.items()}
        return cls(url.scheme, f"{host}:{port or PORTS[url.scheme]}", parts[0], "".join(parts[1:]), **values)

    def __str__(self) -> str:
        version = f"/{self.version}" if self.version else ""
        return f"{self.scheme}://{self.host}/{self.model}{version}"

    @property
    def is_local(self) -> bool:
        """Whether the host is this one by its loopback address."""
        return self.host.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


def is_address(name: object) -> bool:
    """Whether a name of an engine or package is the address of a server."""
    return isinstance(name, str) and name.startswith(tuple(f"{scheme}://" for scheme in PORTS))


def _option(text: str, name: str, value: str) -> Any:
    if name == "shared_memory":
        return value
    if name not in _LIMITS:
        known = ", ".join([*_LIMITS, "shared_memory"])
        raise ConfigError(f"{printable(text)}: {printable(name)}={printable(value)} is no option; choose from {known}")
    try:
        return _LIMITS[name][0](value)
    except ValueError:
        raise ConfigError(f"{printable(text)}: {name} is {printable(value)!r}; give a number") from None


class Region:
    """Memory that the server on the same host reads images from and writes answers to.

    Args:
        name: of its own on this machine.
        sizes: bytes of each array in it.
    """

    def __init__(self, name: str, sizes: dict[str, int]) -> None:
        self._library: Any = import_module("tritonclient.utils.shared_memory")
        self.name = name
        self.sizes = sizes
        starts = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes.values())])
        self.offsets = dict(zip(sizes, starts.tolist(), strict=False))
        self.size = int(starts[-1])
        self._handle: Any = self._library.create_shared_memory_region(name, name, self.size, create_only=True)

    def write(self, part: str, values: NDArray[Any]) -> None:
        """Put an array where `part` lies."""
        self._library.set_shared_memory_region(self._handle, [values], self.offsets[part])

    def clear(self, part: str, shape: tuple[int, ...]) -> None:
        """Fill with NaN what an answer will be written over, so that one that is not written is found out."""
        self.write(part, np.full(shape, np.nan, np.float32))

    def read(self, part: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A copy of the float32 array that lies there."""
        return np.array(self._library.get_contents_as_numpy(self._handle, np.float32, shape, self.offsets[part]))

    def close(self) -> None:
        """Give the memory back."""
        self._library.destroy_shared_memory_region(self._handle)


class Connection:
    """Asks one model; any thread may.

    Raises:
        EngineError: from all methods: the server refuses, or the library is not installed.
        EngineUnavailableError: the server is away, starting or busy, or did not answer in time.
    """

    def __init__(self, address: Address) -> None:
        try:
            self._library: Any = import_module(f"tritonclient.{address.scheme}")
        except ImportError:
            raise EngineError("tritonclient is not installed: pip install 'prn-fast[serve]'") from None
        self.address = address
        # Clients over HTTP belong to the thread that made them.
        self._clients: threading.local | Any = threading.local()
        self._all: list[Any] = []
        if address.scheme == "grpc":
            sizes = (
                ("grpc.max_send_message_length", LARGEST_MESSAGE),
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
            )
            self._all.append(self._library.InferenceServerClient(address.host, channel_args=[*sizes, *_RECONNECT]))

    @property
    def _client(self) -> Any:
        if self.address.scheme == "grpc":
            return self._all[0]
        if not hasattr(self._clients, "one"):
            seconds = self.address.timeout
            self._clients.one = self._library.InferenceServerClient(
                self.address.host, connection_timeout=seconds, network_timeout=seconds
            )
        return self._clients.one

    def metadata(self, version: str) -> dict[str, Any]:
        """Inputs, outputs and versions of the model."""
        return self._told("get_model_metadata", self.address.model, version)

    def config(self, version: str) -> dict[str, Any]:
        """The model's configuration on the server."""
        found = self._told("get_model_config", self.address.model, version)
        return found.get("config", found)

    def _told(self, method: str, *arguments: str) -> dict[str, Any]:
        options = {"as_json": True} if self.address.scheme == "grpc" else {}
        return self._call(method, *arguments, **options, **self._limit)

    @property
    def _limit(self) -> dict[str, float]:
        """What bounds the time of a call; over HTTP the client itself does."""
        return {"client_timeout": self.address.timeout} if self.address.scheme == "grpc" else {}

    def register(self, region: Region) -> None:
        """Tell the server of a region."""
        self._call("register_system_shared_memory", region.name, f"/{region.name}", region.size, **self._limit)

    def unregister(self, region: Region) -> None:
        """Let the server forget a region."""
        self._call("unregister_system_shared_memory", region.name, **self._limit)

    def infer(
        self,
        version: str,
        images: NDArray[np.uint8],
        outputs: dict[str, tuple[str, tuple[int, ...]]],
        region: Region | None,
    ) -> dict[str, NDArray[Any]]:
        """Answers to images.

        Args:
            outputs: names, with the data type such as "FP32" and the shape that each must have; -1 is any length.
            region: where images pass through, and those outputs that it has room for; None sends them.
        """
        library = self._library
        asked = library.InferInput("images", images.shape, "UINT8")
        wanted = [library.InferRequestedOutput(name) for name in outputs]
        if region is None:
            asked.set_data_from_numpy(images)
        else:
            region.write("images", images)
            asked.set_shared_memory(region.name, images.nbytes, region.offsets["images"])
            for one, (name, (_, shape)) in zip(wanted, outputs.items(), strict=True):
                if name in region.offsets:
                    region.clear(name, shape)
                    one.set_shared_memory(region.name, 4 * math.prod(shape), region.offsets[name])
        result = self._call(
            "infer",
            self.address.model,
            [asked],
            model_version=version,
            outputs=wanted,
            priority=self.address.priority,
            # The server drops a request that nobody waits for any more.
            timeout=round(1e6 * self.address.timeout),
            **self._limit,
        )
        return {name: self._output(result, name, *wanted, region) for name, wanted in outputs.items()}

    def _output(
        self, result: Any, name: str, datatype: str, shape: tuple[int, ...], region: Region | None
    ) -> NDArray[Any]:
        told = result.get_output(name)  # a message over gRPC, a dict over HTTP
        if told is not None:
            as_dict = told if isinstance(told, dict) else {"shape": told.shape, "datatype": told.datatype}
            found = tuple(int(one) for one in as_dict["shape"])
            fits = len(found) == len(shape) and all(b in (a, -1) for a, b in zip(found, shape, strict=True))
            if fits and as_dict["datatype"] == datatype:
                if region is not None and name in region.offsets:
                    return region.read(name, found)
                with contextlib.suppress(ValueError):  # fewer bytes than the shape says
                    return result.as_numpy(name)
        raise EngineError(f"{self.address}: output {name} is missing or of another shape; do not use this server")

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **options)
        except EngineError:
            raise
        except Exception as error:  # each transport has its own
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> EngineError:
        from tritonclient.utils import InferenceServerException

        told = one_line(error)
        if not isinstance(error, InferenceServerException):
            # Of sockets: nothing but a connection that cannot be made, or that broke.
            late = isinstance(error, TimeoutError)
            kind = NoAnswerError if late else EngineUnavailableError
            return kind(f"{self.address}: {self._late if late else 'cannot be reached'} ({told})")
        status, told = str(error.status()), printable(error.message() or "", 300)
        if _FORGOTTEN.search(told):
            return RegionForgottenError(f"{self.address}: was started again ({told})")
        if _FULL.search(told):
            return ServerBusyError(f"{self.address}: has as many requests waiting as it takes ({told})")
        if status == "StatusCode.DEADLINE_EXCEEDED" or status == "499" or _LATE.search(told):
            return NoAnswerError(f"{self.address}: {self._late}")
        if status in _ABSENT:
            return EngineUnavailableError(f"{self.address}: cannot be reached ({told})")
        if _AWAY.search(told):
            return EngineUnavailableError(f"{self.address}: is not ready ({told})")
        return EngineError(f"{self.address}: {told}")

    @property
    def _late(self) -> str:
        return f"no answer within {self.address.timeout:g} s"

    def close(self) -> None:
        """Close what this thread and all threads share; a thread's own clients end with the thread."""
        for client in self._all:
            client.close()
