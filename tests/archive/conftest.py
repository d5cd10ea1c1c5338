"""An archive of a few small images, three of which cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image
from tests.small_package import textured_images, write_package

BROKEN = {"day0/empty.png": b"", "day1/torn.png": b"\x89PNG\r\n\x1a\n torn", "day2/text.jpg": b"no picture"}


@pytest.fixture(scope="session")
def archive_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so do not change it."""
    root = tmp_path_factory.mktemp("archive") / "images"
    for number, image in enumerate(textured_images(18, 1, seed=5, side=96)):
        path = root / f"day{number % 3}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image[: 96 - 8 * (number % 4)])
    for name, content in BROKEN.items():
        (root / name).write_bytes(content)
    (root / "notes.txt").write_text("notes")
    # A second page, which is not scored.
    pages = [np.full((80, 70), level, np.uint8) for level in (90, 200)]
    from PIL import Image

    first, second = (Image.fromarray(page) for page in pages)
    first.save(root / "day0" / "two.tif", save_all=True, append_images=[second])
    return root


@pytest.fixture(scope="session")
def screened_package_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose screen lets about half of the images go, for the engine "optimized"; do not change it."""
    return write_package(tmp_path_factory.mktemp("screened") / "screened.prn", screen=True).path
