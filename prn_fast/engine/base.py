"""What every engine is: camera bytes in, detections out."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self, final

import numpy as np
from numpy.typing import NDArray

from prn_fast.engine.early_exit import Screening, moved
from prn_fast.engine.images import as_array, gpu_of
from prn_fast.engine.streams import Answers, BatchStream, Stream
from prn_fast.errors import EngineError

if TYPE_CHECKING:
    from prn_fast.package import Package

# Far beyond what any memory holds; TensorRT's own numbers end at 2^31.
MAX_BATCH = 65_536
_HALF = np.float32(0.5)
_BELOW_HALF = np.nextafter(_HALF, np.float32(0))


@dataclass(frozen=True)
class Detections:
    """What an engine found in N images; `Detections.of` makes it of what a network gives.

    Attributes:
        defective: (N,) bool, the verdict: the raw score reaches the engine's threshold.
        scores: (N,) float32 in 0..1, image scores: 0.5 and above exactly where `defective`, see `scores_at`.
        raw_scores: (N,) float32 in 0..1, the network's own: the mean of the 100 largest pixels of the map, or a
            learned score (`PRNConfig.score`).
        maps: (N, S, S) float32 in 0..1, anomaly maps, as the network gives them.
        exited: (N,) bool, which images left after the screen. Their raw score and map are the screen's, on the
            network's scale and brought up to size: below the engine's threshold and pixel threshold.
    """

    defective: NDArray[np.bool_]
    scores: NDArray[np.float32]
    raw_scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    exited: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        raw_scores: NDArray[np.float32],
        maps: NDArray[np.float32],
        threshold: float = 0.5,
        exited: NDArray[np.bool_] | None = None,
    ) -> Self:
        """Detections of a network's output; at the threshold 0.5, scores are the raw scores.

        Args:
            raw_scores: (N,), in 0..1.
            maps: (N, S, S), in 0..1.
            threshold: raw score at or above which an image is defective.
            exited: (N,); None where all ran whole.
        """
        exited = np.zeros(len(raw_scores), bool) if exited is None else exited
        return cls(is_defective(raw_scores, threshold), scores_at(raw_scores, threshold), raw_scores, maps, exited)


@dataclass(frozen=True)
class StripDetections:
    """What an engine found in one row of N tiles, whose lines it was given whole.

    Attributes:
        raw_scores: (N,) float32 in 0..1, the network's own, along the line.
        map: (S, W) float32 in 0..1, the tiles' anomaly maps put together along the line (`stitch_tiles`).
        exited: number of tiles that left early.
    """

    raw_scores: NDArray[np.float32]
    map: NDArray[np.float32]
    exited: int = 0


def _finite(values: NDArray[np.floating]) -> bool:
    return bool(np.isfinite(values).all())


def is_defective(raw_scores: NDArray[np.floating] | float, threshold: float) -> NDArray[np.bool_]:
    """The verdict on images: whether the raw score reaches the threshold.

    The one place that decides it: in float64, so that no rounding of either side turns a verdict over. A score that is
    not a number is defective.
    """
    return ~(np.asarray(raw_scores, np.float64) < threshold)


def scores_at(raw_scores: NDArray[np.floating] | float, threshold: float) -> NDArray[np.float32]:
    """Scores whose 0.5 is the threshold: the logit of the raw score, less that of the threshold.

        score = sigmoid(logit(raw) - logit(t)) = raw (1 - t) / (raw (1 - t) + t (1 - raw))

    Images keep their order, and 0 and 1 stay where they are. Raw scores that differ by a few roundings below 1 may
    share a score where the threshold is far below 0.5. A score is 0.5 or more exactly where `is_defective`.

    Args:
        raw_scores: in 0..1; what is not a number stays so.
        threshold: 0..1.
    """
    raw = np.asarray(raw_scores, np.float64)
    scores = moved(raw, threshold, 0.5).astype(np.float32)
    return np.where(is_defective(raw, threshold), np.maximum(scores, _HALF), np.minimum(scores, _BELOW_HALF))


@dataclass(frozen=True)
class Thresholds:
    """From where on an image, and a pixel of its map, is defective.

    Attributes:
        image: of raw scores, 0..1.
        pixel: of the map, 0..1.
    """

    image: float = 0.5
    pixel: float = 0.5

    @classmethod
    def of(cls, package: "Package") -> Self:
        """Those of a package's calibration; a PackageError where it has none."""
        return cls(package.calibration("threshold"), package.calibration("pixel_threshold"))


class Engine(ABC):
    """Runs a PRN; one subclass for each backend.

    Threads may share an engine: one inference runs at a time, the others wait, and each gets the answers to its own
    images, in arrays that no later call touches. `close` waits for the inference under way; whoever infers afterwards
    gets an EngineError. More threads make an engine no faster, since one run uses all processor cores, or the GPU.

    An engine belongs to the process that opened it. After a fork it is an EngineError in the child, and an engine
    cannot be pickled or copied: open one in each process.

    With a screen, images that are plainly normal leave early: `screen` runs on all, the network on those that stay.

    A subclass implements `run`, `screen` where it offers early exit, `strip_answers` where it `takes_strips`, and
    `release` where it holds what Python does not free. All are called by one thread at a time, and never after
    `release`; so is a `fill` or `stream` of its own.

    Attributes:
        name: "backend" or "backend:precision".
        image_size: side S of the images, pixels.
        image_channels: 1 (grey) or 3 (RGB).
        batch: most images in one run of the backend; more are split.
        gpu: index of the GPU that it runs on; None on a CPU.
        threshold: raw score at or above which an image is defective, 0..1: the package's.
        pixel_threshold: the same for a pixel of the map.
        screening: when images leave early; None where all run whole.
        takes_strips: whether `infer_strip` works: lines go to the device as they are, and are cut there.
        scores_carry_nan: a NaN anywhere in a map makes the image's score NaN, so that the check of the output reads
            scores only.
    """

    takes_strips: bool = False
    scores_carry_nan: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        image_size: int,
        image_channels: int,
        batch: int,
        gpu: int | None = None,
        thresholds: Thresholds = Thresholds(),
        screening: Screening | None = None,
    ) -> None:
        if batch < 1:
            raise EngineError(f"batch must be at least 1, not {batch}")
        self.name = name
        self.image_size = image_size
        self.image_channels = image_channels
        self.batch = batch
        self.gpu = gpu
        self.threshold, self.pixel_threshold = thresholds.image, thresholds.pixel
        self.screening = screening
        self._belong_to_this_process()

    @property
    def runs(self) -> str:
        """The name of the engine that computes: this one's, or that of one on a server."""
        return self.name

    @property
    def leaves_early(self) -> bool:
        """Whether images may leave after the screen, and then have its scores."""
        return self.screening is not None

    def _belong_to_this_process(self) -> None:
        """Open for the threads of this process, none of which uses the engine yet."""
        self._process = os.getpid()
        # The same thread may come back, in a signal handler: it is told so, where a plain lock would wait for ever.
        self._lock = threading.RLock()
        self._in_use = self._closed = False

    @contextmanager
    def _used_alone(self) -> Iterator[None]:
        """Keeps all other threads out; an EngineError where the engine cannot be used."""
        # Before the lock: some other thread may have held it at the fork, and it is then never released in the child.
        if os.getpid() != self._process:
            raise EngineError(
                f"{self.name} was opened by process {self._process}, and process {os.getpid()} is a fork of it, which "
                "has none of its threads; open an engine in the process that uses it"
            )
        with self._lock:
            if self._in_use:
                raise EngineError(f"{self.name} is in the middle of an inference of this thread; let it end first")
            if self._closed:
                raise EngineError(f"{self.name} is closed; open it again")
            self._in_use = True
            try:
                yield
            finally:
                self._in_use = False

    @final
    def infer(self, images: Any, *, copy: bool = True) -> Detections:
        """Inspect images; any thread may call it.

        Args:
            images: uint8 (N, S, S, C), a numpy array or a torch tensor, of any strides, or what else numpy can view;
                N of one or more.
            copy: False saves the copy of scores and maps: they may lie in the engine's own memory, where the next
                inference of this engine, by whatever thread, overwrites them, and they end with `close`. Threads that
                share an engine need copies.
        Raises:
            EngineError: wrong kind, dtype, shape or size, or on another GPU than the engine's, before anything runs; a
                closed engine, or one of another process; or an output that is not finite.
        """
        with self._used_alone():
            checked = self.check(images)
            if copy or self.leaves_early:
                answers = self.answers(checked)
            else:
                answers = *self.lent(checked), np.zeros(len(checked), bool)
        return self._detections(answers)

    @final
    def infer_strip(self, strip: Any, overlap: int) -> StripDetections:
        """Inspect some lines of a line camera, where `takes_strips`; any thread may call it.

        Args:
            strip: uint8 (S, W, C), as many lines as a tile has, W of S or more.
            overlap: pixels that neighbouring tiles share, 0 to S - 1; they lie as `tile_starts` says. The first strip
                of another width or overlap may take long.
        Raises:
            EngineError: as `infer`; or an engine that takes no strips.
            ConfigError: an overlap out of range, or lines that are shorter than a tile.
        """
        with self._used_alone():
            if not self.takes_strips:
                raise EngineError(f"{self.name} takes no strips; cut them into tiles and use `infer`")
            found = self.strip_answers(self._checked_strip(strip), overlap)
        if not _finite(found.raw_scores) or not (self.scores_carry_nan or _finite(found.map)):
            raise self._not_finite()
        return found

    @final
    def infer_whole(self, images: Any) -> Detections:
        """As `infer`, all images through the whole network, whether or not they would leave early."""
        with self._used_alone():
            self.require_network()
            array = self.check(images)
            scores = np.empty(len(array), np.float32)
            maps = np.empty((len(array), self.image_size, self.image_size), np.float32)
            self.fill(array, scores, maps)
        return self._detections((scores, maps, np.zeros(len(array), bool)))

    def require_network(self) -> None:
        """An EngineError where the screen runs alone."""
        if self.screening is not None and self.screening.alone:
            raise EngineError(f"{self.name} was opened with screen_only=True; open it without to run the network")

    @final
    def infer_many(self, images: Iterable[Any]) -> Iterator[Detections]:
        """Inspect a stream of images, for throughput: several may be under way at once, `infer` answers one soonest.

        Threads and forks as for `infer`. Between two answers the engine is free for other threads.

        Args:
            images: each an image (S, S, C) or a batch (N, S, S, C), as for `infer`. It may be changed once the next one
                is asked for.
        Yields:
            The detections of each, in order.
        Raises:
            EngineError: as `infer`; what came before is answered first where it was already under way.
        """
        with self._used_alone():
            stream = self.stream()
        try:
            for item in images:
                with self._used_alone():
                    stream.put(self._kept(item))
                while stream.full:
                    with self._used_alone():
                        answered = stream.wait()
                    if answered:
                        yield self._taken(stream)
            while len(stream):
                yield self._taken(stream)
        finally:
            if os.getpid() == self._process:  # nothing of it is under way in a fork
                stream.close()

    def _kept(self, images: Any) -> Any:
        """An image or a batch, checked and out of its owner's reach; what lies on a device stays there."""
        if getattr(images, "ndim", None) == 3:
            images = (images if hasattr(images, "detach") else as_array(images))[None]
        checked = self.check(images)
        return checked.copy() if isinstance(checked, np.ndarray) else checked

    def _taken(self, stream: Stream) -> Detections:
        with self._used_alone():
            answers = stream.take()
        return self._detections(answers)

    def _detections(self, answers: Answers) -> Detections:
        scores, maps, exited = answers
        # A map decides about every pixel: one that is not a number must stop the line, not pass as good.
        if not _finite(scores) or not (self.scores_carry_nan or _finite(maps)):
            raise self._not_finite()
        return Detections.of(scores, maps, self.threshold, exited)

    def _not_finite(self) -> EngineError:
        return EngineError(f"{self.name}: the output holds NaN or infinite values; do not use this engine")

    @final
    def warm_up(self, images: Any) -> None:
        """Get ready for `infer_many`: what is prepared at a first run, of screen or network, then delays no later one.

        Args:
            images: as for `infer`, as many as later batches have; what they show does not matter.
        Raises:
            EngineError: as `infer`.
        """
        with self._used_alone():
            self.prepare(self.check(images))

    def prepare(self, images: Any) -> None:
        """Run checked images through the screen and through the network, whether or not they would leave."""
        if self.screening is not None:
            self.screen(images)
        if self.screening is None or not self.screening.alone:
            maps = np.empty((len(images), self.image_size, self.image_size), np.float32)
            self.fill(images, np.empty(len(images), np.float32), maps)

    def stream(self) -> Stream:
        """What runs the batches of one `infer_many`."""
        return BatchStream(self.answers, self.batch)

    def answers(self, images: Any) -> Answers:
        """Raw scores, maps, and which images left, of checked images."""
        scores = np.empty(len(images), np.float32)
        maps = np.empty((len(images), self.image_size, self.image_size), np.float32)
        exited = np.zeros(len(images), bool)
        if self.screening is None:
            self.fill(images, scores, maps)
            return scores, maps, exited
        found_scores, found_maps = self.screen(images)
        self.require_shapes((found_scores, found_maps), len(images), found_maps.shape[-1])
        for part in self._parts(len(images)):
            exited[part] = self.screening.answer(found_scores[part], found_maps[part], scores[part], maps[part])
        staying = np.flatnonzero(~exited)
        if len(staying) and not self.screening.alone:
            whole_scores, whole_maps = (
                np.empty(len(staying), np.float32),
                np.empty((len(staying), *maps.shape[1:]), np.float32),
            )
            self.fill(
                images if len(staying) == len(images) else self.gathered(images, staying), whole_scores, whole_maps
            )
            scores[staying], maps[staying] = whole_scores, whole_maps
        return scores, maps, exited

    def lent(self, images: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Raw scores (N,) and maps (N, S, S) of checked images, in arrays that the next inference may overwrite."""
        if len(images) <= self.batch:
            found = self.run(images)
            self.require_shapes(found, len(images), self.image_size)
            return found
        scores = np.empty(len(images), np.float32)
        maps = np.empty((len(images), self.image_size, self.image_size), np.float32)
        self.fill(images, scores, maps)
        return scores, maps

    def gathered(self, images: Any, rows: NDArray[np.integer]) -> Any:
        """Some of the images, in this order, contiguous."""
        return images[rows]

    def _parts(self, count: int) -> Iterator[slice]:
        """Slices of at most `batch`."""
        for start in range(0, count, self.batch):
            yield slice(start, min(start + self.batch, count))

    def in_parts(
        self, run: Callable[[Any], tuple[NDArray[np.float32], NDArray[np.float32]]], images: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What `run` gives for at most `batch` images at a time, put together; it gives arrays of its own each time."""
        found = [run(images[part]) for part in self._parts(len(images))]
        return np.concatenate([scores for scores, _ in found]), np.concatenate([maps for _, maps in found])

    def require_shapes(self, found: tuple[NDArray[Any], NDArray[Any]], count: int, side: int) -> None:
        """An EngineError unless scores (count,) and maps (count, side, side) were found: they are never broadcast."""
        scores, maps = found
        if (scores.shape, maps.shape) != ((count,), (count, side, side)):
            raise EngineError(
                f"{self.name}: gives scores {scores.shape} and maps {maps.shape} for {count} images; do not use this "
                "engine"
            )

    def check(self, images: Any) -> NDArray[np.uint8]:
        """The images as a contiguous numpy array, or an EngineError that says what is wrong with them."""
        self.check_gpu(images)
        array = as_array(images)
        self.check_shape(array)
        # Flat in between: a dimension of size one would keep a negative stride, which PyTorch refuses.
        return np.ascontiguousarray(array).reshape(-1).reshape(array.shape)

    def _checked_strip(self, strip: Any) -> NDArray[np.uint8]:
        """The strip as a contiguous numpy array, or an EngineError that says what is wrong with it."""
        array = as_array(strip)
        expected = self.image_size, self.image_channels
        if array.dtype != np.uint8 or array.ndim != 3 or (array.shape[0], array.shape[2]) != expected:
            raise EngineError(
                f"a strip is {array.dtype} {array.shape}; this engine takes uint8 ({expected[0]}, W, {expected[1]}), "
                "lines, width, channels"
            )
        return np.ascontiguousarray(array)

    def check_gpu(self, images: Any) -> None:
        """An EngineError if the images lie on a GPU, and the engine runs on another one."""
        found = gpu_of(images)
        if None not in (found, self.gpu) and found != self.gpu:
            raise EngineError(
                f"images lie on GPU {found}, and {self.name} runs on GPU {self.gpu}; copy them there, or to the host"
            )

    def check_shape(self, images: Any) -> None:
        """An EngineError unless `images`, an array wherever it lies, are uint8 (N, S, S, C)."""
        # PyTorch's types are not numpy's.
        if str(images.dtype).removeprefix("torch.") != "uint8":
            raise EngineError(
                f"images have dtype {images.dtype}; engines take uint8 as cameras deliver it, not normalised values"
            )
        expected = (self.image_size, self.image_size, self.image_channels)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise EngineError(
                f"images have shape {tuple(images.shape)}; this engine takes (N, {', '.join(map(str, expected))}), "
                "number, height, width, channels"
            )
        if len(images) == 0:
            raise EngineError("there are no images: N is 0")

    def fill(self, images: NDArray[np.uint8], scores: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        """Write the raw scores (N,) and maps (N, S, S) of checked images, one part of at most `batch` after the other.

        A backend that works on several parts at a time has its own.
        """
        for part in self._parts(len(images)):
            found = self.run(images[part])
            self.require_shapes(found, len(scores[part]), self.image_size)
            scores[part], maps[part] = found

    @abstractmethod
    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Raw scores (n,) and maps (n, S, S) of at most `batch` checked images, contiguous.

        The caller copies them before the next run, so that they may lie in a buffer of the backend's.
        """

    def strip_answers(self, strip: NDArray[np.uint8], overlap: int) -> StripDetections:
        """What `infer_strip` returns of a checked strip, in arrays that no later call touches."""
        raise NotImplementedError

    def screen(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The screen's scores (N,) and maps (N, S / 8, S / 8), on its own scale, of checked images, contiguous."""
        raise EngineError(f"{self.name} was opened without a screen; open it with early_exit=True")

    @final
    def close(self) -> None:
        """Free what the backend holds; the engine cannot be used afterwards.

        Waits for an inference that another thread has under way. Closing again does nothing, and so does closing in a
        forked process, where nothing of the engine can be freed.

        Raises:
            EngineError: the inference under way is one of this thread, which a signal has interrupted.
        """
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._in_use:
                raise EngineError(f"{self.name} is in the middle of an inference of this thread; let it end first")
            if not self._closed:
                self._closed = True
                self.release()

    def release(self) -> None:  # noqa: B027  (most backends hold nothing that Python does not free)
        """Free what the backend holds; called once."""

    def __reduce__(self) -> NoReturn:
        raise EngineError(
            f"{self.name} cannot be pickled or copied: it holds threads and memory of this process; hand on the "
            "package's path, and open an engine in the process that uses it"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
