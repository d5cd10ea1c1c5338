"""Paths as text: names that are not UTF-8 and names in other compositions of Unicode occur on every camera's disk."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

# In bytes, of one file's name: the limit of all common file systems.
LONGEST_NAME = 255


def shown_path(path: PurePath | str, root: PurePath | None = None) -> str:
    """The path with forward slashes, relative to `root` where it lies in it, as text that can be printed and encoded.

    Bytes of a name that are not UTF-8 are written as `\\xNN`.
    """
    path = PurePath(path)
    if root is not None and path.is_relative_to(root):
        path = path.relative_to(root)
    return path.as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def composed(name: str) -> str:
    """A name in composed Unicode (NFC): some file systems keep é as one character, some as e and an accent."""
    return unicodedata.normalize("NFC", name)


def find_spelling(path: Path) -> Path:
    """The path itself if it exists, else what lies there under the same name in another composition of Unicode.

    Returns:
        `path` too where there is neither.
    """
    if os.path.lexists(path) or path.name.isascii() or not path.parent.is_dir():
        return path
    same = [other for other in sorted(path.parent.iterdir()) if composed(other.name) == composed(path.name)]
    return same[0] if same else path


def natural_order(path: PurePath) -> tuple[list[str | int], str]:
    """Sort key of a file's name in which numbers count as such: frame 2 comes before frame 10."""
    pieces = re.split(r"(\d+)", path.name)
    # Text and numbers alternate, so each is compared with its kind; the name decides between equal numbers (2, 02).
    return [int(piece) if index % 2 else piece for index, piece in enumerate(pieces)], path.name


def derived_paths(paths: Sequence[PurePath], suffix: str) -> list[PurePath]:
    """Paths for files that are made from others: in the same folders, each named like its source with a suffix added.

    Where that name is too long or is taken (a.png beside a folder a.png.png), a digest of the source's name makes
    another.

    Args:
        paths: relative, each once.
        suffix: such as ".png".
    """
    taken = {folder for path in paths for folder in path.parents}
    derived: list[PurePath] = []
    for path in paths:
        one, tries = path.with_name(f"{path.name}{suffix}"), 0
        while one in taken or len(os.fsencode(one.name)) > LONGEST_NAME:
            name = os.fsencode(path.name)
            ending = f"-{hashlib.sha256(name + bytes(tries)).hexdigest()[:8]}{suffix}"
            one = path.with_name(name[: LONGEST_NAME - len(ending)].decode("utf-8", "ignore") + ending)
            tries += 1
        taken.add(one)
        derived.append(one)
    return derived
