"""An engine over labelled images: figures over all of them, for each kind of defect, and image by image."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from prn_fast.data.image_tiles import cut_image, stitch_maps
from prn_fast.data.images import read_image, resize_image, resize_mask
from prn_fast.data.samples import Sample, load_sample, load_samples
from prn_fast.engine.base import Engine, is_defective, scores_at
from prn_fast.errors import ConfigError, DataError
from prn_fast.kernels.anomaly_score.reference import image_scores
from prn_fast.paths import shown_path
from prn_fast.training.calibration import threshold_for
from prn_fast.training.conformal import allowed_above
from prn_fast.training.metrics import ImageMetrics, PixelMetrics, image_metrics, pixel_metrics

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) after each batch."""


@dataclass(frozen=True)
class ScoredImage:
    """An image with its label and verdict.

    Attributes:
        score: in 0..1, 0.5 at the threshold; see `Detections`.
        defect: the verdict.
        raw_score: the network's own score, 0..1.
    """

    path: Path
    label: int
    kind: str
    score: float
    defect: bool
    raw_score: float

    @classmethod
    def of(cls, sample: Sample, raw_score: float, threshold: float) -> Self:
        """A sample judged by its raw score."""
        score, defect = float(scores_at(raw_score, threshold)), bool(is_defective(raw_score, threshold))
        return cls(sample.path, sample.label, sample.kind, score, defect, raw_score)

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
        detected: those whose raw score reaches the threshold.
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


@dataclass(frozen=True)
class RateCounts:
    """What the threshold for a false-alarm rate does to the images of an evaluation.

    Attributes:
        false_alarm_rate: the target rate.
        threshold: raw score for it, by the package's calibration.
        supported: whether the good images of the calibration are enough to promise the rate.
        detected, defects: defective images, found and in all.
        false_alarms, good: good images, called defective and in all.
    """

    false_alarm_rate: float
    threshold: float
    supported: bool
    detected: int
    defects: int
    false_alarms: int
    good: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of an engine on labelled images.

    Attributes:
        engine: name of the engine.
        image_size: S; pixel figures are taken at the network's resolution, S x S, with masks resized to it.
        threshold: raw score at or above which an image counts as defect.
        pixel_threshold: map value at or above which a pixel counts as defect.
        images: one entry for each image, in the order given.
        image: detection figures over all images.
        pixel: localisation figures over all pixels of all images.
        kinds: one row for each kind of defect, sorted by name.
        maps: float32 (N, S, S), 0..1, in the order of `images`.
        masks: bool (N, S, S).
        rates: the same images at several false-alarm rates, see `at_rates`.
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
    rates: tuple[RateCounts, ...] = ()

    def at_rates(self, calibration: Mapping[str, Any], rates: Sequence[float], pieces: float = 1.0) -> Self:
        """The same evaluation, with counts at several false-alarm rates.

        Args:
            calibration: of the package that was evaluated.
            rates: of images, each above 0.
            pieces: scores that decide about one image, see `judged_pieces`.
        """
        scores = np.array([image.raw_score for image in self.images])
        labels = np.array([image.label for image in self.images], bool)
        rows = []
        for rate in rates:
            threshold = threshold_for(calibration, rate / pieces)
            found = is_defective(scores, threshold)
            rows.append(
                RateCounts(
                    false_alarm_rate=rate,
                    threshold=threshold,
                    supported=allowed_above(calibration["normals"], rate / pieces) > 0,
                    detected=int(found[labels].sum()),
                    defects=int(labels.sum()),
                    false_alarms=int(found[~labels].sum()),
                    good=int((~labels).sum()),
                )
            )
        return replace(self, rates=tuple(rows))

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
        """Good images that are called defective, highest score first."""
        alarms = [image for image in self.images if image.defect and not image.label]
        return tuple(sorted(alarms, key=lambda image: -image.raw_score))

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
            "rates": [rate.to_dict() for rate in self.rates],
            "kinds": [kind.to_dict() for kind in self.kinds],
            "false_alarms": [shown_path(image.path, root) for image in self.false_alarms],
            "images": [{**asdict(image), "path": shown_path(image.path, root)} for image in self.images],
        }


@dataclass(frozen=True, eq=False)
class Verdict:
    """On an image without label: `score`, `defect` and `raw_score` as in `ScoredImage`.

    Attributes:
        map: float32 (S, S), or of the tiled image's shape, 0..1.
        exited: the image left early, see `Detections`; of a tiled image, all its tiles did.
    """

    score: float
    defect: bool
    raw_score: float
    map: NDArray[np.float32]
    exited: bool

    @classmethod
    def of(
        cls, raw_score: float, threshold: float, anomaly_map: NDArray[np.float32], exited: bool, **more: Any
    ) -> Self:
        """An image judged by its raw score; `more` are the fields of a subclass."""
        score, defect = float(scores_at(raw_score, threshold)), bool(is_defective(raw_score, threshold))
        return cls(score, defect, raw_score, anomaly_map, exited, **more)


@dataclass(frozen=True, eq=False)
class Prediction(Verdict):
    """The verdict on the image of a file."""

    path: Path


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
        samples: good images and defects with masks; both must occur. Images that training has seen must not be among
            them.
        threshold: raw score at or above which an image counts as defect.
        pixel_threshold: map value at or above which a pixel counts as defect.
        tile_overlap: None resizes images to the engine's size. With it, each is cut into tiles of that size, which
            overlap by this many pixels; its score is that of the stitched map, and pixel figures are taken on that map
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
    if tile_overlap is None:
        parts = [slice(start, min(start + engine.batch, total)) for start in range(0, total, engine.batch)]

        def batches() -> Iterator[NDArray[np.uint8]]:
            for part in parts:
                images, masks[part] = load_samples(samples[part], side, engine.image_channels)
                yield images

        for part, detections in zip(parts, engine.infer_many(batches()), strict=True):
            scores[part], maps[part] = detections.raw_scores, detections.maps
            if progress:
                progress(part.stop, total)
    else:
        for index, sample in enumerate(samples):
            image, mask = load_sample(sample, engine.image_channels)
            scores[index], stitched, _ = infer_tiles(engine, image, tile_overlap)
            maps[index] = cv2.resize(stitched, (side, side), interpolation=cv2.INTER_AREA)
            if mask is not None:
                masks[index] = resize_mask(mask, side)
            if progress:
                progress(index + 1, total)

    labels = np.array([sample.label for sample in samples], int)
    kinds = np.array([sample.kind for sample in samples], str)
    return Evaluation(
        engine=engine.name,
        image_size=side,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        images=tuple(
            ScoredImage.of(sample, float(score), threshold) for sample, score in zip(samples, scores, strict=True)
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


def infer_tiles(engine: Engine, image: NDArray[np.uint8], overlap: int) -> tuple[float, NDArray[np.float32], bool]:
    """Raw score and map of an image (H, W, C) of any size, from tiles of the engine's size.

    Returns:
        the raw score, by its one definition, of the stitched map; this map, at the image's `tiled_shape`; and whether
        all tiles left early. A tile that left counts by its own score, which is below the threshold, and not by its
        pixels: the screen's map is brought to the scale of the pixel threshold, and the score has another one.
    """
    (found,) = engine.infer_many([cut_image(image, engine.image_size, overlap)])
    shape = image.shape[0], image.shape[1]
    stitched = stitch_maps(found.maps, shape, overlap)
    scored, least = stitched, 0.0
    if found.exited.any():
        scored = stitch_maps(np.where(found.exited[:, None, None], np.float32(0), found.maps), shape, overlap)
        least = float(found.raw_scores[found.exited].max())
    return max(float(image_scores(torch.from_numpy(scored)[None])), least), stitched, bool(found.exited.all())


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
            score, stitched, exited = infer_tiles(engine, read_image(path, engine.image_channels), tile_overlap)
            yield Prediction.of(score, threshold, stitched, exited, path=path)
            if progress:
                progress(done, len(paths))
        return
    images = (resize_image(read_image(path, engine.image_channels), engine.image_size) for path in paths)
    for done, (path, found) in enumerate(zip(paths, engine.infer_many(images), strict=True), start=1):
        raw_score, exited = float(found.raw_scores[0]), bool(found.exited[0])
        yield Prediction.of(raw_score, threshold, found.maps[0], exited, path=path)
        if progress:
            progress(done, len(paths))


def judge(
    engine: Engine, images: Iterable[NDArray[np.uint8]], *, threshold: float, tile_overlap: int | None = None
) -> list[Verdict]:
    """Verdicts on images (H, W, C) uint8 of any size: defective where the score is at or above the threshold.

    Images are resized to the engine's size one after the other, as they come; with `tile_overlap` they are cut into
    tiles, as in `evaluate`.

    Raises:
        EngineError: a score or map that is not finite. ConfigError: a threshold that is not finite.
    """
    _require_thresholds(threshold)
    if tile_overlap is not None:
        found = [infer_tiles(engine, image, tile_overlap) for image in images]
    else:
        side = engine.image_size
        resized = [resize_image(image, side) for image in images]
        if not resized:
            return []
        detections = engine.infer(np.stack(resized))
        found = list(zip(detections.raw_scores.tolist(), detections.maps, detections.exited.tolist(), strict=True))
    return [Verdict.of(raw_score, threshold, anomaly_map, exited) for raw_score, anomaly_map, exited in found]


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
        detected=int(is_defective(scores[of_kind], threshold).sum()),
        image_auroc=image_metrics(scores[chosen], of_kind[chosen].astype(int)).auroc,
        pixel_auroc=pixel.auroc,
        pro=pixel.pro,
    )


def _require_thresholds(*thresholds: float) -> None:
    if not all(math.isfinite(threshold) for threshold in thresholds):
        raise ConfigError(f"a threshold of {thresholds} is not a finite number: every image would count as good")
