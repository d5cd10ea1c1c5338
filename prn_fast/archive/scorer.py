"""One engine over the images of a shard: a row for each, whatever state its file is in."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.archive.images import Shard, require_present
from prn_fast.data.images import read_image
from prn_fast.data.pages import further_pages_of
from prn_fast.errors import DataError, PackageError
from prn_fast.linescan.defects import MIN_AREA, DefectTracker
from prn_fast.training.evaluation import Verdict, judge

if TYPE_CHECKING:
    from prn_fast.engine.base import Engine

GOOD, DEFECT, UNREADABLE = "good", "defect", "unreadable"


@dataclass(frozen=True)
class ScoringSettings:
    """How an archive is scored.

    Attributes:
        package: path of the package; on a cluster, of every machine.
        digest: of the package, which each process makes sure of.
        engine: its name.
        threshold: image score at or above which an image is defective.
        pixel_threshold: of the map, for boxes; see `DefectTracker`.
        min_area: smaller regions get no box, pixels of the map.
        tile_overlap: None resizes images, as `judge`.
        early_exit: plainly normal images leave after the package's screen, if it has one with a cut.
        threads: of the processor, for each engine; None takes all.
    """

    package: Path
    digest: str
    engine: str
    threshold: float
    pixel_threshold: float
    min_area: int = MIN_AREA
    tile_overlap: int | None = None
    early_exit: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        self.tracker()

    def tracker(self) -> DefectTracker:
        """What finds the regions of one map; a ConfigError where the settings cannot work."""
        return DefectTracker(self.pixel_threshold, self.min_area, max_lines=2**31)

    def identity(self) -> dict[str, Any]:
        """What results depend on, JSON-ready."""
        return {
            "digest of the package": self.digest,
            "engine": self.engine,
            "threshold": self.threshold,
            "pixel threshold": self.pixel_threshold,
            "min area": self.min_area,
            "tile overlap": self.tile_overlap,
            "early exit": self.early_exit,
        }


@dataclass(frozen=True)
class Box:
    """A region of the map at or above the pixel threshold, in pixels of the image; `peak` is its largest value."""

    left: int
    top: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class Row:
    """The result for an image.

    Attributes:
        path: relative to the archive.
        verdict: "good", "defect" or "unreadable".
        score: in 0..1; None where the image cannot be read, as are exited, width, height and boxes.
        exited: the image left early: score and boxes are those of the screen.
        reason: why it cannot be read; None where it can.
        width, height: of the image, pixels.
        boxes: of its regions, from top to bottom, whatever the verdict.
        pages_left_out: pages or frames after the first, which are not scored.
    """

    path: str
    verdict: str
    score: float | None = None
    exited: bool | None = None
    reason: str | None = None
    width: int | None = None
    height: int | None = None
    boxes: tuple[Box, ...] | None = None
    pages_left_out: int = 0


@dataclass
class _Image:
    """An image of the batch under way; `reason` where it cannot be read."""

    name: str
    path: Path
    content: bytes | None
    reason: str | None = None
    shape: tuple[int, int] = field(default=(0, 0))


class Scorer:
    """Scores shards with one engine, which it opens.

    Args:
        settings: of the run.
        root: of the archive.
    Raises:
        PackageError: the package cannot be read, or is another one than the run's.
        EngineError: as `open_engine`.
    """

    def __init__(self, settings: ScoringSettings, root: Path) -> None:
        self._settings = settings
        self._root = root
        self._engine = _open_engine(settings)

    def score(self, shard: Shard) -> list[Row]:
        """A row for each image, in order.

        Raises:
            DataError: the archive as a whole is not there any more.
            EngineError: a score or map that is not finite.
        """
        rows: list[Row] = []
        images = shard.images()
        # Tiles of one image already fill the engine.
        step = self._engine.batch if self._settings.tile_overlap is None else 1
        while batch := [_Image(*one) for one in itertools.islice(images, step)]:
            verdicts = iter(
                judge(
                    self._engine,
                    self._readable(batch),
                    threshold=self._settings.threshold,
                    tile_overlap=self._settings.tile_overlap,
                )
            )
            rows += [self._row(image, None if image.reason else next(verdicts)) for image in batch]
        return rows

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _readable(self, batch: Sequence[_Image]) -> Iterator[NDArray[np.uint8]]:
        """The pixels of those that can be read; the others get their reason."""
        for image in batch:
            try:
                pixels = read_image(image.path, self._engine.image_channels, image.content)
            except DataError as error:
                if image.content is None:
                    require_present(self._root)
                image.reason = str(error).removeprefix(f"{image.path}: ")
                continue
            image.shape = pixels.shape[0], pixels.shape[1]
            yield pixels

    def _row(self, image: _Image, verdict: Verdict | None) -> Row:
        if verdict is None:
            return Row(image.name, UNREADABLE, reason=image.reason)
        height, width = image.shape
        return Row(
            path=image.name,
            verdict=DEFECT if verdict.defect else GOOD,
            score=verdict.score,
            exited=verdict.exited,
            width=width,
            height=height,
            boxes=self._boxes(verdict.map, height, width),
            pages_left_out=sum(1 for _ in further_pages_of(image.path, image.content)),
        )

    def _boxes(self, anomaly_map: NDArray[np.float32], height: int, width: int) -> tuple[Box, ...]:
        tracker = self._settings.tracker()
        down, across = height / anomaly_map.shape[0], width / anomaly_map.shape[1]
        boxes = []
        for one in (*tracker.add(anomaly_map, 0), *tracker.finish()):
            left, top = int(one.left * across), int(one.first_line * down)
            right, bottom = (one.left + one.width) * across, (one.first_line + one.lines) * down
            area = max(1, round(one.area * down * across))
            boxes.append(Box(left, top, int(np.ceil(right)) - left, int(np.ceil(bottom)) - top, area, one.peak))
        return tuple(sorted(boxes, key=lambda box: (box.top, box.left)))


def _open_engine(settings: ScoringSettings) -> "Engine":
    import torch

    from prn_fast.engine import open_engine
    from prn_fast.package import Package

    package = Package.open(settings.package)
    if package.digest != settings.digest:
        raise PackageError(f"{settings.package}: is another package than the run was begun with; copy it here again")
    options: dict[str, Any] = {}
    if settings.threads is not None:
        # The process is this scorer's own.
        torch.set_num_threads(settings.threads)
        cv2.setNumThreads(settings.threads)
        if settings.engine.startswith("openvino"):
            options["threads"] = settings.threads
    return open_engine(package, settings.engine, early_exit=settings.early_exit, **options)
