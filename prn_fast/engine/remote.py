"""An engine that runs on a server: NVIDIA's Triton, or what else speaks the KServe v2 protocol."""

import os
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.base import Engine
from prn_fast.engine.kserve import (
    Address,
    Connection,
    NoAnswerError,
    Region,
    RegionForgottenError,
    ServerBusyError,
)
from prn_fast.engine.served import ABOUT, EXITED, IDENTITY, IMAGES, MAPS, RAW_SCORES, SAME_ENGINE, Description
from prn_fast.engine.streams import Answers
from prn_fast.errors import ConfigError, EngineError, EngineUnavailableError

if TYPE_CHECKING:
    from prn_fast.package import Package

Result = TypeVar("Result")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class RemoteEngine(Engine):
    """A package that a server runs, with the checks and the detections of a local engine.

    Opening it asks the server for what it serves, and compares a real inference with answers that are known. It does so
    again whenever the server was away: a server that comes back with other weights or thresholds is an error.

    Images in parts of at most `batch` are on their way at the same time, `in_flight` at most. An inference changes
    nothing on the server, so a part is asked for again where the server was away, is starting or is busy, for
    `patience` seconds; not where no answer came within `timeout`, for that would only add to the load.

    Args:
        address: "grpc://HOST[:PORT]/NAME[/VERSION]", or "http://...", with the options of `Address`.
        package: what must be served there; None takes whatever is.
        options: as in the address, and before it.
    Attributes:
        address: as parsed.
        patience: seconds; may be changed at any time.
        version: of the model on the server, which stays the same while the engine is open.
        description: what is served: thresholds, weights, and the engine on the server.
        uses_shared_memory: whether images and answers pass through memory that the server shares.
    Raises:
        ConfigError: an address that cannot be one.
        EngineUnavailableError: nothing answers there, also after `patience`.
        EngineError: it serves something else than a package, or gives wrong answers.
    """

    def __init__(self, address: str, package: "Package | None" = None, **options: Any) -> None:
        try:
            self.address = replace(Address.parse(address), **options)
        except TypeError:
            raise ConfigError(f"{address}: takes no options {', '.join(options)}") from None
        self.patience = self.address.patience
        self._regions: SimpleQueue[Region | None] = SimpleQueue()
        self._all_regions: list[Region] = []
        self._connection = Connection(self.address)
        self._threads = ThreadPoolExecutor(self.address.in_flight, thread_name_prefix="prn-remote")
        self._trusted = False
        self._verified_ns = 0
        self.uses_shared_memory = False
        try:
            self._retrying(lambda: self._in_thread(self._open))
            if package is not None:
                self.description.require(package, str(self.address))
            self._share_memory()
            self._retrying(lambda: self._in_thread(self._verify))
        except BaseException:
            self._let_go()
            raise

    @property
    def runs(self) -> str:
        """See `Engine.runs`."""
        return self.description.engine

    @property
    def leaves_early(self) -> bool:
        """See `Engine.leaves_early`."""
        return self.description.early_exit

    # -- opening ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """What is served, and in which shape it takes images."""
        address, ask = self.address, self._connection
        metadata = ask.metadata(address.version)
        self.version = address.version or str(max((int(one) for one in metadata.get("versions", [])), default=1))
        config = ask.config(self.version)
        inputs = {one.get("name"): one for one in metadata.get("inputs", [])}
        outputs = {one.get("name") for one in metadata.get("outputs", [])}
        shape = [int(one) for one in inputs.get(IMAGES, {}).get("shape", [])]
        if len(shape) != 4 or shape[1] != shape[2] or not {RAW_SCORES, EXITED, MAPS, IDENTITY, ABOUT} <= outputs:
            raise EngineError(f"{address}: does not serve a package of prn_fast; export one with `prn-serve export`")
        most = int(config.get("max_batch_size", 0))
        super().__init__(str(address), shape[1], shape[3], min(address.batch or most, most))
        self.description = self._described()
        self.threshold, self.pixel_threshold = self.description.threshold, self.description.pixel_threshold

    def _described(self) -> Description:
        black = np.zeros((1, self.image_size, self.image_size, self.image_channels), np.uint8)
        found = self._connection.infer(self.version, black, {ABOUT: ("UINT8", (1, -1))}, None)[ABOUT]
        return Description.from_json(found.tobytes(), str(self.address))

    def _share_memory(self) -> None:
        wanted = self.address.shared_memory
        regions: list[Region | None] = [None] * self.address.in_flight
        if wanted == "on" or (wanted == "auto" and self.address.is_local):
            side, images = self.image_size, self.batch
            sizes = {
                IMAGES: images * side * side * self.image_channels,
                RAW_SCORES: 4 * images,
                MAPS: 4 * images * side * side,
            }
            try:
                for number in range(len(regions)):
                    regions[number] = self._new_region(sizes)
                self._in_thread(self._register)
                self.uses_shared_memory = True
            except (EngineError, OSError) as error:
                if wanted == "on":
                    raise EngineError(f"{self.address}: shared memory cannot be used ({error})") from None
                self._drop_regions()
                regions = [None] * len(regions)
        for one in regions:
            self._regions.put(one)

    def _new_region(self, sizes: dict[str, int]) -> Region:
        region = Region(f"prn_fast-{os.getpid()}-{secrets.token_hex(4)}", sizes)
        self._all_regions.append(region)
        return region

    def _register(self) -> None:
        for region in self._all_regions:
            with suppress(EngineError):  # where the server has gone on, and knows it
                self._connection.unregister(region)
            self._connection.register(region)

    # -- inference ----------------------------------------------------------------------------------------------

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.run`; asks once."""
        scores, maps, _ = self._ask(images)
        return scores, maps

    def _ask(self, images: NDArray[np.uint8]) -> Answers:
        """Raw scores, maps, and which images left early on the server, of at most `batch` images."""
        count, side = len(images), self.image_size
        outputs = {
            RAW_SCORES: ("FP32", (count, 1)),
            MAPS: ("FP32", (count, side, side)),
            EXITED: ("UINT8", (count, 1)),
            IDENTITY: ("INT64", (count, 1)),
        }
        region = self._regions.get()
        try:
            found = self._connection.infer(self.version, images, outputs, region)
        except (ServerBusyError, RegionForgottenError):
            raise
        except BaseException:
            if region is not None:
                # A late answer may still be written into it, over that of the next request.
                region = self._replaced(region)
            raise
        finally:
            self._regions.put(region)
        if (found[IDENTITY] != self.description.identity).any():
            raise self._other_model()
        return found[RAW_SCORES][:, 0], found[MAPS], found[EXITED][:, 0].astype(bool)

    def _other_model(self) -> EngineError:
        return EngineError(f"{self.address}: serves other weights or thresholds than it did; open it again")

    def _replaced(self, region: Region) -> Region | None:
        """A new region, which `_verify` registers with the server before it is used; None if memory is full."""
        self._trusted = False
        with suppress(EngineError):
            self._connection.unregister(region)
        self._all_regions.remove(region)
        region.close()
        try:
            return self._new_region(region.sizes)
        except OSError:
            return None

    def lent(self, images: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Engine.lent`: asked as `answers` asks."""
        scores, maps, _ = self.answers(images)
        return scores, maps

    def answers(self, images: Any) -> Answers:
        """See `Engine.answers`; several parts at a time."""
        scores = np.empty(len(images), np.float32)
        maps = np.empty((len(images), self.image_size, self.image_size), np.float32)
        exited = np.zeros(len(images), bool)
        starts = range(0, len(images), self.batch)
        waiting = [slice(start, min(start + self.batch, len(images))) for start in starts]

        def ask_all() -> None:
            self._trust()
            asked = [(part, self._threads.submit(self._ask, images[part])) for part in waiting]
            errors: list[EngineError] = []
            for part, future in asked:
                try:
                    scores[part], maps[part], exited[part] = future.result()
                    waiting.remove(part)
                except EngineError as error:
                    errors.append(error)
            if errors:
                # One that waiting does not mend comes first.
                raise min(errors, key=lambda error: isinstance(error, EngineUnavailableError))

        self._retrying(ask_all)
        return scores, maps, exited

    def _trust(self) -> None:
        """Make sure that the server still is what it was, where it was away."""
        if not self._trusted:
            self._in_thread(self._verify)

    def _verify(self) -> None:
        """Compare a real inference with the known answers, the regions of memory included."""
        if self._verified_ns:
            found = self._described()
            if found.identity != self.description.identity:
                raise self._other_model()
            self.description = found
        self._register()
        canary = self.description.canary
        most = self.batch
        parts = [self.run(canary.images[start : start + most]) for start in range(0, len(canary.images), most)]
        scores, maps = (np.concatenate(values) for values in zip(*parts, strict=True))
        if faults := canary.faults(scores, maps, SAME_ENGINE):
            raise EngineError(f"{self.address}: gives wrong answers to known images: {faults[0]}; do not use it")
        self._trusted = True
        self._verified_ns = time.monotonic_ns()

    def verify(self) -> None:
        """Make sure that the server is ready: a real inference, compared with answers that are known.

        A server may call itself ready while the process behind it is gone and each inference fails.

        Raises:
            EngineUnavailableError: away, starting, busy, or no answer in time. Asks once, without patience.
            EngineError: wrong answers, or another package than when the engine was opened.
        """
        with self._used_alone():
            try:
                self._in_thread(self._verify)
            except EngineUnavailableError:
                self._trusted = False
                raise

    @property
    def ready(self) -> bool:
        """Whether `verify` succeeds."""
        try:
            self.verify()
        except EngineError:
            return False
        return True

    def _retrying(self, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns, asked again for `patience` seconds while the server is away."""
        end = time.monotonic() + self.patience
        pause, forgotten = _FIRST_PAUSE, False
        while True:
            try:
                return attempt()
            except EngineUnavailableError as error:
                # A server that is busy is the same one; after all else it may be another.
                self._trusted = self._trusted and isinstance(error, ServerBusyError)
                # That it was started again and is back is no reason to give up, the first time.
                first_to_tell = isinstance(error, RegionForgottenError) and not forgotten
                forgotten = forgotten or first_to_tell
                if isinstance(error, NoAnswerError) or (time.monotonic() + pause > end and not first_to_tell):
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _in_thread(self, call: Callable[[], Result]) -> Result:
        # In a thread of its own pool: clients over HTTP belong to threads.
        return self._threads.submit(call).result()

    # -- closing ------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """See `Engine.release`."""
        self._let_go()

    def _let_go(self) -> None:
        for region in self._all_regions if self.uses_shared_memory else ():
            with suppress(EngineError):
                self._in_thread(lambda one=region: self._connection.unregister(one))  # type: ignore[misc]
        self._drop_regions()
        self._threads.shutdown()
        self._connection.close()

    def _drop_regions(self) -> None:
        for region in self._all_regions:
            region.close()
        self._all_regions.clear()
