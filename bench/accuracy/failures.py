"""The worst of an evaluation as one picture: defects with the lowest scores, good images with the highest."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prn_fast.data.duplicates import NEAR, likeness
from prn_fast.data.layouts import AUTO, load_inspection_set
from prn_fast.data.samples import GOOD, Sample, load_samples
from prn_fast.engine import open_engine
from prn_fast.errors import ConfigError, DataError
from prn_fast.package import Package
from prn_fast.paths import shown_path
from prn_fast.training.evaluation import ScoredImage
from prn_fast.training.sheet import Picture, Shown, draw_sheet, show_image

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "accuracy-failures.jpg"
PER_KIND, CANDIDATES = 3, 24
# The engine is run again on the images that are shown; a score that has changed by more comes from something else.
SCORE_TOLERANCE = 1e-3
MAX_BYTES = 300_000
QUALITIES = (90, 80, 70, 60, 50, 40)


def failure_figures(picture: Path = PICTURE) -> str:
    """The picture for a page beside it; nothing where it has not been drawn."""
    return f"![The worst of each kind: image, mask, anomaly map, outline]({picture.name})" if picture.is_file() else ""


def write_failures(package: Path, evaluation: Path, data: Path, path: Path | None = None) -> str:
    """Draw the worst of an evaluation, whether its verdicts were right or wrong; returns what was drawn, in words.

    Args:
        package: that was evaluated.
        evaluation: evaluation.json of prn-eval.
        data: the images that were evaluated.
        path: a JPEG, at most `MAX_BYTES` large.
    Raises:
        DataError: a file that cannot be read, or images that are not there. ConfigError: the evaluation is of another
        package, or its scores cannot be had again.
    """
    path = path or PICTURE
    opened, result = Package.open(package), _read(evaluation)
    if result["package"]["digest"] != opened.digest:
        raise ConfigError(f"{evaluation}: evaluates another package than {package}; run prn-eval {package} again")
    samples = _samples(opened, data)
    if missing := [image["path"] for image in result["images"] if image["path"] not in samples]:
        raise DataError(
            f"{data}: holds no test image {missing[0]}, which {evaluation} names; give the folder it was of"
        )
    worst = {kind: _worst(result, kind, samples) for kind in _kinds(result)}
    chosen = [image for images in worst.values() for image in images]
    shown = _show(opened, result, chosen, samples)
    rows = {_above(result, kind): [shown[image["path"]] for image in images] for kind, images in worst.items()}
    title = f"{opened.path.name} on {data.resolve().name}, {result['engine']}, commit {result['commit']}"
    note = "panels: image, labelled mask, anomaly map, outline    each row: the worst first, of different parts"
    _write_jpeg(draw_sheet(title, _lines(result), note, rows), path)
    return f"{path}: {len(chosen)} images, {path.stat().st_size / 1000:.0f} kB"


def _read(path: Path) -> dict[str, Any]:
    names = ("package", "engine", "commit", "threshold", "pixel_threshold", "image", "pixel", "confusion", "images")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if missing := [name for name in names if name not in result]:
            raise ValueError(f"it has no {missing[0]!r}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a result of prn-eval: {error}") from None
    return result


def _samples(package: Package, data: Path) -> dict[str, Sample]:
    inspection = load_inspection_set(data, package.manifest["training"].get("layout", AUTO))
    return {shown_path(sample.path, inspection.root): sample for sample in inspection.test}


def _kinds(result: dict[str, Any]) -> list[str]:
    """Good images first, then defects by name."""
    return sorted({image["kind"] for image in result["images"]}, key=lambda kind: (kind != GOOD, kind))


def _worst(result: dict[str, Any], kind: str, samples: dict[str, Sample]) -> list[dict[str, Any]]:
    """Of the worst images those of different parts, so that one part does not fill the row; the others where there are
    no more."""
    images = [image for image in result["images"] if image["kind"] == kind]
    images.sort(key=lambda image: _raw_score(image) if image["label"] else -_raw_score(image))
    images = images[:CANDIDATES]
    found = [samples[image["path"]] for image in images]
    alike = likeness(found, found) >= NEAR
    different: list[int] = []
    for index in range(len(images)):
        if not alike[index, different].any():
            different.append(index)
    others = [index for index in range(len(images)) if index not in different]
    return [images[index] for index in sorted([*different, *others][:PER_KIND])]


def _show(
    package: Package, result: dict[str, Any], chosen: list[dict[str, Any]], samples: dict[str, Sample]
) -> dict[str, Shown]:
    """Maps of the chosen images, from the same engine, by path."""
    with open_engine(package, result["engine"], early_exit=False) as engine:
        images, masks = load_samples(
            [samples[image["path"]] for image in chosen], engine.image_size, engine.image_channels
        )
        detections = engine.infer(images)
    recorded = np.array([_raw_score(image) for image in chosen], np.float32)
    if (change := float(np.abs(detections.raw_scores - recorded).max())) > SCORE_TOLERANCE:
        raise ConfigError(
            f"{package.path}: {result['engine']} now gives scores that differ from the evaluation's by {change:.3f}; "
            "the pictures would show something else: run prn-eval here, without other options"
        )
    return {
        image["path"]: show_image(
            ScoredImage.of(samples[image["path"]], _raw_score(image), result["threshold"]),
            anomaly_map,
            result["pixel_threshold"],
            mask,
        )
        for image, anomaly_map, mask in zip(chosen, detections.maps, masks, strict=True)
    }


def _raw_score(image: dict[str, Any]) -> float:
    """The network's own score, which results of format 1 call "score"."""
    return image.get("raw_score", image["score"])


def _above(result: dict[str, Any], kind: str) -> str:
    images = [image for image in result["images"] if image["kind"] == kind]
    wrong = sum(image["defect"] != bool(image["label"]) for image in images)
    if kind == GOOD:
        return f"{kind}: {wrong} of {len(images)} are false alarms; the highest scores"
    return f"{kind}: {wrong} of {len(images)} are missed; the lowest scores"


def _lines(result: dict[str, Any]) -> list[str]:
    image, pixel, counts = result["image"], result["pixel"], result["confusion"]
    return [
        f"images: AUROC {image['auroc']:.3f}   pixels: AUROC {pixel['auroc']:.3f}   PRO {pixel['pro']:.3f}",
        f"at threshold {result['threshold']:.3f}: {counts['detected']} of {counts['detected'] + counts['missed']} "
        f"defects detected        outline: map at or above {result['pixel_threshold']:.3f}",
    ]


def _write_jpeg(picture: Picture, path: Path) -> None:
    """The best quality that stays below `MAX_BYTES`, or the lowest."""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    path.write_bytes(buffer.getvalue())
