"""The side that images are resized to where nobody has said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prn_fast.data.samples import InspectionSet, Sample
from prn_fast.errors import ConfigError
from prn_fast.training.image_size import parse_size, propose_size


def images(folder: Path, side: int, defects: list[int]) -> tuple[InspectionSet, list[Sample]]:
    """A set of square images, and seen anomalies whose defects are squares of these sides."""
    for name in ("good", "seen", "mask"):
        (folder / name).mkdir(parents=True)
    pixels = np.zeros((side, side), np.uint8)
    train = []
    for number in range(3):
        Image.fromarray(pixels).save(path := folder / "good" / f"{number}.png")
        train.append(Sample(path, 0, "good"))
    seen = []
    for number, defect in enumerate(defects):
        mask = pixels.copy()
        mask[:defect, :defect] = 255
        Image.fromarray(pixels).save(path := folder / "seen" / f"{number}.png")
        Image.fromarray(mask).save(mask_path := folder / "mask" / f"{number}.png")
        seen.append(Sample(path, 1, "spot", mask_path))
    return InspectionSet(folder, tuple(train), tuple(seen)), seen


@pytest.mark.parametrize(
    ("side", "defects", "expected"),
    [
        pytest.param(1024, [200] * 4, 256, id="large defects"),
        # 44 pixels are 11 at 256 px, 121 in area; 16.5 at 384 px, 272. 32 are 16 at 512 px.
        pytest.param(1024, [44] * 4, 384, id="small defects"),
        pytest.param(1024, [32] * 4, 512, id="smaller defects"),
        pytest.param(1024, [5] * 4, 512, id="defects that no size makes large enough"),
        pytest.param(1024, [5, *[200] * 9], 256, id="one odd mask"),
        pytest.param(300, [5] * 4, 320, id="images that hold no more"),
        pytest.param(256, [3] * 4, 256, id="images of the smallest size"),
        pytest.param(100, [3] * 4, 256, id="images below it"),
        pytest.param(1024, [], 256, id="no defects seen"),
    ],
)
def test_small_defects_ask_for_a_larger_side(tmp_path: Path, side: int, defects: list[int], expected: int) -> None:
    proposed = propose_size(*images(tmp_path, side, defects))
    assert proposed.side == expected
    assert proposed.cost == pytest.approx((expected / 256) ** 2)
    text = str(proposed)
    assert f"image size {expected} px" in text
    assert f"shorter side is {side} px" in text
    assert ("no defects are seen" in text) == (not defects)
    assert text.endswith("; --image-size N sets another")
    assert ("times the work of 256 px" in text) == (expected > 256)


def test_what_is_said_names_the_area_that_defects_cover_and_should(tmp_path: Path) -> None:
    said = str(propose_size(*images(tmp_path, 1024, [32] * 4)))
    assert "a quarter of the seen defects cover 64 pixels or fewer at 256 px, and 256 are wanted" in said
    assert "at 512 px they are 256; 4.0 times the work of 256 px" in said


def test_only_a_number_or_auto_is_taken() -> None:
    assert (parse_size("auto"), parse_size("320")) == (None, 320)
    with pytest.raises(ConfigError, match="\"auto\", not 'large'"):
        parse_size("large")
