"""Writes small sets in any layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prn_fast.data.images import write_image

Write = Callable[..., Path]
HEIGHT, WIDTH = 40, 48


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an image, or a mask: `marked` None is an image, True a mask with a defect, False an empty one."""
    rng = np.random.default_rng(0)

    def write(name: str, marked: bool | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(60, 120, (HEIGHT, WIDTH), np.uint8)
        if marked is not None:
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            values[10:20, 12:30] = 255 * marked
        write_image(path, values)
        return path

    return write
