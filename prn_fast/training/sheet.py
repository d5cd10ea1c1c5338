"""Pictures of an evaluation: single panels for a page, and one sheet that a person can judge at a glance."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from prn_fast.data.images import read_image, resize_image
from prn_fast.data.samples import GOOD
from prn_fast.paths import shown_path
from prn_fast.training.evaluation import Evaluation, RateCounts, ScoredImage

Picture = NDArray[np.uint8]

PANEL_NAMES = ("image", "mask", "map", "contour")
COLOUR_MAP = cv2.COLORMAP_INFERNO  # perceptually even, readable without colour vision

_PANEL, _GAP, _BLOCK_GAP, _MARGIN = 152, 3, 22, 28
_TEXT, _SMALL, _LARGE = 15, 13, 24
_CAPTION = 24
_PAPER, _INK, _FAINT = (255, 255, 255), (28, 28, 30), (120, 120, 126)
_RIGHT, _WRONG = (0, 102, 140), (196, 60, 0)  # a blue and an orange that stay apart without colour vision
_CONTOUR = (0, 255, 200)


@dataclass(frozen=True)
class Panels:
    """The four pictures of one image, each uint8 (P, P, 3) RGB.

    Attributes:
        image: the image as the network sees it.
        mask: the labelled defect, white on black; black for a good image.
        map: the anomaly map over the image, on a fixed scale from 0 to 1.
        contour: the image with the outline of map >= pixel threshold.
    """

    image: Picture
    mask: Picture
    map: Picture
    contour: Picture


@dataclass(frozen=True)
class Shown:
    """An image with its verdict, as a sheet shows it."""

    scored: ScoredImage
    panels: Panels


def render_panels(
    image: Picture,
    anomaly_map: NDArray[np.float32],
    pixel_threshold: float,
    mask: NDArray[np.bool_] | None = None,
    side: int = 256,
) -> Panels:
    """Draw one image's panels.

    Args:
        image: uint8 (H, W, 1 or 3).
        anomaly_map: (S, S), 0..1.
        pixel_threshold: map value at or above which a pixel counts as defect.
        mask: bool (S, S) or None for a good image.
        side: P, side of the panels in pixels.
    """
    picture = resize_image(image, side)
    picture = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    values: NDArray[np.float32] = np.asarray(
        cv2.resize(anomaly_map.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR), np.float32
    )
    labelled = np.zeros((side, side), np.uint8) if mask is None else mask.astype(np.uint8) * 255
    truth = cv2.resize(labelled, (side, side), interpolation=cv2.INTER_AREA)
    return Panels(
        image=picture,
        mask=np.repeat(np.asarray(truth, np.uint8)[:, :, None], 3, axis=2),
        map=heat(picture, values),
        contour=_outlined(picture, values >= pixel_threshold),
    )


def heat(picture: Picture, values: NDArray[np.float32]) -> Picture:
    """Colour map over a picture: the higher the value, the less of the picture shows through.

    Args:
        picture: uint8 (H, W, 3) RGB.
        values: (H, W), shown on the fixed scale 0..1; what lies outside is clipped.
    """
    values = np.clip(values, 0.0, 1.0)
    colours = cv2.applyColorMap(np.rint(values * 255).astype(np.uint8), COLOUR_MAP)[:, :, ::-1]
    grey = picture.astype(np.float32).mean(axis=2, keepdims=True)
    opacity = (0.45 + 0.5 * values)[:, :, None]
    return np.rint(grey * (1 - opacity) + colours * opacity).astype(np.uint8)


def choose(images: Sequence[ScoredImage], per_kind: int = 3) -> dict[str, list[ScoredImage]]:
    """Images worth looking at, for each kind; good images come first, then defects by name.

    The worst come first: good images with the highest scores, defects with the lowest. The last place goes to the
    image with the median score, so that the usual case is seen beside the worst.
    """
    chosen = {}
    for kind in sorted({image.kind for image in images}, key=lambda kind: (kind != GOOD, kind)):
        of_kind = [image for image in images if image.kind == kind]
        of_kind.sort(key=lambda image: -image.score if image.label == 0 else image.score)
        worst = of_kind[: max(1, per_kind - 1)]
        usual = of_kind[max(len(of_kind) // 2, len(worst)) :][: per_kind - len(worst)]
        chosen[kind] = worst + usual
    return chosen


def render_sheet(evaluation: Evaluation, title: str, per_kind: int = 3) -> Picture:
    """Draw the sheet: a row for each kind, each image with its panels, score and verdict.

    Args:
        evaluation: figures, maps and masks; the images are read again from their files.
        title: what was evaluated, such as the names of package and engine.
        per_kind: images shown of each kind.
    Returns:
        uint8 (H, W, 3) RGB.
    """
    place = {image.path: index for index, image in enumerate(evaluation.images)}

    def show(scored: ScoredImage) -> Shown:
        index = place[scored.path]
        return show_image(scored, evaluation.maps[index], evaluation.pixel_threshold, evaluation.masks[index])

    rows = {
        _kind_line(evaluation, kind): [show(scored) for scored in images]
        for kind, images in choose(evaluation.images, per_kind).items()
    }
    note = "panels: image, labelled mask, anomaly map, outline    each row: worst first, median last"
    return draw_sheet(title, _figure_lines(evaluation), note, rows)


def show_image(
    scored: ScoredImage,
    anomaly_map: NDArray[np.float32],
    pixel_threshold: float,
    mask: NDArray[np.bool_] | None = None,
) -> Shown:
    """An image with its panels; it is read from its file. Arguments as of `render_panels`."""
    return Shown(scored, render_panels(read_image(scored.path, 3), anomaly_map, pixel_threshold, mask, _PANEL))


def draw_sheet(title: str, lines: Sequence[str], note: str, rows: Mapping[str, Sequence[Shown]]) -> Picture:
    """Draw rows of images below a title.

    Args:
        lines: two or three of them, below the title.
        note: on how to read the sheet.
        rows: images by what stands above them.
    Returns:
        uint8 (H, W, 3) RGB.
    """
    columns = max(len(images) for images in rows.values())
    block_width = len(PANEL_NAMES) * _PANEL + (len(PANEL_NAMES) - 1) * _GAP
    row_height = _CAPTION + _PANEL + _BLOCK_GAP + 30
    width = 2 * _MARGIN + columns * block_width + (columns - 1) * _BLOCK_GAP
    header = 86 + 21 * len(lines)
    sheet = Image.new("RGB", (width, header + len(rows) * row_height + _MARGIN // 2), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_header(sheet, draw, title, [*lines, note])
    for row, (above, images) in enumerate(rows.items()):
        top = header + row * row_height
        draw.text((_MARGIN, top), above, _INK, _font(_TEXT + 2))
        for column, shown in enumerate(images):
            left = _MARGIN + column * (block_width + _BLOCK_GAP)
            _draw_block(sheet, draw, (left, top + 28), shown.scored, shown.panels)
    return np.asarray(sheet)


def write_sheet(evaluation: Evaluation, file: Path, title: str, per_kind: int = 3) -> None:
    """Draw the sheet and write it as PNG."""
    file.write_bytes(_png(render_sheet(evaluation, title, per_kind)))


def _figure_lines(evaluation: Evaluation) -> list[str]:
    figures, pixels, counts = evaluation.image, evaluation.pixel, evaluation.confusion
    return [
        f"images: AUROC {figures.auroc:.3f}   AP {figures.average_precision:.3f}   "
        f"F1-max {figures.f1_max:.3f}        "
        f"pixels: AUROC {pixels.auroc:.3f}   AP {pixels.average_precision:.3f}   PRO {pixels.pro:.3f}",
        f"score 0.5 (raw {evaluation.threshold:.3f}): {counts.detected} of {counts.detected + counts.missed} "
        f"defects detected, {counts.false_alarms} of {counts.false_alarms + counts.passed} good images "
        f"false alarms        outline: map at or above {evaluation.pixel_threshold:.3f}",
        *([_rates_line(evaluation.rates)] if evaluation.rates else []),
    ]


def _rates_line(rates: Sequence[RateCounts]) -> str:
    rows = (
        f"{one.false_alarm_rate:.1%}{'' if one.supported else '*'}: {one.detected / one.defects:.0%} detected, "
        f"{one.false_alarms / one.good:.1%} alarms"
        for one in rates
    )
    extrapolated = "" if all(one.supported for one in rates) else "    (* extrapolated)"
    return f"by false-alarm rate    {'    '.join(rows)}{extrapolated}"


def _draw_header(sheet: Image.Image, draw: ImageDraw.ImageDraw, title: str, lines: Sequence[str]) -> None:
    draw.text((_MARGIN, 20), title, _INK, _font(_LARGE))
    for number, line in enumerate(lines):
        draw.text((_MARGIN, 56 + 21 * number), line, _FAINT if number == len(lines) - 1 else _INK, _font(_TEXT))
    _draw_scale(sheet, draw)


def _draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    width, height = 220, 16
    left, top = sheet.width - _MARGIN - width, 28
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    sheet.paste(Image.fromarray(heat(np.full((height, width, 3), 128, np.uint8), ramp)), (left, top))
    for value, anchor in ((0.0, "lt"), (0.5, "mt"), (1.0, "rt")):
        x = left + round(value * (width - 1))
        draw.text((x, top + height + 5), f"{value:g}", _INK, _font(_SMALL), anchor)
    draw.text((left - 10, top + height // 2), "anomaly map", _INK, _font(_SMALL), anchor="rm")


def _draw_block(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    scored: ScoredImage,
    panels: Panels,
) -> None:
    left, top = corner
    width = len(PANEL_NAMES) * (_PANEL + _GAP) - _GAP
    colour = _RIGHT if scored.correct else _WRONG
    draw.rectangle((left - 3, top, left + width + 2, top + _CAPTION + _PANEL + 2), fill=colour)
    draw.text((left + 4, top + _CAPTION // 2), f"{scored.score:.3f}  {outcome(scored)}", _PAPER, _font(_TEXT), "lm")
    name = textwrap.shorten(shown_path(scored.path.name), 44, placeholder="…")
    draw.text((left + width - 4, top + _CAPTION // 2), name, _PAPER, _font(_SMALL), "rm")
    for number, panel in enumerate(PANEL_NAMES):
        corner_of_panel = (left + number * (_PANEL + _GAP), top + _CAPTION)
        sheet.paste(Image.fromarray(getattr(panels, panel)), corner_of_panel)


def outcome(image: ScoredImage) -> str:
    """The outcome in words: detected, missed, passed or false alarm."""
    if image.label:
        return "detected" if image.defect else "MISSED"
    return "FALSE ALARM" if image.defect else "passed"


def _kind_line(evaluation: Evaluation, kind: str) -> str:
    for row in evaluation.kinds:
        if row.kind == kind:
            return (
                f"{kind}: {row.detected} of {row.count} detected, image AUROC {row.image_auroc:.3f}, "
                f"pixel AUROC {row.pixel_auroc:.3f}, PRO {row.pro:.3f}"
            )
    counts = evaluation.confusion
    return f"{kind}: {counts.false_alarms} of {counts.false_alarms + counts.passed} false alarms"


def _outlined(picture: Picture, found: NDArray[np.bool_]) -> Picture:
    contours, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = picture.copy()
    # A dark line below the bright one keeps it visible on any surface.
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), 3)
    cv2.drawContours(drawn, contours, -1, _CONTOUR, 1)
    return drawn


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
