"""The web before the fake camera: cast iron with dark spots and bars at known places, and a set to train on."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from prn_fast.data.images import write_image
from prn_fast.linescan.sources.synthetic import Planted, weave
from tests.linescan.webs import near

MATERIAL = "cast_iron"
SIDE = 256
# Apart by more than what the map may smear and the tracker may join.
APART = 60
BAR = 5
# Webs to train on are drawn from other seeds than webs to inspect.
FIRST_TRAINING_SEED = 1000


def draw_web(
    width: int, lines: int, spots: int, bars: int, seed: int
) -> tuple[NDArray[np.uint8], list[Planted], NDArray[np.bool_]]:
    """(lines, width) pixels that play round and round, what was planted, and its mask."""
    strip, _ = weave(width, lines, material=MATERIAL, defects=0, seed=seed)
    pixels = np.ascontiguousarray(strip[:, :, 0])
    mask = np.zeros(pixels.shape, np.uint8)
    rng = np.random.default_rng(seed)
    planted: list[Planted] = []
    while len(planted) < spots + bars:
        if len(planted) < bars:
            long = int(rng.integers(SIDE // 2, SIDE))
            height, across = (long, BAR) if rng.random() < 0.5 else (BAR, long)
        else:
            height = across = 2 * int(rng.integers(6, 16)) + 1
        one = Planted(
            "spot" if height == across else "bar",
            int(rng.integers(APART, lines - height - APART)),
            int(rng.integers(APART, width - across - APART)),
            height,
            across,
        )
        if any(near(one, other, APART) for other in planted):
            continue
        planted.append(one)
        box = np.s_[one.first_line : one.first_line + height, one.left : one.left + across]
        if one.kind == "bar":
            mask[box] = 1
        else:
            cv2.circle(mask[box], (across // 2, across // 2), across // 2, 1, -1)
    defective = mask.astype(bool)
    pixels[defective] = (0.3 * pixels[defective]).astype(np.uint8)
    return pixels, planted, defective


def write_training_set(root: Path, normals: int = 320, anomalous: int = 40) -> None:
    """Tiles of such webs, laid out as MVTec AD: `normals` to train on, `anomalous` and as many normal ones to test."""
    for part in ("train/good", "test/good", "test/dark", "ground_truth/dark"):
        (root / part).mkdir(parents=True)
    drawings = 0

    def draw(spots: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """A tile anywhere in a web of its own."""
        nonlocal drawings
        seed = FIRST_TRAINING_SEED + drawings
        drawings += 1
        pixels, _, mask = draw_web(2 * SIDE, 2 * SIDE, spots, spots // 2, seed)
        rng = np.random.default_rng(seed)
        while True:
            top, left = rng.integers(0, SIDE + 1, 2)
            here = np.s_[top : top + SIDE, left : left + SIDE]
            if bool(spots) == (mask[here].sum() >= 100):
                return pixels[here], mask[here]

    for part, count in (("train", normals), ("test", anomalous)):
        for number in range(count):
            write_image(root / part / "good" / f"{number:03d}.png", draw(0)[0])
    for number in range(anomalous):
        pixels, mask = draw(4)
        write_image(root / "test" / "dark" / f"{number:03d}.png", pixels)
        write_image(root / "ground_truth" / "dark" / f"{number:03d}_mask.png", mask)
