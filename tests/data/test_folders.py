"""Plain folders of images."""

import pytest

from prn_fast.data.folders import find_images
from prn_fast.errors import DataError


def test_images_at_any_depth(tmp_path):
    for name in ("b.png", "a/z.jpg", "a/b/c.TIFF", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "a/b/c.TIFF",
        "a/z.jpg",
        "b.png",
    ]


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="folder not found"):
        find_images(tmp_path / "nowhere")


def test_folder_without_images(tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path)
