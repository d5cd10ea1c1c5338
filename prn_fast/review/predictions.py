"""What there is to review: the predictions of prn-eval, prn-score or prn-inspect, worst first."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prn_fast.data.folders import list_folder
from prn_fast.data.images import image_size
from prn_fast.errors import ConfigError, DataError, printable
from prn_fast.extras import require_extra
from prn_fast.linescan.defects import CROP_MARGIN, Severity
from prn_fast.linescan.sinks.crops import MAPS
from prn_fast.paths import shown_path

PREDICTIONS, RUN = "predictions.jsonl", "run.json"
DEFAULT_PIXEL_THRESHOLD = 0.5
_CROP = re.compile(r"line(\d+)-x(\d+)-(minor|major|critical)(-\d+)?\.png")


@dataclass(frozen=True)
class Rectangle:
    """A part of an image, pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Predicted:
    """An image and what was made of it.

    Attributes:
        name: of the image within its folder, with forward slashes; no two are the same.
        path: of the image.
        score: in 0..1; None where the prediction has none.
        verdict: such as "good", "defect", "unreadable" or a severity.
        map: file of the anomaly map, 0 to 255 for 0 to 1; None where there is none.
        boxes: of the regions that were found, where there is no map.
        reason: why it cannot be reviewed; empty if it can.
    """

    name: str
    path: Path
    score: float | None
    verdict: str
    map: Path | None = None
    boxes: tuple[Rectangle, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a folder holds.

    Attributes:
        title: for people.
        items: worst first: by score, highest first; those without a score by severity; what cannot be shown last.
        pixel_threshold: of the anomaly maps, for outlines and proposed masks.
        notes: for people.
    """

    title: str
    items: tuple[Predicted, ...]
    pixel_threshold: float
    notes: tuple[str, ...] = ()


def read_predictions(folder: Path, images: Path | None = None, pixel_threshold: float | None = None) -> Predictions:
    """Read a folder that prn-eval --images, prn-score or prn-inspect --crops has written.

    Args:
        folder: with predictions.jsonl, part-*.parquet, or pictures of defects.
        images: the folder that the predictions' paths are in; None takes what the predictions say.
        pixel_threshold: None takes what the predictions say, or else 0.5.
    Raises:
        DataError: none of these is there, or a file is damaged, or none of the images is where it is said to be.
        ConfigError: `images` is missing where the predictions do not say it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the output of prn-eval --images, prn-score or prn-inspect")
    run = _read_run(folder)
    notes = []
    if (folder / PREDICTIONS).is_file():
        items = _of_rows(_json_rows(folder / PREDICTIONS), _image_folder(folder, images, run), folder)
    elif parts := sorted(folder.glob("part-*.parquet")):
        items = _of_rows(_parquet_rows(parts), _image_folder(folder, images, run), folder)
    else:
        items = _of_crops(folder)
    if not items:
        raise DataError(f"{folder}: no predictions and no pictures of defects in it")
    if all(one.reason for one in items):
        raise DataError(
            f"{items[0].path}: {items[0].reason}, like all {len(items)} images; give their folder with --images"
        )
    names: set[str] = set()
    for one in items:
        if one.name in names:
            raise DataError(f"{folder}: has two predictions of {printable(one.name)}; run the prediction again")
        names.add(one.name)
    threshold = run.get("pixel_threshold") if pixel_threshold is None else pixel_threshold
    if threshold is None:
        threshold = DEFAULT_PIXEL_THRESHOLD
        if any(one.map for one in items):
            notes.append(f"the pixel threshold is not known; outlines are drawn at {threshold}")
    if not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise ConfigError(f"the pixel threshold is {threshold!r}; it lies above 0 and below 1")
    ordered = sorted(items, key=_worst_first)
    return Predictions(shown_path(folder.resolve().name), tuple(ordered), float(threshold), tuple(notes))


def _worst_first(one: Predicted) -> tuple[bool, bool, float, str]:
    severities = [str(severity) for severity in Severity]
    rank = one.score if one.score is not None else severities.index(one.verdict) if one.verdict in severities else 0
    return bool(one.reason), one.score is None, -rank, one.name


def _read_run(folder: Path) -> dict[str, Any]:
    """What prn-eval says of its run; nothing for other folders and those of earlier versions."""
    file = folder / RUN
    if not file.is_file():
        return {}
    try:
        run = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({printable(str(error))})") from None
    if not isinstance(run, dict):
        raise DataError(f"{file}: is not what prn-eval writes")
    return run


def _image_folder(folder: Path, images: Path | None, run: dict[str, Any]) -> Path:
    if images is None and isinstance(run.get("images"), str):
        images = Path(run["images"])
    if images is None:
        raise ConfigError(f"{folder}: does not say where its images are; give their folder with --images DIR")
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; give the folder of the images with --images DIR")
    return images


def _json_rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file}: cannot be read ({printable(str(error))})") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            # Of a run that was killed, the last line may be a half one.
            if number == len(lines):
                break
            row = None
        rows.append(_checked(row, f"{file}: line {number}"))
    return rows


def _parquet_rows(files: list[Path]) -> list[dict[str, Any]]:
    require_extra("linescan", "pyarrow")
    import pyarrow
    import pyarrow.parquet

    rows = []
    for file in files:
        try:
            found = pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: cannot be read ({printable(str(error))})") from None
        rows += [_checked(row, f"{file}: row {number}") for number, row in enumerate(found, 1)]
    return rows


def _checked(row: Any, place: str) -> dict[str, Any]:
    """A row whose values make sense; a score that is not a number is none."""
    if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"]:
        raise DataError(f"{place}: is not a prediction; run prn-eval --images or prn-score again")
    if ".." in PurePosixPath(row["path"]).parts or not _is_inside(row.get("map")):
        raise DataError(f"{place}: names a file outside of its folder")
    score = row.get("score")
    if score is not None and not (isinstance(score, int | float) and math.isfinite(score) and 0 <= score <= 1):
        raise DataError(f"{place}: has the score {printable(str(score))}, which is not in 0 to 1")
    return row


def _is_inside(name: Any) -> bool:
    """Whether a map's name leads to no other folder; true where there is no map."""
    if not isinstance(name, str):
        return True
    return ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute()


def _of_rows(rows: list[dict[str, Any]], images: Path, folder: Path) -> list[Predicted]:
    items = []
    for row in rows:
        path = images / row["path"]
        map_file = folder / row["map"] if isinstance(row.get("map"), str) else None
        boxes = tuple(
            Rectangle(*(int(box[name]) for name in ("left", "top", "width", "height")))
            for box in row.get("boxes") or ()
        )
        reason = row.get("reason") or ("" if path.is_file() else "file not found")
        has_map = map_file is not None and map_file.is_file()
        items.append(
            Predicted(
                row["path"],
                path,
                row.get("score"),
                str(row.get("verdict") or ""),
                map_file if has_map else None,
                boxes,
                reason,
            )
        )
    return items


def _of_crops(folder: Path) -> list[Predicted]:
    """Pictures of defects, as prn-inspect --crops writes them."""
    found: list[Predicted] = []
    for path in list_folder(folder, below=False).images:
        match = _CROP.fullmatch(path.name)
        if match is None:
            continue
        map_file = folder / MAPS / path.name
        has_map = map_file.is_file()
        found.append(
            Predicted(
                path.name, path, None, match[3], map_file if has_map else None, () if has_map else _inner_box(path)
            )
        )
    return found


def _inner_box(path: Path) -> tuple[Rectangle, ...]:
    """The defect within its picture, which shows a margin around it."""
    try:
        height, width = image_size(path)
    except DataError:
        return ()
    box = Rectangle(CROP_MARGIN, CROP_MARGIN, width - 2 * CROP_MARGIN, height - 2 * CROP_MARGIN)
    return (box,) if box.width > 0 and box.height > 0 else ()
