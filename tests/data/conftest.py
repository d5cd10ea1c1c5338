"""Small inspection sets on disk."""

from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image


@pytest.fixture
def mvtec_root(tmp_path: Path) -> Path:
    """Three training images, two good and 3 + 2 anomalous test images of 48x40 pixels, grey."""
    root = tmp_path / "set"
    rng = np.random.default_rng(0)

    def write(path: Path, marked: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(60, 120, (40, 48), np.uint8))
        if marked:
            mask = np.zeros((40, 48), bool)
            mask[10:20, 12:30] = True
            target = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_image(target, mask)

    for i in range(3):
        write(root / "train" / "good" / f"{i}.png")
    for i in range(2):
        write(root / "test" / "good" / f"{i}.png")
    for i in range(3):
        write(root / "test" / "crack" / f"{i}.png", marked=True)
    for i in range(2):
        write(root / "test" / "stain" / f"{i}.png", marked=True)
    return root
