"""Plain folders of images, for prediction and for textures."""

from pathlib import Path

from prn_fast.data.images import existing_folder, is_image, no_images_in


def find_images(folder: Path | str) -> list[Path]:
    """Image files in a folder and in all folders below it, sorted by path.

    Raises:
        DataError: the folder is missing, or neither it nor the folders below hold an image.
    """
    folder = existing_folder(folder)
    images = sorted(path for path in folder.rglob("*") if is_image(path))
    if not images:
        raise no_images_in(folder)
    return images
