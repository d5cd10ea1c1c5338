"""An engine over labelled images: figures over all of them, for each kind of defect, and image by image."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.data.image_tiles import cut_image, stitch_maps
from prn_fast.data.images import read_image, resize_image, resize_mask
from prn_fast.data.samples import Sample, load_sample, load_samples
from prn_fast.engine.base import Engine
from prn_fast.errors import ConfigError, DataError
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.training.metrics import ImageMetrics, PixelMetrics, image_metrics, pixel_metrics

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after each batch."""


@dataclass(frozen=True)
class ScoredImage:
    """An image with its label, its score in 0..1, and the verdict: `defect` where score >= threshold."""

    path: Path
    label: int
    kind: str
    score: float
    defect: bool

    @property
    def correct(self) -> bool:
        """Whether the verdict agrees with the label."""
        return self.defect == bool(self.label)


@dataclass(frozen=True)
class Confusion:
    """Counts of images at the threshold."""

    detected: int
    missed: int
    passed: int
    false_alarms: int

    def to_dict(self) -> dict[str, int]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class KindMetrics:
    """One kind of defect against all good images; figures as in `ImageMetrics` and `PixelMetrics`.

    Attributes:
        count: images of this kind.
        detected: those with a score at or above the threshold.
    """

    kind: str
    count: int
    detected: int
    image_auroc: float
    pixel_auroc: float
    pro: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an engine made of labelled images.

    Attributes:
        engine: name of the engine.
        image_size: S; pixel figures are taken at the network's resolution, S x S, with masks resized to it.
        threshold: image score at or above which an image counts as defect.
        pixel_threshold: map value at or above which a pixel counts as defect.
        images: one entry an image, in the order given.
        image: detection figures over all images.
        pixel: localisation figures over all pixels of all images.
        kinds: one row a kind of defect, sorted by name.
        maps: float32 (N, S, S), 0..1, in the order of `images`.
        masks: bool (N, S, S).
    """

    engine: str
    image_size: int
    threshold: float
    pixel_threshold: float
    images: tuple[ScoredImage, ...]
    image: ImageMetrics
    pixel: PixelMetrics
    kinds: tuple[KindMetrics, ...]
    maps: NDArray[np.float32]
    masks: NDArray[np.bool_]

    @property
    def confusion(self) -> Confusion:
        """Counts at the threshold."""
        defects = [image for image in self.images if image.label]
        detected = sum(image.defect for image in defects)
        good = len(self.images) - len(defects)
        alarms = len(self.false_alarms)
        return Confusion(detected, len(defects) - detected, good - alarms, alarms)

    @property
    def false_alarms(self) -> tuple[ScoredImage, ...]:
        """Good images at or above the threshold, highest score first."""
        alarms = [image for image in self.images if image.defect and not image.label]
        return tuple(sorted(alarms, key=lambda image: -image.score))

    def to_dict(self, root: Path | None = None) -> dict[str, Any]:
        """JSON-ready figures and scores, without maps and masks; paths relative to `root` where they lie in it."""
        return {
            "engine": self.engine,
            "image_size": self.image_size,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "image": self.image.to_dict(),
            "pixel": {**self.pixel.to_dict(), "resolution": [self.image_size, self.image_size]},
            "confusion": self.confusion.to_dict(),
            "kinds": [kind.to_dict() for kind in self.kinds],
            "false_alarms": [shown_path(image.path, root) for image in self.false_alarms],
            "images": [{**asdict(image), "path": shown_path(image.path, root)} for image in self.images],
        }


@dataclass(frozen=True, eq=False)
class Prediction:
    """Verdict on an image without label; `map` is float32 (S, S), or of the tiled image's shape, 0..1."""

    path: Path
    score: float
    defect: bool
    map: NDArray[np.float32]


def evaluate(
    engine: Engine,
    samples: Sequence[Sample],
    *,
    threshold: float,
    pixel_threshold: float,
    tile_overlap: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Run an engine over labelled images, batch by batch, and take all figures.

    Args:
        engine: an open engine; it stays open.
        samples: good images and defects with masks; both must occur. What training has seen must not be here.
        threshold: image score at or above which an image counts as defect.
        pixel_threshold: map value at or above which a pixel counts as defect.
        tile_overlap: None resizes images to the engine's size. With it, each is cut into tiles of that size, which
            overlap by so many pixels; its score is that of the stitched map, and pixel figures are taken on that map
            resized to the engine's size, so that they compare with those of resized images.
        progress: called after each batch.
    Raises:
        DataError: no samples, no good or no defect images, a defect without mask, or unreadable files.
        EngineError: the engine refuses the images, or gives values that are not finite.
        ConfigError: a threshold that is not finite.
    """
    _require_thresholds(threshold, pixel_threshold)
    for sample in samples:
        if sample.label and sample.mask is None:
            raise DataError(f"{sample.path}: a defect without mask; pixel figures need one for every defect")

    side, total = engine.image_size, len(samples)
    scores = np.empty(total, np.float32)
    maps = np.empty((total, side, side), np.float32)
    masks = np.zeros((total, side, side), bool)
    step = engine.batch if tile_overlap is None else 1
    for start in range(0, total, step):
        part = slice(start, start + step)
        if tile_overlap is None:
            images, masks[part] = load_samples(samples[part], side, engine.image_channels)
            detections = engine.infer(images)
            scores[part], maps[part] = detections.scores, detections.maps
        else:
            image, mask = load_sample(samples[start], engine.image_channels)
            scores[start], stitched = infer_tiles(engine, image, tile_overlap)
            maps[start] = cv2.resize(stitched, (side, side), interpolation=cv2.INTER_AREA)
            if mask is not None:
                masks[start] = resize_mask(mask, side)
        if progress:
            progress(min(part.stop, total), total)

    labels = np.array([sample.label for sample in samples], int)
    kinds = np.array([sample.kind for sample in samples], str)
    return Evaluation(
        engine=engine.name,
        image_size=side,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        images=tuple(
            ScoredImage(sample.path, sample.label, sample.kind, float(score), bool(score >= threshold))
            for sample, score in zip(samples, scores, strict=True)
        ),
        image=image_metrics(scores, labels),
        pixel=pixel_metrics(maps, masks),
        kinds=tuple(
            _kind_metrics(str(kind), kinds == kind, labels == 0, scores, maps, masks, threshold)
            for kind in np.unique(kinds[labels == 1])
        ),
        maps=maps,
        masks=masks,
    )


def infer_tiles(engine: Engine, image: NDArray[np.uint8], overlap: int) -> tuple[float, NDArray[np.float32]]:
    """Score and map of an image (H, W, C) of any size, from tiles of the engine's size.

    Returns:
        the score, by its one definition, of the stitched map; and this map, at the image's `tiled_shape`.
    """
    maps = engine.infer(cut_image(image, engine.image_size, overlap)).maps
    stitched = stitch_maps(maps, (image.shape[0], image.shape[1]), overlap)
    return float(image_scores(torch.from_numpy(stitched)[None])), stitched


def predict(
    engine: Engine,
    paths: Sequence[Path],
    *,
    threshold: float,
    tile_overlap: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Prediction]:
    """Verdicts on images without labels, in the order given; one batch at a time is in memory.

    With `tile_overlap`, images are cut into tiles, as in `evaluate`.

    Raises:
        DataError: an unreadable image. EngineError: a score or map that is not finite. ConfigError: a threshold
        that is not finite.
    """
    _require_thresholds(threshold)
    if tile_overlap is not None:
        for done, path in enumerate(paths, start=1):
            score, stitched = infer_tiles(engine, read_image(path, engine.image_channels), tile_overlap)
            yield Prediction(path, score, score >= threshold, stitched)
            if progress:
                progress(done, len(paths))
        return
    for start in range(0, len(paths), engine.batch):
        part = paths[start : start + engine.batch]
        images = [resize_image(read_image(path, engine.image_channels), engine.image_size) for path in part]
        detections = engine.infer(np.stack(images))
        for path, score, anomaly_map in zip(part, detections.scores, detections.maps, strict=True):
            yield Prediction(path, float(score), bool(score >= threshold), anomaly_map)
        if progress:
            progress(start + len(part), len(paths))


def leave_out_seen(
    samples: Sequence[Sample], root: Path, seen: Sequence[str]
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Part samples that training has seen from those that may be scored.

    Args:
        samples: test samples below `root`.
        root: root folder of the inspection set.
        seen: paths relative to `root`, with forward slashes, as the package's manifest lists them.
    Returns:
        (rest, left_out), each in the order of `samples`.
    """
    names = set(seen)
    left_out = tuple(s for s in samples if s.path.relative_to(root).as_posix() in names)
    rest = tuple(s for s in samples if s.path.relative_to(root).as_posix() not in names)
    return rest, left_out


def shown_path(path: Path, root: Path | None) -> str:
    """The path with forward slashes, relative to `root` where it lies in it."""
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else path.as_posix()


def _kind_metrics(
    kind: str,
    of_kind: NDArray[np.bool_],
    good: NDArray[np.bool_],
    scores: NDArray[np.float32],
    maps: NDArray[np.float32],
    masks: NDArray[np.bool_],
    threshold: float,
) -> KindMetrics:
    chosen = of_kind | good
    pixel = pixel_metrics(maps[chosen], masks[chosen])
    return KindMetrics(
        kind=kind,
        count=int(of_kind.sum()),
        detected=int((scores[of_kind] >= threshold).sum()),
        image_auroc=image_metrics(scores[chosen], of_kind[chosen].astype(int)).auroc,
        pixel_auroc=pixel.auroc,
        pro=pixel.pro,
    )


def _require_thresholds(*thresholds: float) -> None:
    if not all(math.isfinite(threshold) for threshold in thresholds):
        raise ConfigError(f"a threshold of {thresholds} is not a finite number: every image would count as good")
