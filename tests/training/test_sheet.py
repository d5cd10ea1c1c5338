"""What the pictures show: colours, outlines, the choice of images, and the sheet's layout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.images import write_image
from prn_fast.training import sheet
from prn_fast.training.evaluation import Evaluation, KindMetrics, RateCounts, ScoredImage
from prn_fast.training.metrics import ImageMetrics, PixelMetrics
from prn_fast.training.sheet import choose, heat, outcome, render_panels, render_sheet, write_sheet

SIDE = 64


def scored(kind: str, score: float, threshold: float = 0.5) -> ScoredImage:
    return ScoredImage(Path(f"{kind}_{score}.png"), int(kind != "good"), kind, score, score >= threshold, score)


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    rng = np.random.default_rng(0)
    scores = {"good": (0.1, 0.2, 0.3, 0.9), "crack": (0.2, 0.6, 0.7, 0.8), "spot": (0.95,)}
    images, maps, masks = [], [], []
    for kind, values in scores.items():
        for score in values:
            path = tmp_path / f"{kind}_{score}.png"
            write_image(path, rng.integers(60, 120, (50, 80, 1), np.uint8))
            mask = np.zeros((SIDE, SIDE), bool)
            mask[20:40, 20:40] = kind != "good"
            images.append(ScoredImage(path, int(kind != "good"), kind, score, score >= 0.5, score))
            masks.append(mask)
            maps.append(np.where(mask, score, 0.05).astype(np.float32))
    return Evaluation(
        engine="openvino:int8",
        image_size=SIDE,
        threshold=0.5,
        pixel_threshold=0.4,
        images=tuple(images),
        image=ImageMetrics(0.9, 0.9, 0.9, 0.5),
        pixel=PixelMetrics(0.9, 0.9, 0.9, 5),
        kinds=(KindMetrics("crack", 4, 3, 0.9, 0.9, 0.9), KindMetrics("spot", 1, 1, 1.0, 1.0, 1.0)),
        maps=np.stack(maps),
        masks=np.stack(masks),
    )


def test_worst_mistakes_first_and_median_last() -> None:
    images = [scored("good", s) for s in (0.1, 0.7, 0.3, 0.2, 0.6)]
    images += [scored("crack", s) for s in (0.9, 0.2, 0.5, 0.8, 0.1)]
    chosen = choose(images, per_kind=3)
    assert list(chosen) == ["good", "crack"]
    assert [image.score for image in chosen["good"]] == [0.7, 0.6, 0.3]
    assert [image.score for image in chosen["crack"]] == [0.1, 0.2, 0.5]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("per_kind", [1, 2, 3, 5])
def test_choice_has_no_repeats_and_every_kind(count: int, per_kind: int) -> None:
    images = [scored(kind, (i + 1) / 10) for kind in ("spot", "good", "crack") for i in range(count)]
    chosen = choose(images, per_kind)
    assert list(chosen) == ["good", "crack", "spot"]
    for of_kind in chosen.values():
        assert 1 <= len(of_kind) <= per_kind
        assert len({image.score for image in of_kind}) == len(of_kind)
    assert chosen["good"][0].score == max(image.score for image in images)
    assert chosen["spot"][0].score == min(image.score for image in images)


def test_heat_has_one_scale_for_all_images() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    low = heat(grey, np.full((8, 8), 0.3, np.float32))
    mixed = heat(grey, np.linspace(0.3, 1.0, 64, dtype=np.float32).reshape(8, 8))
    np.testing.assert_array_equal(low[0, 0], mixed[0, 0])


def test_heat_gets_brighter_with_the_value() -> None:
    grey = np.full((1, 101, 3), 100, np.uint8)
    ramp = heat(grey, np.linspace(0, 1, 101, dtype=np.float32)[None]).astype(float)
    luminance = ramp[0] @ (0.2126, 0.7152, 0.0722)
    assert luminance[-1] > 3 * luminance[0]
    assert (np.diff(luminance[20:]) > -0.5).all()


def test_outline_lies_at_the_pixel_threshold() -> None:
    values = np.zeros((SIDE, SIDE), np.float32)
    values[16:48, 16:48] = 0.6
    image = np.full((SIDE, SIDE, 1), 90, np.uint8)
    below = render_panels(image, values, pixel_threshold=0.6, side=SIDE)
    above = render_panels(image, values, pixel_threshold=0.61, side=SIDE)
    np.testing.assert_array_equal(above.contour, above.image)
    changed = (below.contour != below.image).any(axis=2)
    assert changed[16, 16:48].all()
    assert changed[16:48, 47].all()
    assert not changed[20:44, 20:44].any()
    assert not changed[:13].any()


def test_panels_show_image_and_mask_at_the_wanted_size(evaluation: Evaluation) -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    image[..., 0] = 200
    panels = render_panels(image, evaluation.maps[-1], 0.4, evaluation.masks[-1], side=100)
    assert panels.image[50, 50].tolist() == [200, 0, 0]
    assert panels.mask[:, :, 0].mean() / 255 == pytest.approx(evaluation.masks[-1].mean(), abs=0.01)


def test_good_image_has_a_black_mask() -> None:
    panels = render_panels(np.full((9, 9, 1), 50, np.uint8), np.zeros((SIDE, SIDE), np.float32), 0.5)
    assert not panels.mask.any()


def test_outcomes_in_words() -> None:
    words = [outcome(scored(kind, score)) for kind in ("good", "crack") for score in (0.1, 0.9)]
    assert words == ["passed", "FALSE ALARM", "MISSED", "detected"]


def test_sheet_holds_the_chosen_panels_and_marks_mistakes(evaluation: Evaluation, tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    write_sheet(evaluation, file, "parts.prn, openvino:int8")
    sheet = np.asarray(Image.open(file))
    np.testing.assert_array_equal(sheet, render_sheet(evaluation, "parts.prn, openvino:int8"))
    chosen = [image for images in choose(evaluation.images).values() for image in images]
    assert len(chosen) == 7
    is_wrong = (sheet == (196, 60, 0)).all(axis=2).sum()
    is_right = (sheet == (0, 102, 140)).all(axis=2).sum()
    # One false alarm and one missed crack are among them.
    assert is_wrong / (is_wrong + is_right) == pytest.approx(2 / 7, abs=0.03)


def test_sheet_with_a_colour_image_and_a_long_name(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / f"{'very_long_name' * 8}.png"
    write_image(path, np.full((40, 40, 3), (10, 200, 30), np.uint8))
    images = (*evaluation.images[:-1], ScoredImage(path, 1, "spot", 0.95, True, 0.95))
    changed = Evaluation(**{**vars(evaluation), "images": images})
    sheet = render_sheet(changed, "title")
    assert (sheet == (10, 200, 30)).all(axis=2).sum() > 10_000


def test_the_sheet_tells_detection_at_several_rates(evaluation: Evaluation) -> None:
    rates = (RateCounts(0.01, 0.8, False, 1, 4, 0, 3), RateCounts(0.05, 0.6, True, 3, 4, 1, 3))
    plain, rated = evaluation, dataclasses.replace(evaluation, rates=rates)
    assert sheet._rates_line(rates) == (
        "by false-alarm rate    1.0%*: 25% detected, 0.0% alarms    5.0%: 75% detected, 33.3% alarms    "
        "(* extrapolated)"
    )
    # One line more above the pictures.
    assert len(render_sheet(rated, "parts.prn")) - len(render_sheet(plain, "parts.prn")) == 21
