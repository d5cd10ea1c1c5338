"""Which files of a folder are images, and what is passed over.

Links are followed. Hidden folders and those of operating systems are not inspected. Anything else that cannot be read
as an image is passed over, and named with the reason.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prn_fast.errors import DataError
from prn_fast.paths import shown_path

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# Notes and settings beside the images: counted, but not named.
_ORDINARY_SUFFIXES = frozenset(
    (".txt", ".md", ".csv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".log", ".db", ".pdf", ".html")
)
_SYSTEM_FOLDERS = frozenset(("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_KINDS_OF_FILE = (
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "device"),
    (stat.S_ISCHR, "device"),
)
_MAX_NAMED = 10


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that could have been meant as an image or as a folder of images.

    Attributes:
        path: of the file.
        why: in the singular, such as "dangling link"; of a file of another kind its suffix, such as ".gif".
    """

    path: Path
    why: str

    @property
    def ordinary(self) -> bool:
        """Whether it is obviously no image."""
        return self.why in _ORDINARY_SUFFIXES or self.why == "hidden folder"


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        images: files whose name says that they are images, sorted by path; none of them has been opened.
        passed_over: the rest, sorted by path, without hidden files.
    """

    images: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...]


def find_images(folder: Path | str, *, below: bool = True) -> Listing:
    """Image files in a folder.

    Args:
        folder: to look into.
        below: also look into all folders below it, those behind links included; a folder that can be reached by
            several names is read once. Without, the folders in it are passed over.
    Raises:
        DataError: the folder is missing or cannot be read, or there is no image in it.
    """
    folder = existing_folder(folder)
    listing = list_folder(folder, below=below)
    if not listing.images:
        raise no_images_in(folder, listing.passed_over)
    return listing


def list_images(folder: Path | str) -> list[Path]:
    """Image files directly inside a folder, sorted by name.

    Raises:
        DataError: as for `find_images`.
    """
    return list(find_images(folder, below=False).images)


def list_folder(folder: Path, *, below: bool = True) -> Listing:
    """As `find_images`, for an existing folder; it may hold no image."""
    images: list[Path] = []
    passed_over: list[PassedOver] = []
    folders, links = [folder], list[Path]()
    known: set[tuple[int, int]] = set()
    # Links come last: what can be reached without them is listed under its own name.
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            status = current.stat()
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            if current == folder:
                raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
            passed_over.append(PassedOver(current, "unreadable folder"))
            continue
        if (status.st_dev, status.st_ino) in known:
            passed_over.append(PassedOver(current, "second name of a folder"))
            continue
        known.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = current / entry.name
            why = _reason(path, entry.is_symlink())
            if why == "folder" and below:
                (links if entry.is_symlink() else folders).append(path)
            elif why:
                passed_over.append(PassedOver(path, why))
            elif not is_hidden(path):
                images.append(path)
    return Listing(tuple(sorted(images)), tuple(sorted(passed_over, key=lambda one: one.path)))


def is_image(path: Path) -> bool:
    """Whether the name says that a file is an image; hidden files, FIFOs and devices are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path) and path.is_file()


def is_hidden(path: Path) -> bool:
    """Whether the last part of a path names a hidden file or folder, or a folder of an operating system."""
    return path.name.startswith(".") or path.name in _SYSTEM_FOLDERS


def existing_folder(folder: Path | str) -> Path:
    """The folder as a Path; a DataError where it is missing or is a file."""
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: folder not found; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder}: this is a file; give the folder that holds the images")
    return folder


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones; none where it is missing."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def no_images_in(folder: Path, passed_over: Sequence[PassedOver] = ()) -> DataError:
    """The error for a folder without images."""
    found = f" ({summary(passed_over, folder)})" if passed_over else ""
    return DataError(f"{folder}: no images in this folder{found}; put {', '.join(IMAGE_SUFFIXES)} files there")


def summary(passed_over: Sequence[PassedOver], root: Path) -> str:
    """One line for people: how many of each kind, and the names of those that are not ordinary, the first ten of them.

    Returns:
        such as "passed over: 2 .txt, 1 dangling link: left/3.png"; an empty text where nothing was passed over.
    """
    if not passed_over:
        return ""
    counts = Counter(one.why for one in passed_over)
    line = "passed over: " + ", ".join(f"{count} {_plural(why, count)}" for why, count in counts.most_common())
    names = list(dict.fromkeys(shown_path(one.path, root) for one in passed_over if not one.ordinary))
    if names:
        line += ": " + ", ".join(names[:_MAX_NAMED])
    if len(names) > _MAX_NAMED:
        line += f" and {len(names) - _MAX_NAMED} more"
    return line


def rows(passed_over: Sequence[PassedOver], root: Path) -> Iterator[dict[str, str]]:
    """All of it for a file of results: `path`, relative to `root`, and `why`."""
    return ({"path": shown_path(one.path, root), "why": one.why} for one in passed_over)


def _reason(path: Path, link: bool) -> str:
    """Why a path is passed over; "folder" for one to look into, and nothing for an image or a hidden file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        # Where what a link points to is missing, it has no mode; nor has a file that was removed meanwhile.
        if is_hidden(path):
            return ""
        return "dangling link" if link else "unreadable file"
    if stat.S_ISDIR(mode):
        return "hidden folder" if is_hidden(path) else "folder"
    if is_hidden(path):
        return ""
    for matches, kind in _KINDS_OF_FILE:
        if matches(mode):
            return kind
    return "" if path.suffix.lower() in IMAGE_SUFFIXES else path.suffix.lower() or "file without suffix"


def _plural(why: str, count: int) -> str:
    if count == 1 or why.startswith("."):
        return why
    head, of, rest = why.partition(" of ")
    head, without, end = head.partition(" without ")
    return f"{head}s{without}{end}{of}{rest}"
