"""Calibration of a package with images of its line; nothing is trained, engines stay as they are."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prn_fast.data.images import read_image, resize_image
from prn_fast.data.samples import Sample
from prn_fast.engine.base import Engine, is_defective
from prn_fast.engine.parity import score_kind
from prn_fast.errors import ConfigError, DataError
from prn_fast.package import Package
from prn_fast.training.calibration import Scored, calibration_entry, tile_overlap
from prn_fast.training.conformal import (
    MAX_FALSE_ALARM_RATE,
    allowed_above,
    default_rate,
    lowest_rate,
    needed_normals,
    require_rate,
    share_interval,
    too_few,
)
from prn_fast.training.evaluation import Progress, infer_tiles

# Entries that do not depend on the threshold of images: they stay as training set them.
_KEPT = ("pixel_threshold", "f1_threshold")


@dataclass(frozen=True, eq=False)
class LineImages:
    """Good and defective images of a line.

    Attributes:
        good: files of good images, each picture once.
        defects: defective images, with their kinds; may be empty.
        repeated: files of `good` that were left out, since another one is a copy.
        seen: defective images that were left out, since training has seen them.
    """

    good: tuple[Path, ...]
    defects: tuple[Sample, ...] = ()
    repeated: tuple[Path, ...] = ()
    seen: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class LineCalibration:
    """A calibration, and the scores that it rests on.

    Attributes:
        entry: for `Package.recalibrate`.
        good_scores: (n,) raw scores of good images.
        defect_scores: (m,) raw scores of defective images.
        kinds: (m,) kinds of the defective images.
    """

    entry: dict[str, Any]
    good_scores: NDArray[np.float32]
    defect_scores: NDArray[np.float32]
    kinds: tuple[str, ...]


def choose_images(package: Package, good: Sequence[Path], defects: Sequence[Sample]) -> LineImages:
    """Leave out what would make a calibration look better than it is: copies, and defects that training has seen.

    Raises:
        DataError: a file is among the good and the defective ones, or an unreadable file.
    """
    marks = {path: _mark(path) for path in (*good, *(sample.path for sample in defects))}
    first: dict[str, Path] = {}
    for path in good:
        first.setdefault(marks[path], path)
    for sample in defects:
        if marks[sample.path] in first:
            raise DataError(
                f"{sample.path}: the same picture as {first[marks[sample.path]]}, which is given as good; "
                "remove it from one of the two folders"
            )
    training = package.manifest["training"]
    known = {one.get("sha256") for one in training.get("seen_fingerprints") or ()}
    return LineImages(
        good=tuple(first.values()),
        defects=tuple(sample for sample in defects if marks[sample.path] not in known),
        repeated=tuple(path for path in good if first[marks[path]] != path),
        seen=tuple(sample.path for sample in defects if marks[sample.path] in known),
    )


def require_supported(images: int, false_alarm_rate: float | None) -> None:
    """A ConfigError if these good images are too few to promise a false-alarm rate; says how many it takes."""
    if false_alarm_rate is None:
        if lowest_rate(images) > MAX_FALSE_ALARM_RATE:
            raise ConfigError(
                f"{images} good images can promise no false-alarm rate below {lowest_rate(images):.2g}; it takes "
                f"{needed_normals(0.1)} for 10 %, {needed_normals(0.05)} for 5 %, {needed_normals(0.01)} for 1 %"
            )
        return
    require_rate(false_alarm_rate)
    if not allowed_above(images, false_alarm_rate):
        raise ConfigError(too_few(images, false_alarm_rate))


def calibrate_on_line(
    package: Package,
    engine: Engine,
    images: LineImages,
    false_alarm_rate: float | None,
    source: str,
    progress: Progress | None = None,
) -> LineCalibration:
    """Calibrate a package with images of a line.

    Args:
        package: its present calibration gives what these images do not show, such as the pixel threshold.
        engine: of the package, opened without early exit.
        images: as `choose_images` returns them.
        false_alarm_rate: of good images, at least 1 / (n + 1); None takes `default_rate`.
        source: where the images come from, for the manifest.
        progress: called after each batch.
    Raises:
        ConfigError: too few images to promise the rate, too many good images with the highest score, or an engine with
            early exit.
        DataError: an unreadable image, or good images that training has seen.
        EngineError: a score that is not finite.
    """
    require_supported(len(images.good), false_alarm_rate)
    if engine.leaves_early:
        raise ConfigError(
            f"{engine.name}: images leave early, and have the screen's scores then, which set no threshold for the "
            "network; calibrate with an engine that runs all images whole (early_exit=False)"
        )
    total = len(images.good) + len(images.defects)
    good = score_images(package, engine, images.good, progress, 0, total)
    require_unseen(package, images.good, good.images)
    paths = [sample.path for sample in images.defects]
    defects = score_images(package, engine, paths, progress, len(images.good), total)
    kinds = tuple(sample.kind for sample in images.defects)
    entry = line_entry(package, good, defects.raw_scores, kinds, false_alarm_rate, source)
    return LineCalibration(entry, good.raw_scores, defects.raw_scores, kinds)


def line_entry(
    package: Package,
    good: Scored,
    defect_scores: NDArray[np.float32],
    kinds: Sequence[str],
    false_alarm_rate: float | None,
    source: str,
) -> dict[str, Any]:
    """The manifest's entry of a calibration with scored images; arguments and errors as of `calibrate_on_line`."""
    rate = default_rate(len(good.raw_scores)) if false_alarm_rate is None else false_alarm_rate
    entry = calibration_entry(good, defect_scores, rate, source=source, defects="real")
    if is_defective(good.raw_scores, entry["threshold"]).sum() >= max(1, allowed_above(len(good.raw_scores), rate)):
        raise ConfigError(
            f"{package.path}: no threshold keeps a false-alarm rate of {rate:.2g}: too many good images have the "
            "highest score there is; look at their anomaly maps (prn-eval --images), and train on such images"
        )
    before = package.manifest["calibration"]
    entry |= {name: before[name] for name in _KEPT if name in before}
    if tile_overlap(package) is not None:
        entry["per_image"] = True
    entry["kinds"] = kind_counts(defect_scores, kinds, entry["threshold"])
    return entry


def kind_counts(
    defect_scores: NDArray[np.floating], kinds: Sequence[str], threshold: float
) -> dict[str, dict[str, int | float]]:
    """Detected defects of each kind, with the 95 % interval of their share."""
    found, names = is_defective(defect_scores, threshold), np.array(kinds, str)
    counts: dict[str, dict[str, int | float]] = {}
    for kind in sorted(set(kinds)):
        detected, defects = int(found[names == kind].sum()), int((names == kind).sum())
        low, high = share_interval(detected, defects)
        counts[kind] = {"detected": detected, "defects": defects, "low": low, "high": high}
    return counts


def score_images(
    package: Package,
    engine: Engine,
    paths: Sequence[Path],
    progress: Progress | None = None,
    done: int = 0,
    total: int | None = None,
) -> Scored:
    """Raw scores of image files, and the images at the network's size, in the order given.

    A package trained on tiles scores the stitched map of each image's tiles.

    Args:
        done, total: files that `progress` counts besides these.
    """
    side, channels, overlap = engine.image_size, engine.image_channels, tile_overlap(package)
    pixels = np.empty((len(paths), side, side, channels), np.uint8)
    scores = np.empty(len(paths), np.float32)
    step = engine.batch if overlap is None else 1
    for start in range(0, len(paths), step):
        part = slice(start, min(start + step, len(paths)))
        read = [read_image(path, channels) for path in paths[part]]
        pixels[part] = [resize_image(image, side) for image in read]
        if overlap is None:
            scores[part] = engine.infer(pixels[part]).raw_scores
        else:
            scores[start], *_ = infer_tiles(engine, read[0], overlap)
        if progress is not None:
            progress(done + part.stop, len(paths) if total is None else total)
    return Scored(pixels, scores, score_kind(engine))


def require_unseen(package: Package, paths: Sequence[Path], images: NDArray[np.uint8]) -> None:
    """A DataError where good images are among those of the training that the package keeps."""
    known = {image.tobytes() for image in package.calibration_images()}
    trained = [path for path, image in zip(paths, images, strict=True) if image.tobytes() in known]
    if trained:
        raise DataError(
            f"{trained[0]}: training has seen this image{f' and {len(trained) - 1} others' if trained[1:] else ''}, "
            "so it scores lower than new parts will; give good images that training has not seen"
        )


def _mark(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def describe_detection(entry: Mapping[str, Any]) -> str | None:
    """Detection of a calibration's defects at its threshold, with its interval; None without defects."""
    row = next((one for one in entry["detection"] if one["false_alarm_rate"] == entry["false_alarm_rate"]), None)
    if row is None:
        return None
    return (
        f"detected: {row['detected']} of {row['defects']} defects ({row['detected'] / row['defects']:.0%}, "
        f"95 % interval {row['low']:.0%} to {row['high']:.0%})"
    )
